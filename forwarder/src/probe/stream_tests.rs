//! Connections on loopback, as in [`super::tests`].

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, Receiver},
    time::timeout,
};

use super::{Answer, Probed, Prober, Question, Subject, Way};
use crate::{
    config::{self, Certificate, ClientCertificates},
    stream::tls::{ClientTls, ServerTls},
};

/// Far more than loopback needs.
const LONG: Duration = Duration::from_secs(20);
/// For asks that nobody answers.
const SHORT: Duration = Duration::from_millis(100);

fn subject() -> Subject {
    Subject {
        service: "s".to_owned(),
        backend: "b".to_owned(),
        question: Question::Transport,
    }
}

fn prober() -> (Prober, Receiver<Probed>) {
    let (results, outcomes) = mpsc::channel(8);
    (Prober::new(results), outcomes)
}

async fn outcome(outcomes: &mut Receiver<Probed>) -> Answer {
    let probed = timeout(LONG, outcomes.recv()).await.unwrap().unwrap();
    assert_eq!(probed.question, Question::Transport);
    probed.answer
}

async fn backend() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    timeout(LONG, listener.accept()).await.unwrap().unwrap().0
}

/// The next request, whole.
async fn asked(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let byte = timeout(LONG, stream.read_u8()).await.unwrap().unwrap();
        text.push(byte);
    }
    String::from_utf8(text).unwrap()
}

/// A response as RFC 3261 section 8.2.6 has it.
fn response(request: &str, status: &str) -> String {
    let repeated: Vec<&str> = request
        .lines()
        .filter(|line| {
            ["Via:", "From:", "To:", "Call-ID:", "CSeq:"]
                .iter()
                .any(|name| line.starts_with(name))
        })
        .collect();
    format!(
        "SIP/2.0 {status}\r\n{}\r\nContent-Length: 0\r\n\r\n",
        repeated.join("\r\n")
    )
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), status: &str) -> String {
    let request = asked(stream).await;
    let text = response(&request, status);
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    request
}

#[tokio::test]
async fn one_connection_serves_many_questions() {
    let (listener, address) = backend().await;
    let (mut prober, mut outcomes) = prober();
    prober.ask(&subject(), address, &Way::Tcp, LONG);
    let mut stream = accepted(&listener).await;
    let request = answer(&mut stream, "200 OK").await;
    assert!(request.contains("\r\nVia: SIP/2.0/TCP 127.0.0.1:"));
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
    for (status, expected) in [
        ("404 Not Found", Answer::Ok),
        ("503 Full", Answer::Full { retry_after: None }),
    ] {
        prober.ask(&subject(), address, &Way::Tcp, LONG);
        // Nobody accepts another connection here.
        answer(&mut stream, status).await;
        assert_eq!(outcome(&mut outcomes).await, expected, "{status}");
    }
}

#[tokio::test]
async fn what_else_comes_by_the_connection_is_ignored() {
    let (listener, address) = backend().await;
    let (mut prober, mut outcomes) = prober();
    prober.ask(&subject(), address, &Way::Tcp, LONG);
    let mut stream = accepted(&listener).await;
    let request = asked(&mut stream).await;
    let strange = request.replace("Call-ID: ", "Call-ID: x");
    let text = [
        "\r\n\r\n",
        "NOTIFY sip:a SIP/2.0\r\nl: 4\r\n\r\n\r\n\r\n",
        &response(&strange, "503 Not That One"),
        &response(&request, "200 OK"),
    ]
    .concat();
    for byte in text.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
    }
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
}

#[tokio::test]
async fn a_refused_connection_is_told_at_once() {
    let (listener, address) = backend().await;
    drop(listener);
    let (mut prober, mut outcomes) = prober();
    prober.ask(&subject(), address, &Way::Tcp, LONG);
    assert_eq!(outcome(&mut outcomes).await, Answer::Unreachable);
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_is_no_failure_but_a_backend_that_is_gone_is() {
    let (listener, address) = backend().await;
    let (mut prober, mut outcomes) = prober();
    for _ in 0..2 {
        prober.ask(&subject(), address, &Way::Tcp, LONG);
        let mut stream = accepted(&listener).await;
        answer(&mut stream, "200 OK").await;
        assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
    }
    drop(listener);
    prober.ask(&subject(), address, &Way::Tcp, LONG);
    assert_eq!(outcome(&mut outcomes).await, Answer::Unreachable);
}

#[tokio::test]
async fn a_backend_that_closes_on_every_question_is_not_reached() {
    let (listener, address) = backend().await;
    let (mut prober, mut outcomes) = prober();
    prober.ask(&subject(), address, &Way::Tcp, LONG);
    let mut stream = accepted(&listener).await;
    asked(&mut stream).await;
    drop(stream);
    assert_eq!(outcome(&mut outcomes).await, Answer::Unreachable);
    prober.ask(&subject(), address, &Way::Tcp, LONG);
    let mut stream = accepted(&listener).await;
    asked(&mut stream).await;
    stream.write_all(b"HTTP/1.1 400 Bad\r\n").await.unwrap();
    assert_eq!(outcome(&mut outcomes).await, Answer::Unreachable);
}

#[tokio::test]
async fn silence_ends_the_connection_and_the_next_question_has_another() {
    let (listener, address) = backend().await;
    let (mut prober, mut outcomes) = prober();
    prober.ask(&subject(), address, &Way::Tcp, SHORT);
    let mut silent = accepted(&listener).await;
    asked(&mut silent).await;
    assert_eq!(outcome(&mut outcomes).await, Answer::Silent);
    let end = timeout(LONG, silent.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "it is closed");
    prober.ask(&subject(), address, &Way::Tcp, LONG);
    answer(&mut accepted(&listener).await, "200 OK").await;
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
}

#[tokio::test]
async fn questions_of_one_backend_have_connections_of_their_own() {
    let (listener, address) = backend().await;
    let (mut prober, mut outcomes) = prober();
    prober.ask(&subject(), address, &Way::Tcp, LONG);
    let mut first = accepted(&listener).await;
    let life = Subject {
        question: Question::Life,
        ..subject()
    };
    prober.ask(&life, address, &Way::Tcp, LONG);
    let mut second = accepted(&listener).await;
    answer(&mut first, "200 OK").await;
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);
    answer(&mut second, "503 Full").await;
    let told = timeout(LONG, outcomes.recv()).await.unwrap().unwrap();
    assert_eq!(told.question, Question::Life);
    assert_eq!(told.answer, Answer::Full { retry_after: None });
    prober.forget("s", "b");
    for stream in [&mut first, &mut second] {
        let end = timeout(LONG, stream.read(&mut [0; 16])).await.unwrap();
        assert_eq!(end.unwrap(), 0, "both are closed");
    }
}

/// A backend's TLS for these names, and a client's that believes it.
struct Secured {
    _folder: TempDir,
    server: Arc<ServerTls>,
    client: Arc<ClientTls>,
}

fn secured(names: &[&str]) -> Secured {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let path = folder.path().join(file);
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).mode(0o600).open(&path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
        path
    };
    let tls = config::Tls {
        certificates: vec![Certificate {
            chain: write("chain.pem", &certificate.pem()),
            key: write("key.pem", &key.serialize_pem()),
        }],
        clients: ClientCertificates::None,
    };
    Secured {
        server: ServerTls::load(&tls).unwrap(),
        client: ClientTls::load(&write("ca.pem", &issuer.pem())).unwrap(),
        _folder: folder,
    }
}

#[tokio::test]
async fn tls_is_asked_likewise_and_a_certificate_for_another_is_a_failure() {
    let secured = secured(&["p1.example"]);
    let way = |name: &str| Way::Tls {
        tls: Arc::clone(&secured.client),
        name: name.to_owned(),
    };
    let (listener, address) = backend().await;
    let (mut prober, mut outcomes) = prober();
    prober.ask(&subject(), address, &way("p1.example"), LONG);
    let stream = accepted(&listener).await;
    let mut stream = secured.server.accept(stream).await.unwrap();
    let request = answer(&mut stream, "200 OK").await;
    assert!(request.contains("\r\nVia: SIP/2.0/TLS 127.0.0.1:"));
    assert_eq!(outcome(&mut outcomes).await, Answer::Ok);

    // Another name is another way: the connection there is will not do.
    prober.ask(&subject(), address, &way("p2.example"), LONG);
    let stream = accepted(&listener).await;
    secured.server.accept(stream).await.unwrap_err();
    assert_eq!(outcome(&mut outcomes).await, Answer::Unreachable);

    prober.ask(&subject(), address, &way("p1.example"), LONG);
    let mut plain = accepted(&listener).await;
    plain.write_all(b"SIP/2.0 400 What\r\n\r\n").await.unwrap();
    assert_eq!(outcome(&mut outcomes).await, Answer::Unreachable);
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_silence() {
    let secured = secured(&["p1.example"]);
    let way = Way::Tls {
        tls: Arc::clone(&secured.client),
        name: "p1.example".to_owned(),
    };
    let (listener, address) = backend().await;
    let (mut prober, mut outcomes) = prober();
    prober.ask(&subject(), address, &way, SHORT);
    let _stream = accepted(&listener).await;
    assert_eq!(outcome(&mut outcomes).await, Answer::Silent);
}
