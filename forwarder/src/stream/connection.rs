//! The life of one connection: messages in, messages out, and its limits.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::{
    counters::Ending,
    hub::Hub,
    registry::{Admitted, Handle, Order, Registered},
    wire::{Incoming, PONG, Wire},
};
use crate::config::Connections;
use crate::{
    sip::{
        answer,
        framing::{FramingError, Refusal},
        headers::Sip,
    },
    slowpath::flows::Sender,
};
use sip_forwarder_ebpf::verdict::Verdict;

/// While more waits for a peer than this, nothing is read from it.
const HIGH_WATER: usize = 64 * 1024;
/// Messages handled before others have their turn.
const TURN: usize = 64;
/// How long a connection that is being ended may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection that is up.
pub(super) struct Connection<W> {
    wire: W,
    hub: Arc<Hub>,
    worker: usize,
    sender: Sender,
    registered: Registered,
    /// What counts it as a client's.
    admitted: Option<Admitted>,
    opened: Instant,
    /// When something came or went last.
    active: Instant,
    /// Since when a message has been incomplete.
    begun: Option<Instant>,
    /// Since when the peer has taken nothing of what waits.
    stalled: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
}

/// What happened to a connection.
enum Event {
    Read,
    Progress,
    Alarm,
    End(Ending),
}

impl<W: Wire> Connection<W> {
    pub(super) fn new(
        wire: W,
        hub: &Arc<Hub>,
        worker: usize,
        is_backend: bool,
        registered: Registered,
        admitted: Option<Admitted>,
    ) -> Self {
        let now = Instant::now();
        Self {
            wire,
            hub: Arc::clone(hub),
            worker,
            sender: Sender {
                flow: registered.handle.flow,
                is_backend,
            },
            registered,
            admitted,
            opened: now,
            active: now,
            begun: None,
            stalled: None,
            alarm: Box::pin(sleep_until(now)),
        }
    }

    /// Serves it to its end, and tells how it ended.
    pub(super) async fn run(mut self) -> Ending {
        let ending = loop {
            match self.event().await {
                Event::Read => {
                    self.active = Instant::now();
                    if let Err(ending) = self.handle_all().await {
                        break ending;
                    }
                }
                Event::Progress => self.active = Instant::now(),
                Event::Alarm => {
                    if let Some(ending) = self.overdue() {
                        break ending;
                    }
                }
                Event::End(ending) => break ending,
            }
        };
        self.hub.counters.end(ending);
        let Self {
            wire, registered, ..
        } = self;
        // Nothing more can be sent: whoever tries is to know.
        drop(registered);
        say_farewell(wire, ending).await;
        ending
    }

    fn handle(&self) -> &Handle {
        &self.registered.handle
    }

    fn limits(&self) -> &Connections {
        self.hub.limits()
    }

    /// Waits for something to happen, sending meanwhile what waits.
    async fn event(&mut self) -> Event {
        if self.alarm.is_elapsed() {
            let deadline = self.deadline();
            self.alarm.as_mut().reset(deadline);
        }
        poll_fn(|cx| {
            while let Poll::Ready(order) = self.registered.inbox.poll_recv(cx) {
                match order {
                    Some(Order::Send(message)) => self.wire.queue(message),
                    Some(Order::Close(ending)) => return Poll::Ready(Event::End(ending)),
                    None => return Poll::Ready(Event::End(Ending::Shutdown)),
                }
            }
            let mut progress = false;
            if self.wire.has_queued() {
                match self.wire.poll_flush(cx) {
                    Poll::Ready(Ok(sent)) => {
                        self.registered.handle.sent(sent);
                        progress = sent > 0;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Event::End(Ending::Broken)),
                    Poll::Pending => {}
                }
            }
            let waits = self.wire.has_queued();
            if !waits || progress {
                self.stalled = None;
            }
            if waits && self.stalled.is_none() {
                self.stalled = Some(Instant::now());
                self.hurry();
            }
            // A client that does not take answers may not ask. A backend may: it might wait for the same.
            let is_heard = self.admitted.is_none() || self.registered.handle.waiting() < HIGH_WATER;
            if is_heard {
                match self.wire.poll_read(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Event::Read),
                    Poll::Ready(Err(ending)) => return Poll::Ready(Event::End(ending)),
                    Poll::Pending => {}
                }
            }
            if self.alarm.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Alarm);
            }
            // The peer took some and may take more at once.
            if progress && waits {
                cx.waker().wake_by_ref();
            }
            if progress {
                return Poll::Ready(Event::Progress);
            }
            Poll::Pending
        })
        .await
    }

    /// Handles every whole message of what was taken in.
    async fn handle_all(&mut self) -> Result<(), Ending> {
        let mut handled = 0;
        loop {
            match self.wire.next() {
                Ok(None) => break,
                Ok(Some(incoming)) => self.handle_one(&incoming),
                Err(error) => return Err(self.refuse(&error)),
            }
            handled += 1;
            if handled % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        if handled > 0
            && let Some(admitted) = &mut self.admitted
        {
            admitted.set_open();
        }
        self.begun = match (self.wire.is_within_message(), self.begun) {
            (false, _) => None,
            (true, Some(begun)) if handled == 0 => Some(begun),
            (true, _) => Some(self.active),
        };
        self.hurry();
        Ok(())
    }

    fn handle_one(&mut self, incoming: &Incoming) {
        let answer = match incoming {
            Incoming::Ping => {
                self.hub.tables.count(Verdict::AnsweredKeepAlive);
                Some(Bytes::from_static(PONG))
            }
            Incoming::Message(range) => {
                let message = self.wire.bytes(range.clone());
                if self.sender.is_backend {
                    self.handle().unanswered.forget(message);
                }
                let service = self.handle().service;
                self.hub.handle(self.worker, service, message, self.sender)
            }
        };
        if let Some(answer) = answer {
            self.answer(answer);
        }
    }

    fn answer(&mut self, answer: Bytes) {
        self.handle().add_waiting(answer.len());
        self.wire.queue(answer);
    }

    /// Answers, if there is something to answer to, what could not be framed.
    fn refuse(&mut self, error: &FramingError) -> Ending {
        self.hub.tables.count(Verdict::DroppedMalformed);
        if let Some(Refusal { status, headers }) = error.refusal() {
            let reason = match status {
                513 => "Message Too Large",
                _ => "Bad Request",
            };
            let bytes = self.wire.rest().get(..headers).unwrap_or_default();
            let refusal = Sip::cut(bytes)
                .and_then(|sip| answer::refuse(&sip, self.sender.flow.peer, status, reason, None));
            if let Some(refusal) = refusal {
                self.answer(refusal.bytes.into());
            }
        }
        match error {
            FramingError::HeadersTooLong { .. } | FramingError::MessageTooLong { .. } => {
                Ending::TooLarge
            }
            _ => Ending::Malformed,
        }
    }

    /// When it is to be looked at next, at the latest.
    fn deadline(&self) -> Instant {
        let limits = self.limits();
        let idle = self.active + limits.idle_timeout;
        let half_open = self.admitted.as_ref().filter(|a| a.is_half_open());
        [
            half_open.map(|_| self.opened + limits.handshake_timeout),
            self.begun.map(|since| since + limits.message_timeout),
            self.stalled.map(|since| since + limits.write_timeout),
        ]
        .into_iter()
        .flatten()
        .fold(idle, Instant::min)
    }

    /// Sees to it that the alarm is early enough.
    fn hurry(&mut self) {
        let deadline = self.deadline();
        if deadline < self.alarm.deadline() {
            self.alarm.as_mut().reset(deadline);
        }
    }

    /// Is it time to end it?
    fn overdue(&self) -> Option<Ending> {
        let limits = self.limits();
        let now = Instant::now();
        let is_over = |since: Instant, limit: Duration| now >= since + limit;
        let half_open = self.admitted.as_ref().is_some_and(Admitted::is_half_open);
        if half_open && is_over(self.opened, limits.handshake_timeout) {
            return Some(Ending::Handshake);
        }
        if self
            .begun
            .is_some_and(|since| is_over(since, limits.message_timeout))
        {
            return Some(Ending::Slow);
        }
        if self
            .stalled
            .is_some_and(|since| is_over(since, limits.write_timeout))
        {
            return Some(Ending::Stalled);
        }
        is_over(self.active, limits.idle_timeout).then_some(Ending::Idle)
    }
}

/// Sends what can still be sent, and closes in good order. What the peer goes on sending is taken and
/// thrown away for a moment, or the kernel would break the connection before the peer has read why it
/// ends.
async fn say_farewell<W: Wire>(mut wire: W, ending: Ending) {
    if matches!(ending, Ending::Broken | Ending::Stalled | Ending::Backlog) {
        return;
    }
    // Whoever does not listen is left.
    let _ = timeout(FAREWELL, async {
        while wire.has_queued() {
            if poll_fn(|cx| wire.poll_flush(cx)).await.is_err() {
                return;
            }
        }
        if poll_fn(|cx| wire.poll_shutdown(cx)).await.is_err() || ending == Ending::Peer {
            return;
        }
        while poll_fn(|cx| wire.poll_discard(cx)).await.is_ok() {}
    })
    .await;
}
