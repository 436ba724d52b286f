//! The operator's socket: one command a line, one line of answer.

use std::{
    fs,
    io::{self, BufRead as _, Write as _},
    os::unix::net::UnixStream as Stream,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::unix_socket;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest command, in bytes.
const LONGEST: u64 = 64;
/// Pause after a connection could not be taken.
const FAULT_PAUSE: Duration = Duration::from_secs(1);

/// What an operator may want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// No new calls.
    Drain,
    /// New calls again.
    Undrain,
}

impl Command {
    fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Undrain => "undrain",
        }
    }

    fn parse(line: &str) -> Option<Self> {
        [Self::Drain, Self::Undrain]
            .into_iter()
            .find(|command| command.word() == line)
    }
}

/// A command, and where its answer goes.
pub(super) type Order = (Command, oneshot::Sender<String>);

/// A fault with the socket.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Another agent has it.
    #[error(
        "another agent answers at {0}; stop it, or give this one an agent.control_socket of its own"
    )]
    Taken(PathBuf),
    /// It cannot be made.
    #[error(
        "cannot open the control socket {path}: {source}; set agent.control_socket to a path this user may create"
    )]
    Open {
        /// The socket.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// Nobody is there, or the conversation broke.
    #[error(
        "no agent answers at {path}: {source}; start it with `sip-forwarder agent`, or name its file with --config"
    )]
    Silent {
        /// The socket.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// The agent did not understand.
    #[error("the agent at {0} does not know this command; it is of another version: restart it")]
    Refused(PathBuf),
}

/// Tells the agent at `socket`, and returns its answer.
pub fn ask(socket: &Path, command: Command) -> Result<String, ControlError> {
    let talk = || -> io::Result<String> {
        let mut stream = Stream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{}\n", command.word()).as_bytes())?;
        let mut line = String::new();
        io::BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    let line = talk().map_err(|source| ControlError::Silent {
        path: socket.to_owned(),
        source,
    })?;
    match line.trim_end().split_once(' ') {
        Some(("ok", answer)) => Ok(answer.to_owned()),
        _ => Err(ControlError::Refused(socket.to_owned())),
    }
}

/// The socket, mode 0660; it goes when dropped.
#[derive(Debug)]
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Opens it. One that a dead agent left is replaced.
    pub(super) fn open(path: &Path) -> Result<Self, ControlError> {
        if Stream::connect(path).is_ok() {
            return Err(ControlError::Taken(path.to_owned()));
        }
        let listener = unix_socket::listen(path).map_err(|source| ControlError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Hands commands on, one connection after the other, until nobody takes them.
    pub(super) async fn serve(self, orders: mpsc::Sender<Order>) {
        while !orders.is_closed() {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    // Whoever says nothing, or goes away, is not waited for.
                    let _ = timeout(PATIENCE, converse(stream, &orders)).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection at the control socket");
                    sleep(FAULT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn converse(mut stream: UnixStream, orders: &mpsc::Sender<Order>) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&mut stream)
        .take(LONGEST)
        .read_line(&mut line)
        .await?;
    let answer = match Command::parse(line.trim_end()) {
        Some(command) => {
            let (reply, answer) = oneshot::channel();
            orders.send((command, reply)).await.ok();
            answer.await.ok().map(|answer| format!("ok {answer}\n"))
        }
        None => Some("unknown command\n".to_owned()),
    };
    match answer {
        Some(answer) => stream.write_all(answer.as_bytes()).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn commands_arrive_and_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/agent.sock");
        // A dead agent's socket is replaced, a living one's is not.
        fs::create_dir(folder.path().join("new")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::open(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        let fault = Listener::open(&path).unwrap_err();
        assert!(matches!(fault, ControlError::Taken(_)), "{fault}");
        let (sender, mut orders) = mpsc::channel(1);
        let task = tokio::spawn(listener.serve(sender));
        let asked = path.clone();
        let asking = tokio::task::spawn_blocking(move || ask(&asked, Command::Drain));
        let (command, reply) = orders.recv().await.unwrap();
        assert_eq!(command, Command::Drain);
        reply.send("draining".to_owned()).unwrap();
        assert_eq!(asking.await.unwrap().unwrap(), "draining");
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(!path.exists());
        let fault = ask(&path, Command::Undrain).unwrap_err().to_string();
        assert!(fault.contains("no agent answers"), "{fault}");
    }
}
