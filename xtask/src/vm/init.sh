#!/bin/busybox sh
# The first process of the virtual machine: runs the tests named in /tests, one process each, and tells the results on
# the second serial port, one JSON object a line.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# Nothing over /tmp: the root is in memory anyway, and the workspace may lie there.
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# The daemon's name is the host's.
hostname vm
echo 1 >/proc/sys/net/core/bpf_jit_enable
# An emulated processor may leave a socket unread for a while, and what SIPp misses it counts as failed.
echo 16777216 >/proc/sys/net/core/rmem_max
echo 4194304 >/proc/sys/net/core/rmem_default
echo 10000 >/proc/sys/net/core/netdev_max_backlog
# Namespaces need no tunnel of their own.
echo 2 >/proc/sys/net/core/fb_tunnels_only_for_init_net
for module in /modules/*; do
    insmod "$module" || echo "init: cannot insert $module"
done
ip link set lo up
. /settings
cd /root

results=/dev/ttyS1
stty -F $results raw
drivers=$(for link in /sys/class/net/*/device/driver; do
    [ -e "$link" ] && basename "$(readlink "$link")"
done)
[ -d /sys/module/veth ] && drivers="$drivers veth"
list=$(for driver in $drivers; do echo "\"$driver\""; done | sort -u | paste -sd, -)
echo "{\"type\":\"machine\",\"kernel\":\"$(uname -r)\",\"drivers\":[$list]}" >$results
while read -r test; do
    echo "init: $test"
    timeout -k 5 "$LIMIT" "$PROGRAM" --exact "$test" --format json </dev/null >/tmp/results
    status=$?
    grep '^{' /tmp/results >$results
    # 0 and 101 are the test program's own.
    case $status in
        0 | 101) ;;
        *) echo "{\"type\":\"lost\",\"name\":\"$test\",\"status\":$status}" >$results ;;
    esac
done </tests
echo "{\"type\":\"end\"}" >$results
sync
poweroff -f
