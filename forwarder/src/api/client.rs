//! The asking side, for the command line.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;

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
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered with a fault of its own.
    #[error("the sip-forwarder refused: {0}")]
    Refused(String),
}

/// Asks for `resource` at the socket and returns the body.
pub async fn get(socket: &Path, resource: &str) -> Result<Bytes, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect {
            path: socket.to_owned(),
            source,
        })?;
    let (status, body) = ask(stream, resource)
        .await
        .map_err(|source| ClientError::Http {
            path: socket.to_owned(),
            source,
        })?;
    if status.is_success() {
        Ok(body)
    } else {
        Err(ClientError::Refused(
            String::from_utf8_lossy(&body).into_owned(),
        ))
    }
}

async fn ask(
    stream: UnixStream,
    resource: &str,
) -> Result<(hyper::StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(resource)
        .header("host", "localhost")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
