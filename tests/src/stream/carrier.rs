//! One connection that carries SIP, whatever the transport: messages in, messages out.

use std::fmt;
use std::net::{SocketAddr, TcpStream as StdTcpStream, UdpSocket as StdUdpSocket};
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use fastwebsockets::{
    FragmentCollectorRead, Frame, OpCode, Payload, WebSocketError, WebSocketWrite,
};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::framing::{Framer, Unit};
use super::{Target, TlsClient, Transport};
use crate::certificates::Issued;
use crate::lab::{Host, Lab};

/// What is read at once, at least.
const PIECE: usize = 4 * 1024;
/// How long the other side may take to accept a connection.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(5);

type WebWriter = Arc<Mutex<WebSocketWrite<WriteHalf<TokioIo<Upgraded>>>>>;

/// A socket that was opened in a namespace and works wherever it is taken.
#[derive(Debug)]
pub struct Socket {
    inner: Inner,
    local: SocketAddr,
}

#[derive(Debug)]
enum Inner {
    Stream(StdTcpStream),
    Datagrams(StdUdpSocket),
}

impl Socket {
    /// Opens a socket of a host to a target; for connections, the connection is up afterwards, TLS and WebSocket are
    /// not yet.
    pub fn open(lab: &Lab, host: Host, target: &Target) -> Result<Self> {
        lab.enter(host, || Self::open_here(target))?
    }

    /// The same in this thread's namespace.
    pub fn open_here(target: &Target) -> Result<Self> {
        let address = target.address;
        let what = || format!("cannot connect to {address} by {}", target.transport);
        if target.transport == Transport::Udp {
            let any = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = StdUdpSocket::bind(any).with_context(what)?;
            socket.set_nonblocking(true)?;
            return Ok(Self {
                local: socket.local_addr().with_context(what)?,
                inner: Inner::Datagrams(socket),
            });
        }
        let stream = StdTcpStream::connect_timeout(&address, CONNECT).with_context(what)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            local: stream.local_addr()?,
            inner: Inner::Stream(stream),
        })
    }

    /// Its own address.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }
}

/// A connection that messages can be sent and received by.
pub struct Carrier {
    /// For what comes.
    pub reader: Reader,
    /// For what goes.
    pub writer: Writer,
    /// What the server showed first, with TLS.
    pub server_certificate: Option<Vec<u8>>,
}

impl Carrier {
    /// Goes through the handshakes that the transport has. Needs a tokio runtime.
    pub async fn new(socket: Socket, target: &Target) -> Result<Self> {
        let stream = match socket.inner {
            Inner::Datagrams(socket) => return Self::datagrams(socket, target.address),
            Inner::Stream(stream) => TcpStream::from_std(stream)?,
        };
        let Some(tls) = target.tls.as_ref().filter(|_| target.transport.is_secure()) else {
            ensure!(
                !target.transport.is_secure(),
                "nobody to trust is named for TLS"
            );
            return Self::plain_or_web(stream, target, None).await;
        };
        let name = tls
            .name
            .clone()
            .unwrap_or_else(|| target.address.ip().to_string());
        let name = ServerName::try_from(name).context("no name for TLS")?;
        let stream = TlsConnector::from(Arc::new(configuration(tls)?))
            .connect(name, stream)
            .await
            .with_context(|| format!("TLS with {} failed", target.address))?;
        let (_, session) = stream.get_ref();
        let shown = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|certificate| certificate.to_vec());
        Self::plain_or_web(stream, target, shown).await
    }

    fn datagrams(socket: StdUdpSocket, target: SocketAddr) -> Result<Self> {
        let socket = Arc::new(Datagrams {
            socket: UdpSocket::from_std(socket)?,
            target,
            asked_by: Mutex::new(target),
        });
        Ok(Self {
            reader: Reader(Input::Datagrams(Arc::clone(&socket))),
            writer: Writer(Output::Datagrams(socket)),
            server_certificate: None,
        })
    }

    async fn plain_or_web(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        target: &Target,
        server_certificate: Option<Vec<u8>>,
    ) -> Result<Self> {
        let (reader, writer) = if target.transport.is_web() {
            web(stream, target.address).await?
        } else {
            let (read, write) = split(stream);
            let input = Input::Stream {
                from: Box::pin(read),
                framer: Framer::default(),
            };
            (input, Output::Stream(Box::pin(write)))
        };
        Ok(Self {
            reader: Reader(reader),
            writer: Writer(writer),
            server_certificate,
        })
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").finish_non_exhaustive()
    }
}

/// A datagram socket: anybody may send to it, and a proxy that is not behind the target does.
struct Datagrams {
    socket: UdpSocket,
    /// Where requests go.
    target: SocketAddr,
    /// Who sent the last one: where responses go.
    asked_by: Mutex<SocketAddr>,
}

/// The half that messages come from.
pub struct Reader(Input);

enum Input {
    Stream {
        from: Pin<Box<dyn AsyncRead + Send>>,
        framer: Framer,
    },
    Web {
        from: FragmentCollectorRead<ReadHalf<TokioIo<Upgraded>>>,
        answers: WebWriter,
    },
    Datagrams(Arc<Datagrams>),
}

impl Reader {
    /// The next unit; `None` once the other side has closed. Must be awaited to its end.
    pub async fn next(&mut self) -> Result<Option<Unit>> {
        match &mut self.0 {
            Input::Stream { from, framer } => loop {
                if let Some(unit) = framer.next_unit()? {
                    return Ok(Some(unit));
                }
                let room = framer.behind();
                room.reserve(PIECE);
                if from.read_buf(room).await? == 0 {
                    return Ok(None);
                }
            },
            Input::Web { from, answers } => {
                let frame = from
                    .read_frame(&mut |frame| {
                        let answers = Arc::clone(answers);
                        async move { answers.lock().await.write_frame(frame).await }
                    })
                    .await;
                match frame {
                    Ok(frame) if frame.opcode == OpCode::Close => Ok(None),
                    Ok(frame) => Ok(Some(of_web(&frame.payload))),
                    Err(WebSocketError::ConnectionClosed | WebSocketError::UnexpectedEOF) => {
                        Ok(None)
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Input::Datagrams(socket) => {
                let mut datagram = vec![0; 65_536];
                let (length, from) = socket.socket.recv_from(&mut datagram).await?;
                datagram.truncate(length);
                *socket.asked_by.lock().await = from;
                Ok(Some(Unit::Message(datagram)))
            }
        }
    }
}

/// RFC 7118 section 5: one message for each WebSocket message; keep-alives are CRLF there too.
fn of_web(payload: &[u8]) -> Unit {
    if payload.iter().all(|byte| b"\r\n".contains(byte)) {
        Unit::Crlf
    } else {
        Unit::Message(payload.to_vec())
    }
}

/// The half that messages go to.
pub struct Writer(Output);

enum Output {
    Stream(Pin<Box<dyn AsyncWrite + Send>>),
    Web(WebWriter),
    Datagrams(Arc<Datagrams>),
}

impl Writer {
    /// Sends bytes as they are; with WebSocket, as one message.
    pub async fn send(&mut self, message: &[u8]) -> Result<()> {
        match &mut self.0 {
            Output::Stream(to) => {
                to.write_all(message).await?;
                to.flush().await?;
            }
            Output::Web(to) => {
                let payload = Payload::Borrowed(message);
                let frame = if std::str::from_utf8(message).is_ok() {
                    Frame::text(payload)
                } else {
                    Frame::binary(payload)
                };
                to.lock().await.write_frame(frame).await?;
            }
            Output::Datagrams(socket) => {
                let to = if message.starts_with(b"SIP/2.0 ") {
                    *socket.asked_by.lock().await
                } else {
                    socket.target
                };
                socket.socket.send_to(message, to).await?;
            }
        }
        Ok(())
    }

    /// Says that nothing more will come, as the transport says it.
    pub async fn close(&mut self) -> Result<()> {
        match &mut self.0 {
            Output::Stream(to) => to.shutdown().await?,
            Output::Web(to) => {
                let mut to = to.lock().await;
                to.write_frame(Frame::close(1000, b"")).await?;
            }
            Output::Datagrams(_) => {}
        }
        Ok(())
    }
}

fn configuration(tls: &TlsClient) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(&tls.authority)
        .with_context(|| format!("cannot read {}", tls.authority.display()))?;
    roots.add(authority)?;
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some(Issued { chain, key, .. }) = &tls.certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    Ok(builder.with_client_auth_cert(chain, key)?)
}

/// The client's handshake of RFC 6455, with the subprotocol of RFC 7118.
async fn web(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    address: SocketAddr,
) -> Result<(Input, Output)> {
    let request = Request::builder()
        .uri("/")
        .header(HOST, address.to_string())
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(
            "Sec-WebSocket-Key",
            fastwebsockets::handshake::generate_key(),
        )
        .header("Sec-WebSocket-Version", "13")
        .header(SEC_WEBSOCKET_PROTOCOL, "sip")
        .body(Empty::<Bytes>::new())?;
    let (socket, response) = fastwebsockets::handshake::client(&Spawn, request, stream)
        .await
        .with_context(|| format!("the WebSocket handshake with {address} failed"))?;
    match response.headers().get(SEC_WEBSOCKET_PROTOCOL) {
        Some(protocol) if protocol == "sip" => {}
        other => bail!("{address} did not choose the subprotocol `sip` but {other:?}"),
    }
    let (read, write) = socket.split(split);
    let write = Arc::new(Mutex::new(write));
    let input = Input::Web {
        from: FragmentCollectorRead::new(read),
        answers: Arc::clone(&write),
    };
    Ok((input, Output::Web(write)))
}

/// Hyper's tasks on tokio.
struct Spawn;

impl<F> hyper::rt::Executor<F> for Spawn
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}
