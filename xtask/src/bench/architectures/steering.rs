//! Each core's packets to that core's socket: `SO_ATTACH_REUSEPORT_CBPF` (socket(7)).

use std::{io, os::fd::AsRawFd as _};

use anyhow::ensure;
use socket2::Socket;

/// Has the kernel choose among sockets of one port, in the order in which they were bound, by the core that a packet
/// is handled on.
pub(super) fn by_cpu(sockets: &[Socket]) -> anyhow::Result<()> {
    let Some(socket) = sockets.first() else {
        return Ok(());
    };
    let instruction = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut program = [
        instruction(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            (libc::SKF_AD_OFF + libc::SKF_AD_CPU).cast_unsigned(),
        ),
        instruction(
            libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K,
            u32::try_from(sockets.len())?,
        ),
        // BPF_A: what was calculated.
        instruction(libc::BPF_RET | 0x10, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the option's value is a program of the length given; both live until the call returns, which copies them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    ensure!(
        result == 0,
        "cannot steer packets by core: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip_forwarder_tests::flood::pin_thread;
    use socket2::{Domain, Protocol, Type};
    use std::{net::UdpSocket, thread, time::Duration};

    #[test]
    fn a_packet_goes_to_the_socket_of_the_core_that_sent_it() {
        let cores = thread::available_parallelism().unwrap().get();
        let mut address = "127.0.0.1:0".parse().unwrap();
        let sockets: Vec<Socket> = (0..cores)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
                socket.set_reuse_port(true).unwrap();
                socket.bind(&address_of(address)).unwrap();
                address = socket.local_addr().unwrap().as_socket().unwrap();
                socket
            })
            .collect();
        by_cpu(&sockets).unwrap();
        for (core, socket) in sockets.into_iter().enumerate() {
            let socket = UdpSocket::from(socket);
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            // On the loopback the sender's core handles the packet.
            thread::spawn(move || {
                if pin_thread(0, core).is_ok() {
                    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
                    sender.send_to(b"x", address).unwrap();
                }
            })
            .join()
            .unwrap();
            assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 1, "core {core}");
        }
    }

    fn address_of(address: std::net::SocketAddr) -> socket2::SockAddr {
        address.into()
    }
}
