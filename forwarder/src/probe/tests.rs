//! Real sockets on loopback. Every test ends at a condition; where silence is the condition, the
//! time that an ask is given is short.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    sync::mpsc::{self, Receiver},
    time::timeout,
};

use super::{Answer, Faults, Probed, Prober, Question, Subject, Way, conversation};

/// Far more than loopback needs.
const LONG: Duration = Duration::from_secs(20);
/// For asks that nobody answers.
const SHORT: Duration = Duration::from_millis(60);

/// A backend that does what the test says.
struct Backend(UdpSocket);

struct Asked {
    text: String,
    from: SocketAddr,
}

impl Backend {
    async fn at(address: &str) -> Self {
        Self(UdpSocket::bind(address).await.unwrap())
    }

    async fn new() -> Self {
        Self::at("127.0.0.1:0").await
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    async fn asked(&self) -> Asked {
        let mut datagram = [0; 2_048];
        let (length, from) = timeout(LONG, self.0.recv_from(&mut datagram))
            .await
            .expect("an OPTIONS in time")
            .unwrap();
        let text = String::from_utf8(datagram[..length].to_vec()).unwrap();
        Asked { text, from }
    }

    async fn send(&self, bytes: &[u8], to: SocketAddr) {
        self.0.send_to(bytes, to).await.unwrap();
    }

    /// Answers as RFC 3261 section 8.2.6 has it.
    async fn answer(&self, asked: &Asked, status: &str) {
        let repeated: Vec<&str> = asked
            .text
            .lines()
            .filter(|line| {
                ["Via:", "From:", "To:", "Call-ID:", "CSeq:"]
                    .iter()
                    .any(|name| line.starts_with(name))
            })
            .collect();
        let text = format!("SIP/2.0 {status}\r\n{}\r\n\r\n", repeated.join("\r\n"));
        self.send(text.as_bytes(), asked.from).await;
    }
}

fn prober() -> (Prober, Receiver<Probed>) {
    let (results, outcomes) = mpsc::channel(8);
    (Prober::new(results), outcomes)
}

fn ask(prober: &mut Prober, address: SocketAddr, timeout: Duration) {
    let subject = Subject {
        service: "s".to_owned(),
        backend: "b".to_owned(),
        question: Question::Life,
    };
    prober.ask(&subject, address, &Way::Udp, timeout);
}

async fn outcome(outcomes: &mut Receiver<Probed>) -> Answer {
    let probed = timeout(LONG, outcomes.recv()).await.unwrap().unwrap();
    assert_eq!((&*probed.service, &*probed.backend), ("s", "b"));
    probed.answer
}

/// What an ask brings that is answered by `status` (and more headers).
async fn answered(backend: &Backend, status: &str) -> Answer {
    let (mut prober, mut outcomes) = prober();
    ask(&mut prober, backend.address(), LONG);
    backend.answer(&backend.asked().await, status).await;
    let answer = outcome(&mut outcomes).await;
    drop(prober);
    assert_eq!(outcomes.recv().await, None, "exactly one outcome");
    answer
}

#[tokio::test]
async fn whoever_answers_lives() {
    let backend = Backend::new().await;
    for status in ["200 OK", "404 Not Found", "100 Trying", "500 Broken"] {
        assert_eq!(answered(&backend, status).await, Answer::Ok, "{status}");
    }
}

#[tokio::test]
async fn who_says_503_is_full() {
    let backend = Backend::new().await;
    let retry_after = None;
    assert_eq!(
        answered(&backend, "503 Service Unavailable").await,
        Answer::Full { retry_after }
    );
    let retry_after = Some(Duration::from_secs(12));
    assert_eq!(
        answered(&backend, "503 Full\r\nRetry-After: 12 (busy);duration=9").await,
        Answer::Full { retry_after }
    );
}

#[tokio::test]
async fn silence_is_told_after_two_questions() {
    let backend = Backend::new().await;
    let (mut prober, mut outcomes) = prober();
    ask(&mut prober, backend.address(), SHORT);
    let first = backend.asked().await;
    let second = backend.asked().await;
    assert_eq!(first.text, second.text, "a retransmission");
    assert_eq!(outcome(&mut outcomes).await, Answer::Silent);
}

#[tokio::test]
async fn one_lost_datagram_is_no_failure() {
    let backend = Backend::new().await;
    let (mut prober, mut outcomes) = prober();
    // The second question comes after half of this.
    ask(&mut prober, backend.address(), Duration::from_secs(1));
    backend.asked().await;
    backend.answer(&backend.asked().await, "200 OK").await;
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
}

#[tokio::test]
async fn a_closed_port_is_told_by_icmp() {
    let gone = Backend::new().await.address();
    let (mut prober, mut outcomes) = prober();
    // If ICMP were not heard, this would be `Silent`.
    for _ in 0..2 {
        ask(&mut prober, gone, LONG);
        assert_eq!(outcome(&mut outcomes).await, Answer::Unreachable);
    }
}

#[tokio::test]
async fn a_backend_that_comes_back_is_heard() {
    let backend = Backend::new().await;
    let address = backend.address();
    drop(backend);
    let (mut prober, mut outcomes) = prober();
    ask(&mut prober, address, LONG);
    assert_eq!(outcome(&mut outcomes).await, Answer::Unreachable);
    let backend = Backend::at(&address.to_string()).await;
    ask(&mut prober, address, LONG);
    backend.answer(&backend.asked().await, "200 OK").await;
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
}

#[tokio::test]
async fn a_fault_on_this_side_is_no_answer() {
    let (mut prober, mut outcomes) = prober();
    // A socket that did not ask for it may not be connected to the broadcast address.
    let nowhere = "255.255.255.255:5060".parse().unwrap();
    for _ in 0..2 {
        ask(&mut prober, nowhere, LONG);
        assert_eq!(outcome(&mut outcomes).await, Answer::NotAsked);
    }
}

#[tokio::test]
async fn garbage_and_strangers_are_ignored() {
    let (backend, stranger) = (Backend::new().await, Backend::new().await);
    let (mut prober, mut outcomes) = prober();
    ask(&mut prober, backend.address(), LONG);
    let asked = backend.asked().await;
    stranger.answer(&asked, "503 From Elsewhere").await;
    for garbage in [
        &b""[..],
        b"\r\n\r\n",
        b"\x00\xff",
        b"SIP/2.0 200 OK\r\n",
        &[b'x'; 5_000],
    ] {
        backend.send(garbage, asked.from).await;
    }
    backend.send(asked.text.as_bytes(), asked.from).await;
    backend.answer(&asked, "200 OK").await;
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
}

#[tokio::test]
async fn an_ask_under_way_goes_on() {
    let backend = Backend::new().await;
    let (mut prober, mut outcomes) = prober();
    let timeout = Duration::from_millis(200);
    ask(&mut prober, backend.address(), timeout);
    let old = backend.asked().await;
    // Whoever asks all the time hears of the silence all the same, and in time.
    let start = Instant::now();
    let answer = loop {
        ask(&mut prober, backend.address(), timeout);
        let next = tokio::time::timeout(Duration::from_millis(10), outcomes.recv());
        if let Ok(probed) = next.await {
            break probed.unwrap().answer;
        }
        assert!(start.elapsed() < LONG);
    };
    assert_eq!(answer, Answer::Silent);
    let repeated = backend.asked().await;
    assert_eq!(old.text, repeated.text, "the repetition, and no other ask");
    ask(&mut prober, backend.address(), LONG);
    ask(&mut prober, backend.address(), LONG);
    let new = backend.asked().await;
    assert_ne!(old.text, new.text);
    backend.answer(&new, "200 OK").await;
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
    drop(prober);
    assert_eq!(outcomes.recv().await, None, "one outcome for each ask");
}

#[test]
fn the_networks_word_and_our_own_faults_are_told_apart() {
    let faults = Faults::default();
    let address = "192.0.2.1:5060".parse().unwrap();
    let answer = |code| {
        let error = io::Error::from_raw_os_error(code);
        faults.answer(address, &error, conversation::says_unreachable(&error))
    };
    for code in [libc::ECONNREFUSED, libc::EHOSTUNREACH] {
        assert_eq!(answer(code), Answer::Unreachable, "{code}");
    }
    assert!(faults.told.lock().unwrap().is_none());
    for code in [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EADDRNOTAVAIL,
        libc::ENETUNREACH,
        libc::ENETDOWN,
        libc::EACCES,
        libc::EPERM,
    ] {
        assert_eq!(answer(code), Answer::NotAsked, "{code}");
    }
    let told = faults.told.lock().unwrap().unwrap();
    assert!(!faults.may_tell(told + Duration::from_secs(59)));
    assert!(faults.may_tell(told + Duration::from_mins(1)));
}

#[tokio::test]
async fn a_new_address_is_asked_at_once() {
    let (old, new) = (Backend::new().await, Backend::new().await);
    let (mut prober, mut outcomes) = prober();
    ask(&mut prober, old.address(), LONG);
    old.asked().await;
    ask(&mut prober, new.address(), LONG);
    new.answer(&new.asked().await, "200 OK").await;
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
}

#[tokio::test]
async fn who_is_forgotten_is_not_told_of() {
    let backend = Backend::new().await;
    let (mut prober, mut outcomes) = prober();
    ask(&mut prober, backend.address(), LONG);
    backend.asked().await;
    prober.forget("s", "b");
    prober.forget("s", "never known");
    drop(prober);
    assert_eq!(outcomes.recv().await, None);
}

#[tokio::test]
async fn ipv6_works_alike() {
    let backend = Backend::at("[::1]:0").await;
    let (mut prober, mut outcomes) = prober();
    ask(&mut prober, backend.address(), LONG);
    let asked = backend.asked().await;
    let via = format!("\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK", asked.from);
    assert!(asked.text.contains(&via), "{}", asked.text);
    backend.answer(&asked, "200 OK").await;
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
}
