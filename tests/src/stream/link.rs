//! A connection for tests: it sends at once and waits for what comes.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::carrier::{Carrier, Reader, Socket, Writer};
use super::framing::Unit;
use super::{Target, Transport};
use crate::lab::{Host, Lab};

/// How long handshakes may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection to one target, until dropped.
#[derive(Debug)]
pub struct Link {
    transport: Transport,
    local: SocketAddr,
    server_certificate: Option<Vec<u8>>,
    commands: Option<UnboundedSender<Command>>,
    /// The thread of a test that waits for one end of a call is not that of the other.
    arrived: Mutex<Receiver<Unit>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Command {
    Send(Vec<u8>),
    Close,
}

impl Link {
    /// Connects a host of the lab to a target; all handshakes are done afterwards.
    pub fn open(lab: &Lab, host: Host, target: &Target) -> Result<Self> {
        let socket = Socket::open(lab, host, target)?;
        let local = socket.local();
        let (commands, todo) = unbounded_channel();
        let (deliver, arrived) = channel();
        let (ready, started) = channel();
        let target = target.clone();
        let transport = target.transport;
        let thread = thread::Builder::new()
            .name(format!("link-{transport}"))
            .spawn(move || live(socket, &target, todo, deliver, &ready))
            .context("cannot start a link's thread")?;
        let server_certificate = match started.recv_timeout(HANDSHAKE) {
            Ok(outcome) => outcome?,
            Err(RecvTimeoutError::Timeout) => {
                bail!("the {transport} handshakes took more than {HANDSHAKE:?}")
            }
            Err(RecvTimeoutError::Disconnected) => bail!("a link's thread panicked"),
        };
        Ok(Self {
            transport,
            local,
            server_certificate,
            commands: Some(commands),
            arrived: Mutex::new(arrived),
            thread: Some(thread),
        })
    }

    /// What carries it.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Its own address.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The server's certificate, with TLS.
    #[must_use]
    pub fn server_certificate(&self) -> Option<&[u8]> {
        self.server_certificate.as_deref()
    }

    /// Sends bytes as they are; with WebSocket, as one message.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        self.command(Command::Send(message.to_vec()))
    }

    /// Closes it in good order. What still comes can be received.
    pub fn close(&self) -> Result<()> {
        self.command(Command::Close)
    }

    fn command(&self, command: Command) -> Result<()> {
        let commands = self.commands.as_ref().context("the link has ended")?;
        commands
            .send(command)
            .map_err(|_| anyhow!("the {} connection is closed", self.transport))
    }

    fn arrived(&self) -> MutexGuard<'_, Receiver<Unit>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next unit, message or empty line; an error if none comes in time or the connection is closed.
    pub fn unit(&self, within: Duration) -> Result<Unit> {
        self.arrived().recv_timeout(within).map_err(|error| {
            let what = match error {
                RecvTimeoutError::Timeout => format!("nothing came within {within:?}"),
                RecvTimeoutError::Disconnected => "it was closed".to_owned(),
            };
            anyhow!("{what} on the {} connection", self.transport)
        })
    }

    /// The next message.
    pub fn receive(&self, within: Duration) -> Result<Vec<u8>> {
        loop {
            if let Unit::Message(message) = self.unit(within)? {
                return Ok(message);
            }
        }
    }

    /// What came and was not received yet.
    #[must_use]
    pub fn left(&self) -> Vec<Unit> {
        self.arrived().try_iter().collect()
    }

    /// Waits until the other side has closed; gives the messages that came before.
    pub fn wait_closed(&self, within: Duration) -> Result<Vec<Vec<u8>>> {
        let deadline = std::time::Instant::now() + within;
        let mut messages = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match self.arrived().recv_timeout(left) {
                Ok(Unit::Message(message)) => messages.push(message),
                Ok(Unit::Crlf) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(messages),
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "the {} connection is still open after {within:?}",
                        self.transport
                    )
                }
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has said so itself.
            let _ = thread.join();
        }
    }
}

/// What `ready` is told: the server's certificate, or why there is no connection.
type Ready = Sender<Result<Option<Vec<u8>>>>;

fn live(
    socket: Socket,
    target: &Target,
    todo: UnboundedReceiver<Command>,
    deliver: Sender<Unit>,
    ready: &Ready,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error.into()))),
    };
    runtime.block_on(async {
        let carrier = match Carrier::new(socket, target).await {
            Ok(carrier) => carrier,
            Err(error) => return drop(ready.send(Err(error))),
        };
        // Nobody listens any more if the test has given up.
        let _ = ready.send(Ok(carrier.server_certificate));
        let reading = tokio::spawn(read(carrier.reader, deliver));
        write(carrier.writer, todo).await;
        reading.abort();
    });
}

/// Ends when the other side closes; then the test sees the channel closed.
async fn read(mut reader: Reader, deliver: Sender<Unit>) {
    loop {
        match reader.next().await {
            Ok(Some(unit)) => {
                if deliver.send(unit).is_err() {
                    return;
                }
            }
            // A connection that was reset is closed, too.
            Ok(None) | Err(_) => return,
        }
    }
}

/// Ends when the link is dropped.
async fn write(mut writer: Writer, mut todo: UnboundedReceiver<Command>) {
    while let Some(command) = todo.recv().await {
        // A connection that the other side closed takes nothing; the test sees that on the reading side.
        let _ = match command {
            Command::Send(message) => writer.send(&message).await,
            Command::Close => writer.close().await,
        };
    }
}
