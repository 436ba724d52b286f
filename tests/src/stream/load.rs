//! Calls over many connections: INVITE, 180, 200, ACK, a pause, BYE, 200.
//!
//! A connection that breaks is made anew. What was not answered on it is tried again, as by a caller who is told that
//! his request failed: a call that was not up is called anew, with another Call-ID; a call that was up is ended by
//! another BYE. (The same request again would not do: its answer is what the first one's was, with the way back to
//! the connection that is gone.)

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Target;
use super::carrier::{Carrier, Reader, Socket, Writer};
use super::framing::Unit;
use crate::lab::{Host, Lab};
use crate::messages::{header, headers};
use crate::sipp::{CallReport, Progress, unique};

/// How often a broken connection is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// How often the pacer looks what is due.
const TICK: Duration = Duration::from_millis(2);
/// How many answers that failed a call are kept.
const REFUSALS: usize = 5;

/// What calls to make.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// How many.
    pub calls: u32,
    /// How many to begin per second.
    pub rate: u32,
    /// By how many connections.
    pub connections: u32,
    /// How long a call is held between ACK and BYE.
    pub hold: Duration,
    /// When to give up; calls that are not done by then count as failed.
    pub deadline: Duration,
}

/// What became of them.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// The calls. Nobody counts backends here, see [`CallReport::with_backends`].
    pub calls: CallReport,
    /// Connections that were made anew.
    pub reconnects: u64,
    /// The longest time that a connection was down.
    pub longest_outage: Duration,
    /// The first answers that failed a call, by their start lines.
    pub refusals: Vec<String>,
}

/// Calls that are under way.
#[derive(Debug)]
pub struct Load {
    counters: Arc<Counters>,
    options: LoadOptions,
    started: Instant,
    thread: JoinHandle<Result<()>>,
}

#[derive(Debug, Default)]
struct Counters {
    created: AtomicU64,
    successful: AtomicU64,
    failed: AtomicU64,
    resent: AtomicU64,
    reconnects: AtomicU64,
    longest_outage_us: AtomicU64,
    refusals: Mutex<Vec<String>>,
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn refuse(&self, text: &str) {
        Self::add(&self.failed);
        let mut refusals = self.refusals();
        if refusals.len() < REFUSALS {
            refusals.push(text.lines().next().unwrap_or_default().to_owned());
        }
    }

    fn refusals(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self, elapsed: Duration) -> Progress {
        Progress {
            elapsed,
            created: self.created.load(Ordering::Relaxed),
            successful: self.successful.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            retransmissions: self.resent.load(Ordering::Relaxed),
        }
    }
}

impl Load {
    /// Opens all connections, then begins to call.
    pub fn start(lab: &Lab, host: Host, target: &Target, options: &LoadOptions) -> Result<Self> {
        let counters = Arc::<Counters>::default();
        let (lab, target, options) = (lab.clone(), target.clone(), *options);
        let shared = Arc::clone(&counters);
        let (ready, started) = std::sync::mpsc::channel();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(make_calls(&target, options, &shared, &ready))
        };
        let thread = thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || lab.enter(host, work)?)
            .context("cannot start the load's thread")?;
        if started.recv().is_err() {
            let failed = thread.join().map_err(|_| anyhow!("the load panicked"))?;
            failed?;
            return Err(anyhow!("the load ended before it began"));
        }
        Ok(Self {
            counters,
            options,
            started: Instant::now(),
            thread,
        })
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.counters.progress(self.started.elapsed())
    }

    /// Waits for the end, telling `progress` now and then.
    pub fn finish(self, progress: &mut dyn FnMut(Progress)) -> Result<LoadReport> {
        while !self.thread.is_finished() {
            thread::sleep(Duration::from_millis(20));
            progress(self.progress());
        }
        self.thread
            .join()
            .map_err(|_| anyhow!("the load panicked"))??;
        let elapsed = self.started.elapsed();
        let end = self.counters.progress(elapsed);
        let calls = CallReport {
            created: end.created,
            successful: end.successful,
            failed: u64::from(self.options.calls).saturating_sub(end.successful),
            retransmissions: end.retransmissions,
            split_calls: 0,
            backends: Vec::new(),
            seconds: elapsed.as_secs_f64(),
            elapsed,
            timed_out: end.completed() < u64::from(self.options.calls),
        };
        let outage = self.counters.longest_outage_us.load(Ordering::Relaxed);
        Ok(LoadReport {
            calls,
            reconnects: self.counters.reconnects.load(Ordering::Relaxed),
            longest_outage: Duration::from_micros(outage),
            refusals: self.counters.refusals().clone(),
        })
    }
}

/// What a connection's task is told.
#[derive(Debug)]
enum Event {
    /// A call is due.
    Call(u32),
    /// A call was held long enough.
    HangUp(String),
    /// A message came on the connection of this number.
    Arrived(Vec<u8>),
    /// The connection of this number is gone.
    Lost(u64),
}

async fn make_calls(
    target: &Target,
    options: LoadOptions,
    counters: &Arc<Counters>,
    ready: &std::sync::mpsc::Sender<()>,
) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        let (events, todo) = unbounded_channel();
        let caller = Caller::connect(target, options, counters, events.clone()).await?;
        tokio::spawn(caller.run(todo));
        connections.push(events);
    }
    // Whoever started this may have given up.
    let _ = ready.send(());
    let begin = Instant::now();
    let mut next = 0;
    while counters.progress(Duration::ZERO).completed() < u64::from(options.calls) {
        let passed = begin.elapsed();
        if passed >= options.deadline {
            break;
        }
        let due = (passed.as_secs_f64() * f64::from(options.rate)) as u32;
        while next < due.min(options.calls) {
            let events = &connections[(next % options.connections) as usize];
            // A task ends only when its channel does.
            let _ = events.send(Event::Call(next));
            next += 1;
        }
        tokio::time::sleep(TICK).await;
    }
    Ok(())
}

/// One connection and its calls.
struct Caller {
    target: Target,
    options: LoadOptions,
    counters: Arc<Counters>,
    events: UnboundedSender<Event>,
    writer: Writer,
    /// Which connection this is: what is told of an older one is stale.
    generation: u64,
    sent_by: String,
    calls: HashMap<String, Call>,
    prefix: String,
}

/// A call that is not over.
#[derive(Debug)]
struct Call {
    number: u32,
    state: State,
    /// The ACK, in case the 200 comes again.
    ack: Vec<u8>,
    /// The 200, which tells how the other end is reached.
    ok: String,
    /// Of the last request.
    cseq: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Inviting,
    Up,
    Ending,
}

impl Caller {
    async fn connect(
        target: &Target,
        options: LoadOptions,
        counters: &Arc<Counters>,
        events: UnboundedSender<Event>,
    ) -> Result<Self> {
        let (writer, sent_by) = open(target, &events, 0).await?;
        Ok(Self {
            target: target.clone(),
            options,
            counters: Arc::clone(counters),
            events,
            writer,
            generation: 0,
            sent_by,
            calls: HashMap::new(),
            prefix: format!("load-{}-{}", std::process::id(), unique()),
        })
    }

    async fn run(mut self, mut todo: UnboundedReceiver<Event>) {
        while let Some(event) = todo.recv().await {
            match event {
                Event::Call(number) => {
                    Counters::add(&self.counters.created);
                    self.begin(number).await;
                }
                Event::HangUp(call) => self.hang_up(&call).await,
                Event::Arrived(message) => self.take(&message).await,
                Event::Lost(generation) if generation == self.generation => self.reconnect().await,
                Event::Lost(_) => {}
            }
        }
    }

    async fn send(&mut self, message: &[u8]) {
        // If the connection broke, its reader tells, and what was not answered is tried again.
        let _ = self.writer.send(message).await;
    }

    async fn begin(&mut self, number: u32) {
        let id = format!("{}-{number}-{}@load", self.prefix, self.generation);
        let invite = self.invite(&id, number);
        self.calls.insert(
            id,
            Call {
                number,
                state: State::Inviting,
                ack: Vec::new(),
                ok: String::new(),
                cseq: 1,
            },
        );
        self.send(&invite).await;
    }

    async fn hang_up(&mut self, id: &str) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        call.state = State::Ending;
        call.cseq += 1;
        let (cseq, number, ok) = (call.cseq, call.number, call.ok.clone());
        let bye = self.in_dialog("BYE", cseq, number, id, &ok);
        self.send(&bye).await;
    }

    async fn take(&mut self, message: &[u8]) {
        let text = String::from_utf8_lossy(message).into_owned();
        let (Some(status), Some(id)) = (status(&text), header(&text, "Call-ID")) else {
            return;
        };
        let Some(call) = self.calls.get(id) else {
            return;
        };
        let of_invite = header(&text, "CSeq").is_some_and(|cseq| cseq.ends_with("INVITE"));
        match (call.state, of_invite, status) {
            // What is left of the INVITE tells nothing any more.
            (_, _, 100..=199) | (State::Ending, true, _) => {}
            (State::Inviting, true, 200..=299) => self.establish(&text, id).await,
            // The ACK was lost.
            (State::Up, true, 200..=299) => {
                let ack = call.ack.clone();
                self.send(&ack).await;
            }
            (State::Ending, false, 200..=299) => {
                self.calls.remove(id);
                Counters::add(&self.counters.successful);
            }
            _ => {
                self.calls.remove(id);
                self.counters.refuse(&text);
            }
        }
    }

    async fn establish(&mut self, ok: &str, id: &str) {
        let Some(number) = self.calls.get(id).map(|call| call.number) else {
            return;
        };
        let ack = self.in_dialog("ACK", 1, number, id, ok);
        if let Some(call) = self.calls.get_mut(id) {
            call.state = State::Up;
            call.ack.clone_from(&ack);
            ok.clone_into(&mut call.ok);
        }
        self.send(&ack).await;
        if self.options.hold.is_zero() {
            return self.hang_up(id).await;
        }
        let (events, hold, id) = (self.events.clone(), self.options.hold, id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(hold).await;
            // The load may be over by then.
            let _ = events.send(Event::HangUp(id));
        });
    }

    async fn reconnect(&mut self) {
        let down = Instant::now();
        self.generation += 1;
        loop {
            if let Ok((writer, sent_by)) = open(&self.target, &self.events, self.generation).await {
                self.writer = writer;
                self.sent_by = sent_by;
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        Counters::add(&self.counters.reconnects);
        let outage = down.elapsed().as_micros() as u64;
        self.counters
            .longest_outage_us
            .fetch_max(outage, Ordering::Relaxed);
        let unanswered: Vec<(String, u32, State)> = self
            .calls
            .iter()
            .filter(|(_, call)| call.state != State::Up)
            .map(|(id, call)| (id.clone(), call.number, call.state))
            .collect();
        for (id, number, state) in unanswered {
            Counters::add(&self.counters.resent);
            if state == State::Inviting {
                self.calls.remove(&id);
                self.begin(number).await;
            } else {
                self.hang_up(&id).await;
            }
        }
    }

    fn via(&self, id: &str, cseq: u32, what: &str) -> String {
        let id = id.split('@').next().unwrap_or(id);
        format!(
            "SIP/2.0/{} {};branch=z9hG4bK-{id}-{cseq}{what};rport",
            self.target.transport.in_via(),
            self.sent_by
        )
    }

    fn invite(&self, id: &str, number: u32) -> Vec<u8> {
        let (vip, sent_by) = (self.target.address, &self.sent_by);
        let body = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
                    m=audio 6000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";
        format!(
            "INVITE sip:service@{vip} SIP/2.0\r\n\
             Via: {via}\r\n\
             From: <sip:load@{vip}>;tag={number}\r\n\
             To: <sip:service@{vip}>\r\n\
             Call-ID: {id}\r\n\
             CSeq: 1 INVITE\r\n\
             Contact: <sip:load@{sent_by};transport={transport}>\r\n\
             Max-Forwards: 70\r\n\
             Content-Type: application/sdp\r\n\
             Content-Length: {length}\r\n\r\n{body}",
            via = self.via(id, 1, ""),
            transport = self.target.transport,
            length = body.len(),
        )
        .into_bytes()
    }

    fn in_dialog(&self, method: &str, cseq: u32, number: u32, id: &str, ok: &str) -> Vec<u8> {
        let vip = self.target.address;
        let contact = header(ok, "Contact")
            .and_then(bracketed)
            .unwrap_or_default();
        let mut routes = String::new();
        for route in headers(ok, "Record-Route").iter().rev() {
            // Writing to a String cannot fail.
            let _ = write!(routes, "Route: {route}\r\n");
        }
        format!(
            "{method} {contact} SIP/2.0\r\n\
             Via: {via}\r\n\
             {routes}\
             From: <sip:load@{vip}>;tag={number}\r\n\
             To: {to}\r\n\
             Call-ID: {id}\r\n\
             CSeq: {cseq} {method}\r\n\
             Max-Forwards: 70\r\n\
             Content-Length: 0\r\n\r\n",
            via = self.via(id, cseq, method),
            to = header(ok, "To").unwrap_or_default(),
        )
        .into_bytes()
    }
}

/// What stands in angle brackets.
fn bracketed(value: &str) -> Option<&str> {
    value.split_once('<')?.1.split_once('>').map(|(uri, _)| uri)
}

/// The status of a response.
fn status(text: &str) -> Option<u16> {
    text.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
}

/// Connects, has what comes sent to the caller's task, and tells how the connection calls itself in a Via.
async fn open(
    target: &Target,
    events: &UnboundedSender<Event>,
    generation: u64,
) -> Result<(Writer, String)> {
    let socket = Socket::open_here(target)?;
    let local = socket.local();
    let carrier = Carrier::new(socket, target).await?;
    tokio::spawn(read(carrier.reader, events.clone(), generation));
    let sent_by = if target.transport.is_web() {
        // A browser has no address of its own (RFC 7118 section 5.2).
        format!("load-{}.invalid", local.port())
    } else {
        local.to_string()
    };
    Ok((carrier.writer, sent_by))
}

async fn read(mut reader: Reader, events: UnboundedSender<Event>, generation: u64) {
    while let Ok(Some(unit)) = reader.next().await {
        if let Unit::Message(message) = unit
            && events.send(Event::Arrived(message)).is_err()
        {
            return;
        }
    }
    // If nobody listens any more, the load is over.
    let _ = events.send(Event::Lost(generation));
}
