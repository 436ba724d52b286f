//! The way to one forwarder: socket and session.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{net::UdpSocket, sync::watch};

use super::config::Forwarder;
use crate::heartbeat::{Announcer, State, wire::LONGEST};

/// What is reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct News {
    pub(super) cpu: Option<f64>,
    pub(super) state: State,
}

/// Sends each piece of news to one forwarder, until no more come, and heeds its challenges.
pub(super) async fn link(to: Forwarder, announcer: Announcer, mut news: watch::Receiver<News>) {
    let mut link = Link {
        to,
        announcer,
        socket: None,
        fault_told: false,
    };
    loop {
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = link.challenged() => {}
        }
        let latest = *news.borrow_and_update();
        link.report(latest).await;
    }
}

struct Link {
    to: Forwarder,
    announcer: Announcer,
    socket: Option<UdpSocket>,
    fault_told: bool,
}

impl Link {
    /// Sends one heartbeat. What fails is made good by the next.
    async fn report(&mut self, news: News) {
        let heartbeat = self.announcer.heartbeat(news.cpu, news.state);
        if self.socket.is_none() {
            match open(self.to.address) {
                Ok(socket) => self.socket = Some(socket),
                Err(error) => return self.fault(&error),
            }
        }
        let Some(socket) = &self.socket else { return };
        match socket.send(&heartbeat).await {
            Ok(_) => self.fault_told = false,
            Err(error) => self.fault(&error),
        }
    }

    /// Waits for a challenge.
    async fn challenged(&mut self) {
        let mut room = [0; LONGEST + 1];
        loop {
            let Some(socket) = &self.socket else {
                return std::future::pending().await;
            };
            match socket.recv(&mut room).await {
                Ok(length) => {
                    if self.announcer.heed(&room[..length]).is_ok() {
                        return;
                    }
                }
                Err(error) => self.fault(&error),
            }
        }
    }

    /// A forwarder that is not there now (an ICMP error says so) may come. After any other fault the
    /// socket is opened anew: this host's address may have changed.
    fn fault(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            return;
        }
        self.socket = None;
        if !std::mem::replace(&mut self.fault_told, true) {
            let Forwarder { name, address } = &self.to;
            tracing::warn!(%name, %address, %error, "cannot report to a forwarder; still trying");
        }
    }
}

/// A socket that takes datagrams of this address only.
fn open(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
