//! The serving side.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use thiserror::Error;
use tokio::net::UnixListener;

use super::status::Status;

/// Where the API's answers come from.
pub trait Source: Send + Sync + 'static {
    /// The whole picture; an error is one line for the operator.
    fn status(&self) -> Result<Status, String>;
}

/// A fault with the API's socket.
#[derive(Debug, Error)]
#[error(
    "cannot open the API socket {path}: {source}; set forwarder.api_socket to a path this user may create"
)]
pub struct ApiError {
    /// The socket.
    path: PathBuf,
    /// The fault.
    source: io::Error,
}

/// The API, served until dropped.
pub struct Server {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Opens the socket, mode 0660, and serves. A socket that a dead daemon left is replaced; the
    /// state folder's lock says that it is dead.
    pub fn start(path: &Path, source: Arc<dyn Source>) -> Result<Self, ApiError> {
        let listener = listen(path).map_err(|source| ApiError {
            path: path.to_owned(),
            source,
        })?;
        let router = Router::new()
            .route("/status", get(status))
            .with_state(source);
        let task = tokio::spawn(async move {
            // It only ends when the runtime does.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            path: path.to_owned(),
            task,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

async fn status(
    State(source): State<Arc<dyn Source>>,
) -> Result<Json<Status>, (StatusCode, String)> {
    source
        .status()
        .map(Json)
        .map_err(|fault| (StatusCode::INTERNAL_SERVER_ERROR, fault))
}
