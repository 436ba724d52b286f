//! The API over real sockets, with a daemon that only notes what it is asked.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use super::{
    Change, Changed, ClientError, Operator, Refusal, Reloaded, Server, TcpApi, Token, get, post,
    report::tests::sample, status::Status,
};

const TOKEN: &str = "0123456789abcdef";
const P1: &str = "/services/carrier/backends/p1";

#[derive(Default)]
struct Fake(Mutex<Vec<Change>>);

impl Operator for Fake {
    fn status(&self) -> BoxFuture<'_, Result<Status, Refusal>> {
        Box::pin(async { Ok(sample()) })
    }

    fn change(
        &self,
        service: &str,
        backend: &str,
        change: Change,
    ) -> BoxFuture<'_, Result<Changed, Refusal>> {
        let changed = Changed {
            service: service.to_owned(),
            backend: backend.to_owned(),
            state: "alive".to_owned(),
            weight: 3,
        };
        Box::pin(async move {
            if changed.service == "stuck" {
                std::future::pending::<()>().await;
            }
            if changed.backend != "p1" {
                let what = format!("there is no backend `{}`", changed.backend);
                return Err(Refusal::NotFound(what));
            }
            self.0.lock().unwrap().push(change);
            Ok(changed)
        })
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Refusal>> {
        Box::pin(async { Err(Refusal::Failed("the disk\nis gone".to_owned())) })
    }
}

struct Api {
    daemon: Arc<Fake>,
    server: Server,
    socket: PathBuf,
    _folder: TempDir,
}

impl Api {
    /// One that also listens on TCP, with this token.
    fn with(token: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = token.map(|token| {
            let path = folder.path().join("token");
            fs::write(&path, token).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            Token::read(&path).unwrap()
        });
        let socket = folder.path().join("run/api.sock");
        let daemon = Arc::new(Fake::default());
        let listen = "127.0.0.1:0".parse().unwrap();
        let tcp = Some(TcpApi { listen, token });
        let server = Server::start(&socket, tcp, daemon.clone()).unwrap();
        Self {
            daemon,
            server,
            socket,
            _folder: folder,
        }
    }

    fn changes(&self) -> Vec<Change> {
        self.daemon.0.lock().unwrap().clone()
    }

    /// Over the Unix socket.
    async fn unix(&self, request: &str, body: &str) -> (u16, String) {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        converse(stream, request, "", body).await
    }

    /// Over TCP, with this Authorization.
    async fn tcp(&self, request: &str, authorization: &str) -> (u16, String) {
        let address = self.server.tcp_address().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let header = match authorization {
            "" => String::new(),
            value => format!("Authorization: {value}\r\n"),
        };
        converse(stream, request, &header, "").await
    }
}

/// Sends a request; gives the status code and the body.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
    headers: &str,
    body: &str,
) -> (u16, String) {
    let text = format!(
        "{request} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

fn json_of(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn the_client_reads_the_status() {
    let api = Api::with(None);
    let body = get(&api.socket, "/status").await.unwrap();
    let status: Status = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, sample());
}

#[tokio::test]
async fn every_change_arrives() {
    let api = Api::with(None);
    let changed = json!({"service": "carrier", "backend": "p1", "state": "alive", "weight": 3});
    for (verb, body) in [
        ("weight", json!({"weight": 1_000})),
        ("drain", json!({})),
        ("enable", json!({})),
        ("disable", json!({})),
    ] {
        let answer = post(&api.socket, &format!("{P1}/{verb}"), &body).await;
        assert_eq!(
            json_of(std::str::from_utf8(&answer.unwrap()).unwrap()),
            changed
        );
    }
    assert_eq!(
        api.changes(),
        [
            Change::Weight(1_000),
            Change::Drain,
            Change::Enable,
            Change::Disable
        ]
    );
}

#[tokio::test]
async fn a_body_is_not_needed_where_there_is_nothing_to_say() {
    let api = Api::with(None);
    assert_eq!(api.unix(&format!("POST {P1}/drain"), "").await.0, 200);
    assert_eq!(api.changes(), [Change::Drain]);
}

#[tokio::test]
async fn refusals_are_one_line() {
    let api = Api::with(None);
    let refusal = |answer: Result<_, ClientError>| match answer {
        Err(ClientError::Refused(line)) => line,
        other => panic!("{other:?}"),
    };
    let unknown = "/services/carrier/backends/p%2F9/drain";
    assert_eq!(
        refusal(post(&api.socket, unknown, &json!({})).await),
        "there is no backend `p/9`"
    );
    assert_eq!(
        refusal(post(&api.socket, "/reload", &json!({})).await),
        "the disk is gone"
    );
    assert_eq!(api.unix(&format!("POST {unknown}"), "").await.0, 404);
    assert_eq!(api.unix("POST /reload", "").await.0, 500);
}

#[tokio::test]
async fn what_is_not_there_is_said_with_what_is() {
    let api = Api::with(None);
    for (request, code) in [
        ("GET /nothing", 404),
        ("POST /status", 405),
        ("GET /reload", 405),
    ] {
        let (found, line) = api.unix(request, "").await;
        assert_eq!(found, code, "{request}");
        assert!(line.contains("GET /status, POST /reload"), "{line}");
    }
}

#[tokio::test]
async fn only_weights_that_are_allowed_arrive() {
    let api = Api::with(None);
    for body in [
        "",
        "{}",
        "3",
        "nonsense",
        r#"{"weight": 0}"#,
        r#"{"weight": -1}"#,
        r#"{"weight": 1001}"#,
        r#"{"weight": 70000}"#,
        r#"{"weight": 1.5}"#,
        r#"{"weight": "3"}"#,
        r#"{"weight": 3, "wait": true}"#,
    ] {
        let (code, line) = api.unix(&format!("POST {P1}/weight"), body).await;
        assert_eq!(code, 400, "{body}: {line}");
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.contains("1 to 1000"), "{line}");
    }
    assert_eq!(api.changes(), []);
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let api = Api::with(None);
    let body = format!("{{\"weight\": 3{}}}", " ".repeat(5_000));
    let (code, line) = api.unix(&format!("POST {P1}/weight"), &body).await;
    assert_eq!(code, 413, "{line}");
    assert_eq!(api.changes(), []);
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group_and_goes_with_the_server() {
    let api = Api::with(None);
    let mode = fs::metadata(&api.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let socket = api.socket.clone();
    drop(api.server);
    assert!(!socket.exists());
    assert!(matches!(
        get(&socket, "/status").await,
        Err(ClientError::Connect { .. })
    ));
}

#[tokio::test]
async fn tcp_without_a_token_only_tells() {
    let api = Api::with(None);
    assert_eq!(api.tcp("GET /status", "").await.0, 200);
    for authorization in ["", &format!("Bearer {TOKEN}")] {
        let (code, line) = api.tcp(&format!("POST {P1}/drain"), authorization).await;
        assert_eq!(code, 403);
        assert!(line.contains("forwarder.api_token_file"), "{line}");
    }
    assert_eq!(api.tcp("DELETE /status", "").await.0, 403);
    assert_eq!(api.changes(), []);
}

#[tokio::test]
async fn tcp_changes_need_the_token() {
    let api = Api::with(Some(TOKEN));
    assert_eq!(api.tcp("GET /status", "").await.0, 200);
    let drain = format!("POST {P1}/drain");
    for wrong in [
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        "Bearer 0123456789abcdeX",
        "Basic 0123456789abcdef",
        "Bearer 0123456789abcdef0",
    ] {
        assert_eq!(api.tcp(&drain, wrong).await.0, 401, "{wrong}");
    }
    assert_eq!(api.changes(), []);
    assert_eq!(api.tcp(&drain, &format!("bearer {TOKEN}")).await.0, 200);
    assert_eq!(api.changes(), [Change::Drain]);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let api = Api::with(None);
    let listen = api.server.tcp_address().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tcp = Some(TcpApi {
        listen,
        token: None,
    });
    let socket = folder.path().join("api.sock");
    let error = Server::start(&socket, tcp, Arc::new(Fake::default())).unwrap_err();
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
    assert!(!socket.exists(), "a start that fails leaves nothing behind");
}

#[tokio::test]
async fn only_a_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let start = || Server::start(&path, None, Arc::new(Fake::default()));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = start().unwrap();
    assert_eq!(server.tcp_address(), None);
    drop(server);
    fs::write(&path, "precious").unwrap();
    let error = start().unwrap_err();
    assert!(error.to_string().contains("api_socket"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_stuck_is_told_of() {
    let api = Api::with(None);
    let (code, line) = api.unix("POST /services/stuck/backends/p1/drain", "").await;
    assert_eq!(code, 504, "{line}");
    assert!(line.contains("may still come into force"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn clients_that_say_nothing_do_not_keep_others_out() {
    let api = Api::with(None);
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(UnixStream::connect(&api.socket).await.unwrap());
    }
    assert_eq!(api.unix("GET /status", "").await.0, 200);
    let closed = silent[0].read(&mut [0]).await.unwrap();
    assert_eq!(closed, 0, "the conversation was ended");
}
