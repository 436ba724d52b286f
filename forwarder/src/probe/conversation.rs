//! One question in a datagram, and what comes back.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};
use tracing::debug;

use super::{Answer, message::Options};
use crate::sip::transport::Transport;

/// Longest datagram that is read; a response to OPTIONS is far shorter.
const DATAGRAM: usize = 4_096;

/// A socket towards one backend. It is connected, so that it hears the backend alone, and so that
/// the kernel tells it of ICMP errors.
#[derive(Debug)]
pub(super) struct Line {
    socket: UdpSocket,
    /// Did it fail to reach the backend? Another one may have a better source address, if routes or
    /// addresses have changed.
    worn: AtomicBool,
}

impl Line {
    /// Opens a socket; needs a tokio runtime.
    pub(super) fn open(backend: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = if backend.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = StdUdpSocket::bind(any)?;
        socket.connect(backend)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            worn: AtomicBool::new(false),
        })
    }

    /// Should the next ask have another one?
    pub(super) fn is_worn(&self) -> bool {
        self.worn.load(Ordering::Relaxed)
    }

    /// Asks once. An error says that the backend cannot be reached, or that nothing was asked.
    pub(super) async fn converse(&self, timeout: Duration) -> io::Result<Answer> {
        let answer = self.ask(timeout).await;
        if matches!(answer, Ok(Answer::Silent) | Err(_)) {
            self.worn.store(true, Ordering::Relaxed);
        }
        answer
    }

    async fn ask(&self, timeout: Duration) -> io::Result<Answer> {
        let start = Instant::now();
        let options = Options::new(
            Transport::Udp,
            self.socket.local_addr()?,
            self.socket.peer_addr()?,
        );
        // An error that an older ask brought about says nothing about this one.
        self.socket.take_error()?;
        let mut fault = None;
        let mut was_sent = false;
        for deadline in [start + timeout / 2, start + timeout] {
            match self.socket.send(options.bytes()).await {
                Ok(_) => was_sent = true,
                Err(error) if says_unreachable(&error) => return Err(error),
                // A fault on this side, such as full buffers: it may be over in a moment.
                Err(error) => fault = Some(error),
            }
            if let Ok(answer) = timeout_at(deadline, self.listen(&options)).await {
                return answer;
            }
        }
        match fault {
            Some(fault) if !was_sent => Err(fault),
            _ => Ok(Answer::Silent),
        }
    }

    /// Waits for the answer to `options`; whatever else arrives is ignored.
    async fn listen(&self, options: &Options) -> io::Result<Answer> {
        let mut datagram = vec![0; DATAGRAM];
        loop {
            match self.socket.recv(&mut datagram).await {
                Ok(length) => {
                    if let Some(answer) = options.answer_in(&datagram[..length]) {
                        return Ok(answer);
                    }
                }
                Err(error) if says_unreachable(&error) => return Err(error),
                Err(error) => {
                    debug!(%error, "cannot receive the answer to OPTIONS");
                    // If it lasts, asking at once for more would be a busy loop.
                    return std::future::pending().await;
                }
            }
        }
    }
}

/// Is this what ICMP says of the backend? A lack of routes, sockets or permissions is on this side.
pub(super) fn says_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable
    )
}
