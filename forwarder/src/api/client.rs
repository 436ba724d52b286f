//! The asking side, for the command line.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// How long the daemon may take; it gives up earlier by itself, with a better message.
const PATIENCE: Duration = Duration::from_secs(40);

/// Why the daemon did not answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody is at the socket.
    #[error(
        "no sip-forwarder answers at {path}: {source}; start it with `sip-forwarder run`, or name its socket (forwarder.api_socket) with --socket or --config"
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// The conversation broke.
    #[error("the sip-forwarder at {path} did not answer: {source}; look into its log")]
    Http {
        /// The socket.
        path: PathBuf,
        /// The fault.
        source: Fault,
    },
    /// It will not, or cannot.
    #[error("the sip-forwarder refused: {0}")]
    Refused(String),
}

/// Asks for `resource` at the socket and returns the body.
pub async fn get(socket: &Path, resource: &str) -> Result<Bytes, ClientError> {
    let request = Request::get(resource).body(Full::default());
    ask(socket, request).await
}

/// Has `resource` at the socket do something, with `json` as the body, and returns the answer's
/// body.
pub async fn post(
    socket: &Path,
    resource: &str,
    json: &serde_json::Value,
) -> Result<Bytes, ClientError> {
    let request = Request::post(resource)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(json.to_string()));
    ask(socket, request).await
}

async fn ask(
    socket: &Path,
    request: hyper::http::Result<Request<Full<Bytes>>>,
) -> Result<Bytes, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect {
            path: socket.to_owned(),
            source,
        })?;
    let conversation = async { converse(stream, request?).await };
    let answer = timeout(PATIENCE, conversation)
        .await
        .unwrap_or_else(|elapsed| Err(elapsed.into()));
    let (status, body) = answer.map_err(|source| ClientError::Http {
        path: socket.to_owned(),
        source,
    })?;
    if status.is_success() {
        Ok(body)
    } else {
        let line = String::from_utf8_lossy(&body);
        Err(ClientError::Refused(line.trim_end().to_owned()))
    }
}

async fn converse(
    stream: UnixStream,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Fault> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let host = header::HeaderValue::from_static("localhost");
    request.headers_mut().insert(header::HOST, host);
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
