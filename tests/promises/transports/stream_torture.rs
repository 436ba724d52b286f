//! The torture messages over TCP: whole, byte by byte, and many in one segment. Each goes to a backend with its body
//! as it was, or is answered, or ends the connection; and what stands behind a good one is read as what it is.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    corpus::{self, InProxyMode, Torture},
    lab::{Host, Lab, vip},
    messages::Message,
    stream::{Transport, framing::Framer, framing::Unit},
};

use super::room::{FAMILY, Room};
use crate::support::{ARRIVAL, as_root, proxy_sockets};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root("transports::torture_whole_over_tcp", || {
            each_alone(Pieces::Whole)
        }),
        as_root("transports::torture_byte_by_byte_over_tcp", || {
            each_alone(Pieces::Bytes)
        }),
        as_root(
            "transports::torture_many_in_one_segment_over_tcp",
            in_one_segment,
        ),
        as_root(
            "transports::what_stands_behind_a_bad_message_is_not_read",
            behind_a_bad_one,
        ),
    ]
}

/// How a message is handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    Whole,
    Bytes,
}

/// What must become of the bytes of a message that come by a connection of their own, which is then half closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// So many messages reach a backend.
    Arrives(usize),
    /// So many messages reach a backend; what stands behind them is no message, and the connection is closed.
    ArrivesAndCloses(usize),
    /// Answered with this status, and the connection goes on.
    Answered(u16),
    /// Answered so, and closed: nobody knows where the next message would begin.
    Refused(u16),
    /// Closed without a word: it is no request, or was never whole.
    Closed,
    /// Taken, counted and thrown away.
    Dropped,
}

/// Messages whose end in a stream is not what it is in a datagram: how long a message is stands in Content-Length alone.
/// The table of the corpus holds for all others.
const IN_A_STREAM: &[(&str, End)] = &[
    // The second request is a message of its own. It says less than its body is, and so do those with SDP.
    ("dblreq", End::ArrivesAndCloses(2)),
    ("ipv6-in-sdp", End::ArrivesAndCloses(1)),
    ("mult-ip-in-sdp", End::ArrivesAndCloses(1)),
    ("ipv4-mapped-ipv6", End::ArrivesAndCloses(1)),
    // More is announced than comes.
    ("clerr", End::Closed),
    ("ncl", End::Refused(400)),
    ("mcl01", End::Refused(400)),
    // RFC 2543 could do without; a stream cannot.
    ("inv2543", End::Refused(400)),
];

fn expected(message: &Torture) -> End {
    if let Some((_, end)) = IN_A_STREAM.iter().find(|(name, _)| *name == message.name) {
        return *end;
    }
    match message.expected_in_proxy_mode() {
        InProxyMode::Forwarded | InProxyMode::LeftToBackend(_) => End::Arrives(1),
        InProxyMode::Answered(status) => End::Answered(status),
        InProxyMode::Dropped => End::Dropped,
    }
}

/// A forwarder and sockets where its backends are. What is last goes last.
struct Scene {
    proxies: Vec<UdpSocket>,
    room: Room,
}

impl Scene {
    fn start() -> Result<Self> {
        let room = Room::in_lab(Lab::new(2)?, Transport::Udp, |_| {})?;
        let proxies = proxy_sockets(&room.lab, FAMILY)?;
        for proxy in &proxies {
            proxy.set_nonblocking(true)?;
        }
        Ok(Self { proxies, room })
    }

    fn connect(&self) -> Result<TcpStream> {
        let address = SocketAddr::new(vip(FAMILY), Transport::Tcp.port());
        let stream = self
            .room
            .lab
            .enter(Host::Client, || TcpStream::connect(address))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(stream)
    }

    fn arrived(&self) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let mut all = Vec::new();
        for proxy in &self.proxies {
            while let Ok(length) = proxy.recv(&mut buffer) {
                all.push(buffer[..length].to_vec());
            }
        }
        all
    }
}

/// What came of a connection.
#[derive(Debug, Default)]
struct Outcome {
    arrived: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    closed: bool,
}

impl Outcome {
    /// Waits until this much came, or the connection is closed, or it is late.
    fn wait(
        &mut self,
        scene: &Scene,
        stream: &mut TcpStream,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let mut framer = Framer::default();
        let deadline = Instant::now() + ARRIVAL;
        let mut buffer = vec![0; 65_536];
        while !done(self) && Instant::now() < deadline {
            match stream.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(length) => framer.push(&buffer[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.closed = true,
                Err(error) => return Err(error.into()),
            }
            while let Some(unit) = framer.next_unit()? {
                if let Unit::Message(answer) = unit {
                    self.answers.push(answer);
                }
            }
            self.arrived.extend(scene.arrived());
            if self.closed {
                // What was sent on before the end may still be on its way.
                std::thread::sleep(Duration::from_millis(20));
                self.arrived.extend(scene.arrived());
                return Ok(());
            }
        }
        Ok(())
    }
}

fn each_alone(pieces: Pieces) -> Result<()> {
    let scene = Scene::start()?;
    let mut faults = Vec::new();
    let mut count = 0;
    for message in corpus::all() {
        count += 1;
        if let Err(error) = alone(&scene, message, pieces) {
            faults.push(format!("{} {}: {error:#}", message.section, message.name));
        }
    }
    ensure!(count > 50, "{count} messages");
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// A message on a connection of its own, and a good one behind it: on the same connection if that goes on.
fn alone(scene: &Scene, message: &Torture, pieces: Pieces) -> Result<()> {
    let end = expected(message);
    let mut stream = scene.connect()?;
    write(&mut stream, message.bytes, pieces).context("cannot send it")?;
    let probe = probe(message.name);
    let goes_on = matches!(end, End::Arrives(_) | End::Answered(_) | End::Dropped);
    if goes_on || matches!(end, End::ArrivesAndCloses(_)) {
        stream.write_all(&probe).context("cannot send behind it")?;
    } else {
        stream.shutdown(Shutdown::Write)?;
    }
    let mut outcome = Outcome::default();
    let is_probe = |arrived: &[u8]| contains(arrived, &call_id_of_probe(message.name));
    outcome.wait(scene, &mut stream, |outcome| {
        goes_on && outcome.arrived.iter().any(|arrived| is_probe(arrived))
    })?;
    let probes = outcome.arrived.iter().filter(|a| is_probe(a)).count();
    outcome.arrived.retain(|arrived| !is_probe(arrived));
    check(message, end, &outcome)?;
    ensure!(
        probes == usize::from(goes_on),
        "the message behind it arrived {probes} times: {outcome:?}"
    );
    Ok(())
}

fn check(message: &Torture, end: End, outcome: &Outcome) -> Result<()> {
    let statuses: Vec<u16> = outcome
        .answers
        .iter()
        .map(|answer| status(answer))
        .collect();
    let arrived = outcome.arrived.len();
    let is = (arrived, statuses.as_slice(), outcome.closed);
    let fits = match end {
        End::Arrives(times) => is == (times, &[], false),
        End::ArrivesAndCloses(times) => is == (times, &[], true),
        End::Answered(status) => is == (0, &[status], false),
        End::Refused(status) => is == (0, &[status], true),
        End::Closed => is == (0, &[], true),
        End::Dropped => is == (0, &[], false),
    };
    if !fits {
        bail!(
            "{arrived} arrived, answered {statuses:?}, closed: {}; not {end:?}",
            outcome.closed
        );
    }
    if end == End::Arrives(1) {
        let body = body(message.bytes);
        ensure!(
            self::body(&outcome.arrived[0]) == body,
            "another body: {}",
            outcome.arrived[0].escape_ascii()
        );
    }
    Ok(())
}

fn write(stream: &mut TcpStream, message: &[u8], pieces: Pieces) -> std::io::Result<()> {
    match pieces {
        Pieces::Whole => stream.write_all(message),
        Pieces::Bytes => message.chunks(1).try_for_each(|byte| {
            match stream.write_all(byte) {
                // It was refused at a byte before its last.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                    ) =>
                {
                    Ok(())
                }
                other => other,
            }
        }),
    }
}

fn call_id_of_probe(name: &str) -> Vec<u8> {
    format!("behind-{name}@client").into_bytes()
}

fn probe(name: &str) -> Vec<u8> {
    let call_id = String::from_utf8_lossy(&call_id_of_probe(name)).into_owned();
    Message::invite()
        .vias(&["SIP/2.0/TCP 10.210.0.2:5061;branch=z9hG4bK-probe"])
        .call_id(&call_id)
        .build()
}

/// All messages that leave a connection up, in one write, good ones between them.
fn in_one_segment() -> Result<()> {
    let scene = Scene::start()?;
    let mut stream = scene.connect()?;
    let (mut bytes, mut arrives, mut answered) = (Vec::new(), 0, 0);
    for message in corpus::all() {
        match expected(message) {
            End::Arrives(times) => arrives += times,
            End::Answered(_) => answered += 1,
            End::Dropped => {}
            End::ArrivesAndCloses(_) | End::Refused(_) | End::Closed => continue,
        }
        bytes.extend_from_slice(message.bytes);
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&probe(message.name));
        arrives += 1;
    }
    ensure!(arrives > 60, "{arrives} messages only");
    stream.write_all(&bytes)?;
    let mut outcome = Outcome::default();
    outcome.wait(&scene, &mut stream, |outcome| {
        outcome.arrived.len() >= arrives && outcome.answers.len() >= answered
    })?;
    ensure!(!outcome.closed, "it was closed");
    ensure!(
        (outcome.arrived.len(), outcome.answers.len()) == (arrives, answered),
        "{} arrived of {arrives}, {} were answered of {answered}",
        outcome.arrived.len(),
        outcome.answers.len()
    );
    Ok(())
}

/// A message whose end is not known could hide another, which backends would see and we not.
fn behind_a_bad_one() -> Result<()> {
    let scene = Scene::start()?;
    for message in corpus::all() {
        if !matches!(expected(message), End::Refused(_)) {
            continue;
        }
        let mut stream = scene.connect()?;
        stream.write_all(&[message.bytes, &probe(message.name)].concat())?;
        let mut outcome = Outcome::default();
        outcome.wait(&scene, &mut stream, |_| false)?;
        ensure!(
            outcome.closed && outcome.arrived.is_empty(),
            "{}: {outcome:?}",
            message.name
        );
    }
    Ok(())
}

fn status(answer: &[u8]) -> u16 {
    String::from_utf8_lossy(answer)
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

/// Behind the first empty line, as long as Content-Length says: all of it, in these messages.
fn body(message: &[u8]) -> &[u8] {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or(&[], |end| &message[end + 4..])
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
