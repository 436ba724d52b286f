//! One message of a service in mode `proxy`, from its bytes to what becomes of it; no I/O.

use std::borrow::Cow;

use sip_forwarder_ebpf::{abi::ServiceId, rule::Role, verdict::Verdict};

use super::{
    flows::{Flows, Next, Sender},
    placement::{Message, Placed, Tables},
    step::{self, Special, Step},
};
use crate::sip::{
    address,
    answer::{self, Answer},
    headers::{Name, StartLine},
    proxy::{self, DropReason, Inward, Outward, Patch, Proxy, Refusal, ResponseError},
    reader::{self, Reading},
    transport::{Flow, Transport},
};

/// A longer request should not go as a datagram where the path is unknown (RFC 3261 section 18.1.1).
const LARGEST_DATAGRAM: usize = 1_300;

/// What to do with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyStep {
    /// Send it on, changed as the patch says.
    Forward(Next),
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
    /// The connections.
    pub flows: &'a dyn Flows,
    /// Seconds since 1970.
    pub now: u64,
}

impl Proxied<'_> {
    /// Decides on a message that came to the VIP, and writes into `patch` how it is to be changed. The
    /// verdict is to be counted when the step is done, or [`Verdict::DroppedSend`] if it cannot be.
    #[must_use]
    pub fn step(&self, message: &[u8], sender: Sender, patch: &mut Patch) -> (ProxyStep, Verdict) {
        match step::special(message, sender.flow.peer, self.service, self.tables) {
            Special::Done(step, verdict) => (of(step), verdict),
            Special::Message(reading) => self.message(&reading, sender, patch),
        }
    }

    /// Decides anew where a request goes that was prepared for a backend already, over `transport`, and
    /// did not reach it.
    #[must_use]
    pub fn place_again(
        &self,
        prepared: &[u8],
        sender: Sender,
        transport: Transport,
    ) -> (ProxyStep, Verdict) {
        match reader::read(prepared) {
            Ok(reading) => self.place(&reading, sender, transport),
            Err(_) => (ProxyStep::Absorb, Verdict::DroppedRequest),
        }
    }

    fn message(
        &self,
        reading: &Reading<'_>,
        sender: Sender,
        patch: &mut Patch,
    ) -> (ProxyStep, Verdict) {
        if reading.role == Role::Response {
            return self.response(reading, sender, patch);
        }
        if sender.is_backend {
            match self
                .proxy
                .outward(&reading.sip, sender.flow, self.now, patch)
            {
                Outward::Forward { destination }
                    if self.flows.is_open(self.service, &destination) =>
                {
                    let step = ProxyStep::Forward(Next::Flow(destination));
                    return (step, Verdict::ReturnedRequest);
                }
                Outward::Forward { destination } => {
                    let refusal = match destination.connection {
                        Some(_) => Refusal::FlowFailed,
                        None => Refusal::NextHopTransport,
                    };
                    return self.refuse(reading, sender, refusal);
                }
                // It comes to the cluster like a client's.
                Outward::Spiral => {}
                Outward::Refuse(refusal) => return self.refuse(reading, sender, refusal),
                Outward::Drop(reason) => return drop_request(reason),
            }
        }
        self.inward(reading, sender, self.onward(reading), patch)
    }

    /// Over what a request goes to a backend (RFC 3261 section 18.1.1 for large ones).
    fn onward(&self, reading: &Reading<'_>) -> Transport {
        let settings = self.proxy.settings();
        let length = reading.sip.bytes().len() + settings.longest_addition();
        if settings.large_by_tcp && length > LARGEST_DATAGRAM {
            Transport::Tcp
        } else {
            settings.onward
        }
    }

    fn inward(
        &self,
        reading: &Reading<'_>,
        sender: Sender,
        onward: Transport,
        patch: &mut Patch,
    ) -> (ProxyStep, Verdict) {
        let client = sender.flow;
        match self
            .proxy
            .inward(&reading.sip, client, onward, self.now, patch)
        {
            Inward::Forward => {}
            Inward::Refuse(refusal) => return self.refuse(reading, sender, refusal),
            Inward::Drop(reason) => return drop_request(reason),
        }
        let (step, verdict) = self.place(reading, sender, onward);
        let ProxyStep::Forward(Next::Backend { address, .. }) = step else {
            return (step, verdict);
        };
        if onward == self.proxy.settings().onward || self.flows.takes_large_by_tcp(address) {
            return (step, verdict);
        }
        // The backend is deaf on TCP: a fragmented datagram is better than none.
        let transport = self.proxy.settings().onward;
        match self
            .proxy
            .inward(&reading.sip, client, transport, self.now, patch)
        {
            Inward::Forward => {
                let next = Next::Backend { address, transport };
                (ProxyStep::Forward(next), verdict)
            }
            Inward::Refuse(_) | Inward::Drop(_) => (ProxyStep::Absorb, Verdict::DroppedRequest),
        }
    }

    fn response(
        &self,
        reading: &Reading<'_>,
        sender: Sender,
        patch: &mut Patch,
    ) -> (ProxyStep, Verdict) {
        let way_back = self.proxy.response(
            &reading.sip,
            sender.flow.peer.ip(),
            sender.is_backend,
            self.now,
            patch,
        );
        let verdict = match way_back {
            Ok(to) => {
                return self.flow_back(to).map_or(
                    (ProxyStep::Absorb, Verdict::DroppedFlowGone),
                    |flow| {
                        let step = ProxyStep::Forward(Next::Flow(flow));
                        (step, Verdict::ReturnedResponse)
                    },
                );
            }
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

    /// The flow by which a response finds back: that of its request; once that is gone, over TCP, a
    /// connection to where the client's Via says that it listens (RFC 3261 section 18.2.2).
    fn flow_back(&self, to: Flow) -> Option<Flow> {
        let anew = Flow {
            connection: None,
            ..to
        };
        [to, anew]
            .into_iter()
            .find(|flow| self.flows.is_open(self.service, flow))
    }

    /// Asks the tables. What names a backend is the first Route that is not our own.
    fn place(
        &self,
        reading: &Reading<'_>,
        sender: Sender,
        transport: Transport,
    ) -> (ProxyStep, Verdict) {
        let next = self.route_behind_own(reading);
        let message = Message {
            role: reading.role,
            call_id: &reading.call_id,
            host: next.as_ref().map(|(host, port)| (&**host, *port)),
            start: step::starting(reading),
        };
        match self.tables.place(self.service, &message) {
            Placed::To(placement) => {
                let address = placement.backend;
                let next = Next::Backend { address, transport };
                (ProxyStep::Forward(next), placement.verdict)
            }
            Placed::Refused { retry_after } => {
                let (step, verdict) =
                    step::refuse(reading, sender.flow.peer, retry_after, self.tables);
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
                if !self.is_own(&route[host.clone()], port) {
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

    fn is_own(&self, host: &[u8], port: u16) -> bool {
        self.proxy.is_own(host, port) || self.tables.is_own_name(self.service, host, port)
    }

    fn refuse(
        &self,
        reading: &Reading<'_>,
        sender: Sender,
        refusal: Refusal,
    ) -> (ProxyStep, Verdict) {
        if matches!(reading.sip.start, StartLine::Request { method: b"ACK", .. }) {
            return (ProxyStep::Absorb, Verdict::DroppedRequest);
        }
        let tag = self.tables.refusal_tag(&reading.call_id);
        let (code, reason) = (refusal.code(), refusal.reason());
        match answer::refuse(&reading.sip, sender.flow.peer, code, reason, Some(&tag)) {
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
