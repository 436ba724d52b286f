//! One question over a connection, and what comes back.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tracing::warn;

use super::{Answer, conversation::says_unreachable, message::Options};
use crate::{
    sip::{
        framing::{Frame, Framer, Limits},
        transport::Transport,
    },
    stream::tls::ClientTls,
};

/// Largest message that is read; an answer to OPTIONS is far smaller.
const LIMITS: Limits = Limits {
    headers: 16 * 1024,
    message: 64 * 1024,
};
/// Bytes taken in by one read at most.
const READ: usize = 4_096;
/// A connection older than this is made anew, so that what every new connection needs (a listener that
/// takes it, a certificate that is not over) is looked at now and then.
const LIFETIME: Duration = Duration::from_mins(1);

/// Connections to one backend, one at a time.
#[derive(Debug)]
pub(super) struct StreamLine {
    backend: SocketAddr,
    security: Option<Security>,
    /// The connection that the last ask left.
    kept: Mutex<Option<Kept>>,
    /// Was it told that the backend's TLS is at fault?
    told: AtomicBool,
}

/// How the backend is known under TLS.
#[derive(Clone, Debug)]
pub(super) struct Security {
    pub(super) tls: Arc<ClientTls>,
    pub(super) name: String,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

struct Kept {
    stream: Box<dyn Stream>,
    local: SocketAddr,
    since: Instant,
    framer: Framer,
    pending: Vec<u8>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let local = &self.local;
        f.debug_struct("Kept")
            .field("local", local)
            .finish_non_exhaustive()
    }
}

impl StreamLine {
    pub(super) const fn new(backend: SocketAddr, security: Option<Security>) -> Self {
        Self {
            backend,
            security,
            kept: Mutex::new(None),
            told: AtomicBool::new(false),
        }
    }

    /// Asks once, over the connection there is or else a new one. An error says that the backend cannot
    /// be reached, or that nothing was asked.
    pub(super) async fn converse(&self, timeout: Duration) -> io::Result<Answer> {
        let deadline = Instant::now() + timeout;
        match timeout_at(deadline, self.ask()).await {
            Ok(answer) => answer,
            // The connection is gone with the ask.
            Err(_) => Ok(Answer::Silent),
        }
    }

    async fn ask(&self) -> io::Result<Answer> {
        let kept = self.kept().take();
        if let Some(kept) = kept.filter(|kept| kept.since.elapsed() < LIFETIME) {
            // A backend may close what is idle: that alone is no failure.
            if let Ok(answer) = self.ask_over(kept).await {
                return Ok(answer);
            }
        }
        let new = self.connect().await?;
        self.ask_over(new).await
    }

    async fn ask_over(&self, mut connection: Kept) -> io::Result<Answer> {
        let transport = match self.security {
            None => Transport::Tcp,
            Some(_) => Transport::Tls,
        };
        let options = Options::new(transport, connection.local, self.backend);
        connection.stream.write_all(options.bytes()).await?;
        connection.stream.flush().await?;
        let answer = connection.listen(&options).await?;
        *self.kept() = Some(connection);
        Ok(answer)
    }

    async fn connect(&self) -> io::Result<Kept> {
        let tcp = TcpStream::connect(self.backend).await?;
        tcp.set_nodelay(true)?;
        let local = tcp.local_addr()?;
        let stream: Box<dyn Stream> = match &self.security {
            None => Box::new(tcp),
            Some(security) => {
                let shaken = security
                    .tls
                    .connect(&security.name, self.backend, tcp)
                    .await;
                self.tell(shaken.as_ref().err());
                Box::new(shaken?)
            }
        };
        Ok(Kept {
            stream,
            local,
            since: Instant::now(),
            framer: Framer::default(),
            pending: Vec::new(),
        })
    }

    /// Tells once what is wrong with the backend's TLS: the log of its death says only that there is no
    /// connection.
    fn tell(&self, error: Option<&io::Error>) {
        let was_told = self.told.swap(error.is_some(), Ordering::Relaxed);
        if let Some(error) = error
            && !was_told
        {
            warn!(backend = %self.backend, %error, "no TLS with a backend; look at its certificate, at server_name and at backend_ca");
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Waits for the answer to `options`; whatever else comes is ignored.
    async fn listen(&mut self, options: &Options) -> io::Result<Answer> {
        loop {
            let frame = self.framer.next(&self.pending, &LIMITS);
            let frame = frame.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            let length = match frame {
                Frame::Message { length } => {
                    if let Some(answer) = options.answer_in(&self.pending[..length]) {
                        self.pending.drain(..length);
                        return Ok(answer);
                    }
                    length
                }
                Frame::Ping { length } | Frame::Blank { length } => length,
                Frame::Incomplete => {
                    self.take_in().await?;
                    0
                }
            };
            self.pending.drain(..length);
        }
    }

    async fn take_in(&mut self) -> io::Result<()> {
        let mut room = [0; READ];
        match self.stream.read(&mut room).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => {
                self.pending.extend_from_slice(&room[..length]);
                Ok(())
            }
        }
    }
}

/// Does a failed connection say something of the backend? A lack of routes, sockets or permissions is on
/// this side.
pub(super) fn is_backends(error: &io::Error) -> bool {
    let by_kind = matches!(
        error.kind(),
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::TimedOut
            | ErrorKind::InvalidData
    );
    by_kind || says_unreachable(error)
}
