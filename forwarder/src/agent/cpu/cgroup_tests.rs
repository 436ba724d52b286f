//! v2 over made-up folders; v1 over made-up ones, and for real where this machine has it.

use super::*;

fn write(folder: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
}

fn near(left: Option<f64>, right: f64) {
    assert!(
        left.is_some_and(|left| (left - right).abs() < 1e-9),
        "{left:?}, not {right}"
    );
}

#[test]
fn v2_is_measured_against_its_quota() {
    let folder = tempfile::tempdir().unwrap();
    let used = |used| format!("usage_usec {used}\nuser_usec 1\nsystem_usec 1\n");
    write(
        folder.path(),
        &[
            ("cpu.stat", &used(1_000_000)),
            ("cpu.max", "50000 100000\n"),
        ],
    );
    let mut meter = CgroupMeter::new(Cgroup::at(folder.path()));
    let start = Instant::now();
    assert_eq!(meter.measure(start).unwrap(), None);
    write(folder.path(), &[("cpu.stat", &used(1_040_000))]);
    near(
        meter.measure(start + Duration::from_millis(100)).unwrap(),
        0.8,
    );
    write(folder.path(), &[("cpu.stat", &used(2_000_000))]);
    near(
        meter.measure(start + Duration::from_millis(200)).unwrap(),
        1.0,
    );
    // Without a limit the whole machine counts.
    write(
        folder.path(),
        &[("cpu.stat", &used(2_050_000)), ("cpu.max", "max 100000\n")],
    );
    near(
        meter.measure(start + Duration::from_millis(300)).unwrap(),
        0.5 / cpus(),
    );
}

#[test]
fn damaged_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut meter = CgroupMeter::new(Cgroup::at(folder.path()));
    let fault = meter.measure(Instant::now()).unwrap_err().to_string();
    assert!(fault.contains("cpu.stat"), "{fault}");
    write(
        folder.path(),
        &[("cpu.stat", "usage_usec 1\n"), ("cpu.max", "0 0\n")],
    );
    let fault = meter.measure(Instant::now()).unwrap_err().to_string();
    assert!(fault.contains("cpu.max"), "{fault}");
}

#[test]
fn the_limit_may_be_further_up() {
    let root = tempfile::tempdir().unwrap();
    let slice = root.path().join("a.slice");
    let unit = slice.join("k.service");
    write(&unit, &[("cpu.max", "max 100000\n")]);
    write(&slice, &[("cpu.max", "150000 100000\n")]);
    let mounts = format!(
        "30 20 0:26 / {} rw - cgroup2 cgroup2 rw\n",
        root.path().display()
    );
    let found = Cgroup::find("0::/a.slice/k.service\n", &mounts).unwrap();
    let Cgroup::V2(place) = &found else {
        panic!("{found:?}");
    };
    assert_eq!(place.folder, unit);
    let limiting = found.clone().limiting().unwrap();
    assert_eq!(limiting.limit().unwrap(), Some(1.5));
    assert!(limiting.to_string().ends_with("a.slice"), "{limiting}");
    write(&slice, &[("cpu.max", "max 100000\n")]);
    assert_eq!(found.limiting(), None);
}

#[test]
fn v1_controllers_may_be_mounted_apart_or_together() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    write(
        &at("cpu/k"),
        &[
            ("cpu.cfs_quota_us", "200000\n"),
            ("cpu.cfs_period_us", "100000\n"),
        ],
    );
    write(&at("cpuacct/k"), &[("cpuacct.usage", "5000000000\n")]);
    let base = root.path().display();
    let mounts = format!(
        "31 20 0:27 / {base}/unified rw - cgroup2 cgroup2 rw\n\
         32 20 0:28 / {base}/cpu rw shared:7 - cgroup cgroup rw,cpu\n\
         33 20 0:29 / {base}/cpuacct rw - cgroup cgroup rw,cpuacct\n"
    );
    let found = Cgroup::find("2:cpuacct:/k\n1:cpu:/k\n0::/\n", &mounts).unwrap();
    assert_eq!(found.limit().unwrap(), Some(2.0));
    assert_eq!(found.usage().unwrap(), Duration::from_secs(5));
    assert_eq!(found.clone().limiting(), Some(found));

    let mounts =
        "32 20 0:28 /docker/7 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n";
    let found = Cgroup::find("3:cpu,cpuacct:/docker/7\n", mounts).unwrap();
    let Cgroup::V1 { cpu, cpuacct } = &found else {
        panic!("{found:?}");
    };
    assert_eq!(cpu, cpuacct);
    assert_eq!(cpu.folder, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
}

#[test]
fn this_machines_own_cgroup_is_measured_if_it_has_one() {
    let Some(cgroup) = Cgroup::of_process(None).unwrap() else {
        eprintln!("skipped: no cgroup hierarchy here counts CPU");
        return;
    };
    let mut meter = CgroupMeter::new(cgroup);
    assert_eq!(meter.measure(Instant::now()).unwrap(), None);
    let end = Instant::now() + Duration::from_millis(100);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    let share = meter.measure(Instant::now()).unwrap().unwrap();
    assert!(share > 0.3 / cpus() && share <= 1.0, "{share}");
}
