//! One datagram of a service in mode `proxy`, from its bytes to what becomes of it; no I/O.

use std::{borrow::Cow, net::SocketAddr};

use sip_forwarder_ebpf::{abi::ServiceId, rule::Role, verdict::Verdict};

use super::{
    placement::{Message, Placed, Tables},
    step::{self, Special, Step},
};
use crate::sip::{
    address,
    answer::{self, Answer},
    headers::{Name, StartLine},
    proxy::{self, DropReason, Inward, Outward, Patch, Proxy, Refusal, ResponseError},
    reader::{self, Reading},
};

/// What to do with a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyStep {
    /// Send it on, changed as the patch says.
    Forward {
        /// To whom.
        to: SocketAddr,
    },
    /// Answer.
    Reply(Answer),
    /// Nothing.
    Absorb,
}

/// A service in mode `proxy`, as a worker sees it.
pub struct Proxied<'a> {
    /// The service.
    pub service: ServiceId,
    /// What changes its messages.
    pub proxy: &'a Proxy,
    /// Where its messages go.
    pub tables: &'a dyn Tables,
    /// Seconds since 1970.
    pub now: u64,
}

impl Proxied<'_> {
    /// Decides on a datagram that `sender` sent to the VIP, and writes into `patch` how it is to be
    /// changed. The verdict is to be counted when the step is done, or [`Verdict::DroppedSend`] if it
    /// cannot be.
    #[must_use]
    pub fn step(
        &self,
        datagram: &[u8],
        sender: SocketAddr,
        patch: &mut Patch,
    ) -> (ProxyStep, Verdict) {
        match step::special(datagram, sender, self.service, self.tables) {
            Special::Done(step, verdict) => (of(step), verdict),
            Special::Message(reading) => self.message(&reading, sender, patch),
        }
    }

    fn message(
        &self,
        reading: &Reading<'_>,
        sender: SocketAddr,
        patch: &mut Patch,
    ) -> (ProxyStep, Verdict) {
        let from_backend = self.tables.is_backend(self.service, sender);
        if reading.role == Role::Response {
            return self.response(reading, sender, from_backend, patch);
        }
        if from_backend {
            match self.proxy.outward(&reading.sip, sender, self.now, patch) {
                Outward::Forward { destination } => {
                    let step = ProxyStep::Forward { to: destination };
                    return (step, Verdict::ReturnedRequest);
                }
                // It comes to the cluster like a client's.
                Outward::Spiral => {}
                Outward::Refuse(refusal) => return self.refuse(reading, sender, refusal),
                Outward::Drop(reason) => return drop_request(reason),
            }
        }
        match self.proxy.inward(&reading.sip, sender, self.now, patch) {
            Inward::Forward => self.place(reading, sender),
            Inward::Refuse(refusal) => self.refuse(reading, sender, refusal),
            Inward::Drop(reason) => drop_request(reason),
        }
    }

    fn response(
        &self,
        reading: &Reading<'_>,
        sender: SocketAddr,
        from_backend: bool,
        patch: &mut Patch,
    ) -> (ProxyStep, Verdict) {
        let way_back = self
            .proxy
            .response(&reading.sip, sender, from_backend, self.now, patch);
        let verdict = match way_back {
            Ok(to) => return (ProxyStep::Forward { to }, Verdict::ReturnedResponse),
            Err(ResponseError::NotOurs) => Verdict::DroppedResponseNotOurs,
            Err(ResponseError::Forged) => Verdict::DroppedResponseForged,
            Err(ResponseError::Expired) => Verdict::DroppedResponseExpired,
            Err(ResponseError::WrongSender) => Verdict::DroppedResponseSender,
            Err(ResponseError::Malformed | ResponseError::NoVia) => {
                Verdict::DroppedResponseUnreadable
            }
        };
        (ProxyStep::Absorb, verdict)
    }

    /// Asks the tables. What names a backend is the first Route that is not our own.
    fn place(&self, reading: &Reading<'_>, sender: SocketAddr) -> (ProxyStep, Verdict) {
        let next = self.route_behind_own(reading);
        let message = Message {
            role: reading.role,
            call_id: &reading.call_id,
            host: next.as_ref().map(|(host, port)| (&**host, *port)),
            start: step::starting(reading),
        };
        match self.tables.place(self.service, &message) {
            Placed::To(placement) => {
                let to = placement.backend;
                (ProxyStep::Forward { to }, placement.verdict)
            }
            Placed::Refused { retry_after } => {
                let (step, verdict) = step::refuse(reading, sender, retry_after, self.tables);
                (of(step), verdict)
            }
            Placed::Dropped(verdict) => (ProxyStep::Absorb, verdict),
        }
    }

    fn route_behind_own<'a>(&self, reading: &Reading<'a>) -> Option<(Cow<'a, [u8]>, u16)> {
        if reading.role != Role::InDialog {
            return None;
        }
        for route in reading.sip.all(Name::Route) {
            let mut next = None;
            for element in proxy::list(&route) {
                let (host, port) = address::route_host(&route[element.clone()])?;
                let host = element.start + host.start..element.start + host.end;
                if !self
                    .tables
                    .is_own_name(self.service, &route[host.clone()], port)
                {
                    next = Some((host, port));
                    break;
                }
            }
            if let Some((host, port)) = next {
                return Some((reader::cut(route, host), port));
            }
        }
        None
    }

    fn refuse(
        &self,
        reading: &Reading<'_>,
        sender: SocketAddr,
        refusal: Refusal,
    ) -> (ProxyStep, Verdict) {
        if matches!(reading.sip.start, StartLine::Request { method: b"ACK", .. }) {
            return (ProxyStep::Absorb, Verdict::DroppedRequest);
        }
        let tag = self.tables.refusal_tag(&reading.call_id);
        let (code, reason) = (refusal.code(), refusal.reason());
        match answer::refuse(&reading.sip, sender, code, reason, Some(&tag)) {
            Some(answer) => (ProxyStep::Reply(answer), Verdict::AnsweredFault),
            None => (ProxyStep::Absorb, Verdict::DroppedRequest),
        }
    }
}

fn drop_request(reason: DropReason) -> (ProxyStep, Verdict) {
    let verdict = match reason {
        DropReason::NotARequest => Verdict::DroppedNotSip,
        DropReason::Ack(_) => Verdict::DroppedRequest,
    };
    (ProxyStep::Absorb, verdict)
}

/// A step that forwards nothing.
fn of(step: Step) -> ProxyStep {
    match step {
        Step::Reply(answer) => ProxyStep::Reply(answer),
        Step::Forward { .. } | Step::Absorb => ProxyStep::Absorb,
    }
}
