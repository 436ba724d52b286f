//! The serving side.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    listen,
    operator::Operator,
    routes,
    token::{Token, TokenError},
};
use crate::{config::Forwarder, unix_socket};

/// A fault with what the API listens on.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The Unix socket cannot be made.
    #[error(
        "cannot open the API socket {path}: {source}; set forwarder.api_socket to a path this user may create"
    )]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// The TCP address is not to be had.
    #[error(
        "cannot listen on {address} for the API: {source}; set forwarder.api_listen to an address of this machine and a free port"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The fault.
        source: io::Error,
    },
}

/// The API on TCP.
#[derive(Clone, Debug)]
pub struct TcpApi {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What a change must present; without it there are no changes over TCP.
    pub token: Option<Token>,
}

impl TcpApi {
    /// As configured; `None` if it is not. Reads the token file.
    pub fn of(config: &Forwarder) -> Result<Option<Self>, TokenError> {
        let Some(listen) = config.api_listen else {
            return Ok(None);
        };
        let token = config
            .api_token_file
            .as_deref()
            .map(Token::read)
            .transpose()?;
        Ok(Some(Self { listen, token }))
    }
}

/// The API, served until dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    tcp: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the socket, mode 0660, and the TCP address, and serves. A socket that a dead daemon
    /// left is replaced; the state folder's lock says that it is dead. Needs a tokio runtime.
    pub fn start(
        socket: &Path,
        tcp: Option<TcpApi>,
        operator: Arc<dyn Operator>,
    ) -> Result<Self, ApiError> {
        let listener = unix_socket::listen(socket).map_err(|source| ApiError::Socket {
            path: socket.to_owned(),
            source,
        })?;
        let mut server = Self {
            path: socket.to_owned(),
            tcp: None,
            tasks: Vec::new(),
        };
        server.serve(listen::serve(listener, routes::all(Arc::clone(&operator))));
        if let Some(TcpApi { listen, token }) = tcp {
            let fault = |source| ApiError::Listen {
                address: listen,
                source,
            };
            let listener = listen_tcp(listen).map_err(fault)?;
            server.tcp = Some(listener.local_addr().map_err(fault)?);
            server.serve(listen::serve(listener, routes::guarded(operator, token)));
        }
        Ok(server)
    }

    fn serve(&mut self, serving: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(serving));
    }

    /// Where it listens on TCP; with port 0 configured, the port the kernel chose.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        let _ = fs::remove_file(&self.path);
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = StdTcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
