//! Asking the proxy itself, by OPTIONS. Any answer will do: who refuses, lives.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rsip::headers::{
    CSeq, CallId, ContentLength, From, Header, MaxForwards, To, UntypedHeader, Via,
};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use super::config::Probe;

/// Longer answers are cut; what is looked for stands in front.
const LONGEST: usize = 4_096;

/// Tells when the proxy becomes unwell (true) and when it answers again (false), until nobody listens.
pub(super) async fn probe(config: Probe, changes: mpsc::Sender<bool>) {
    let mut failures: u32 = 0;
    loop {
        let start = Instant::now();
        let unwell = failures >= config.down;
        match ask(&config, start + config.timeout).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures = failures.saturating_add(1);
                if failures == config.down {
                    let address = config.address;
                    tracing::warn!(%address, %error, failures, "the proxy does not answer OPTIONS");
                }
            }
        }
        if unwell != (failures >= config.down) {
            if unwell {
                tracing::info!(address = %config.address, "the proxy answers again");
            }
            if changes.send(!unwell).await.is_err() {
                return;
            }
        }
        sleep_until(start + config.interval).await;
    }
}

/// Asks once. A socket of its own for each question: no late answer is taken for a new one.
async fn ask(config: &Probe, end: Instant) -> io::Result<()> {
    let any = match config.address {
        SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(config.address).await?;
    let id = getrandom::u64().map_err(io::Error::other)?;
    socket
        .send(&options(config.address, socket.local_addr()?, id))
        .await?;
    let mut room = vec![0; LONGEST];
    let answered = async {
        loop {
            let length = socket.recv(&mut room).await?;
            if answers(&room[..length], id) {
                return Ok(());
            }
        }
    };
    timeout_at(end, answered)
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// The question (RFC 3261 section 11.1).
fn options(to: SocketAddr, from: SocketAddr, id: u64) -> Vec<u8> {
    let headers: Vec<Header> = vec![
        Header::Via(Via::new(format!(
            "SIP/2.0/UDP {from};branch={};rport",
            branch(id)
        ))),
        Header::MaxForwards(MaxForwards::new("1")),
        Header::From(From::new(format!("<sip:agent@{from}>;tag={id:016x}"))),
        Header::To(To::new(format!("<sip:{to}>"))),
        Header::CallId(CallId::new(format!("{id:016x}@{}", from.ip()))),
        Header::CSeq(CSeq::new("1 OPTIONS")),
        Header::ContentLength(ContentLength::new("0")),
    ];
    rsip::Request {
        method: rsip::Method::Options,
        uri: rsip::Uri {
            scheme: Some(rsip::Scheme::Sip),
            host_with_port: rsip::HostWithPort {
                host: host(to),
                port: Some(to.port().into()),
            },
            ..Default::default()
        },
        version: rsip::Version::V2,
        headers: headers.into(),
        body: Vec::new(),
    }
    .into()
}

/// rsip would write an IPv6 address without its brackets.
fn host(to: SocketAddr) -> rsip::Host {
    match to {
        SocketAddr::V4(to) => rsip::Host::IpAddr((*to.ip()).into()),
        SocketAddr::V6(to) => rsip::Host::Domain(format!("[{}]", to.ip()).into()),
    }
}

/// `z9hG4bK` is what RFC 3261 section 8.1.1.7 has every branch begin with.
fn branch(id: u64) -> String {
    format!("z9hG4bK{id:016x}")
}

/// Is this a response to the question? Whatever its code, and however its headers are written.
fn answers(datagram: &[u8], id: u64) -> bool {
    let branch = branch(id);
    datagram.starts_with(b"SIP/2.0 ")
        && datagram
            .windows(branch.len())
            .any(|window| window == branch.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sip::headers::{Name, Sip};

    #[test]
    fn the_question_is_a_request_that_every_proxy_must_answer() {
        for (to, uri) in [
            ("127.0.0.1:5060", "OPTIONS sip:127.0.0.1:5060 SIP/2.0"),
            ("[::1]:5070", "OPTIONS sip:[::1]:5070 SIP/2.0"),
        ] {
            let to: SocketAddr = to.parse().unwrap();
            let text = String::from_utf8(options(to, to, 7)).unwrap();
            assert_eq!(text.lines().next(), Some(uri));
            assert!(text.ends_with("\r\n\r\n"), "{text}");
            let sip = Sip::cut(text.as_bytes()).unwrap();
            for wanted in [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq] {
                assert_eq!(sip.headers().filter(|h| h.name == wanted).count(), 1);
            }
        }
    }

    #[tokio::test]
    async fn silence_makes_unwell_and_any_answer_well() {
        let proxy = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let config = Probe {
            address: proxy.local_addr().unwrap(),
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(100),
            down: 2,
        };
        let (sender, mut changes) = mpsc::channel(4);
        let task = tokio::spawn(probe(config, sender));
        assert_eq!(changes.recv().await, Some(true));
        let mut room = [0; 2_048];
        let answer = async {
            loop {
                let (length, from) = proxy.recv_from(&mut room).await.unwrap();
                let text = String::from_utf8_lossy(&room[..length]).into_owned();
                let (_, headers) = text.split_once("\r\n").unwrap();
                let answer = format!("SIP/2.0 404 Not Found\r\n{headers}");
                proxy.send_to(answer.as_bytes(), from).await.unwrap();
            }
        };
        tokio::select! {
            change = changes.recv() => assert_eq!(change, Some(false)),
            () = answer => {}
        }
        task.abort();
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_none() {
        assert!(answers(
            b"SIP/2.0 503 No\r\nv:SIP/2.0/UDP a;branch=z9hG4bK0000000000000007",
            7
        ));
        assert!(!answers(
            b"SIP/2.0 200 OK\r\nv:SIP/2.0/UDP a;branch=z9hG4bK0000000000000008",
            7
        ));
        assert!(!answers(b"OPTIONS z9hG4bK0000000000000007", 7));
    }
}
