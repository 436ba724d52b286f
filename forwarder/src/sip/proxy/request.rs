//! Requests (RFC 3261 sections 16.3 to 16.6 and 16.11).

use std::{io::Write as _, mem, net::IpAddr};

use super::{
    COOKIE_PARAMETER, Patch, Proxy,
    cookie::{Cookie, Direction, Time},
    fields::Fields,
    refusal::{DropReason, Refusal},
    route::ClientSide,
    via::{Via, ip},
};
use crate::sip::{
    headers::{Sip, StartLine, find},
    transport::{Flow, Transport},
};

/// What a request has ahead of it that does not say (RFC 3261 section 16.6 item 3).
const MAX_FORWARDS: u8 = 70;
/// The longest payload of UDP over IPv4.
const LONGEST_MESSAGE: usize = 65_507;

/// What becomes of a client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inward {
    /// It goes to the backend that the rule says, as the patch says.
    Forward,
    /// It is answered.
    Refuse(Refusal),
    /// Nothing.
    Drop(DropReason),
}

/// What becomes of a backend's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outward {
    /// It goes to this address, as the patch says.
    Forward {
        /// The next hop.
        destination: Flow,
    },
    /// Its next hop is the VIP: it is to be treated like a client's, by [`Proxy::inward`].
    Spiral,
    /// It is answered.
    Refuse(Refusal),
    /// Nothing.
    Drop(DropReason),
}

/// Who sent a request, and when.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub(super) source: Flow,
    pub(super) direction: Direction,
    pub(super) unix_seconds: u64,
}

/// What may end the way of a request early.
pub(super) enum Stop {
    Refusal(Refusal),
    Spiral,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl Proxy {
    /// Prepares a request that came by the flow `client` for a backend, to be sent over `onward`.
    pub fn inward(
        &self,
        sip: &Sip<'_>,
        client: Flow,
        onward: Transport,
        unix_seconds: u64,
        patch: &mut Patch,
    ) -> Inward {
        let arrival = Arrival {
            source: client,
            direction: Direction::Inward,
            unix_seconds,
        };
        match self.request(sip, arrival, onward, patch) {
            Outward::Forward { .. } | Outward::Spiral => Inward::Forward,
            Outward::Refuse(refusal) => Inward::Refuse(refusal),
            Outward::Drop(drop) => Inward::Drop(drop),
        }
    }

    /// Prepares a request that came by the flow `backend` for whoever comes next on its way. That the
    /// sender is a backend is for the caller to know: for anybody else this would be an open relay.
    pub fn outward(
        &self,
        sip: &Sip<'_>,
        backend: Flow,
        unix_seconds: u64,
        patch: &mut Patch,
    ) -> Outward {
        let arrival = Arrival {
            source: backend,
            direction: Direction::Outward,
            unix_seconds,
        };
        // For a backend, the transport of the backends' side is that of its own request.
        self.request(sip, arrival, backend.transport, patch)
    }

    fn request(
        &self,
        sip: &Sip<'_>,
        arrival: Arrival,
        inner: Transport,
        patch: &mut Patch,
    ) -> Outward {
        let StartLine::Request { method, uri } = sip.start else {
            return Outward::Drop(DropReason::NotARequest);
        };
        patch.clear();
        if is_other_version(sip) {
            return match method {
                b"ACK" => Outward::Drop(DropReason::Ack(Refusal::UnsupportedVersion)),
                _ => Outward::Refuse(Refusal::UnsupportedVersion),
            };
        }
        let mut unfolded = mem::take(&mut patch.unfolded);
        let fields = Fields::read(sip, &mut unfolded);
        let request = Request {
            proxy: self,
            method,
            uri,
            arrival,
            inner,
            fields,
        };
        let outcome = request.forward(patch).and_then(|destination| {
            patch.finish(sip.bytes().len());
            if patch.length() > LONGEST_MESSAGE {
                return Err(Refusal::TooLarge.into());
            }
            Ok(destination)
        });
        patch.unfolded = unfolded;
        match outcome {
            Ok(destination) => Outward::Forward { destination },
            Err(Stop::Spiral) => Outward::Spiral,
            Err(Stop::Refusal(refusal)) if method == b"ACK" => {
                Outward::Drop(DropReason::Ack(refusal))
            }
            Err(Stop::Refusal(refusal)) => Outward::Refuse(refusal),
        }
    }
}

/// A request on its way.
pub(super) struct Request<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) method: &'a [u8],
    pub(super) uri: &'a [u8],
    pub(super) arrival: Arrival,
    /// The transport of the backends' side.
    pub(super) inner: Transport,
    pub(super) fields: Fields<'a>,
}

impl Request<'_> {
    /// Writes all changes into `patch`. The destination is the source for a request that goes
    /// inward, whose destination is not decided here.
    fn forward(&self, patch: &mut Patch) -> Result<Flow, Stop> {
        self.check_headers()?;
        let forwards = self.max_forwards()?;
        let route = self.cut_own_routes(patch);
        let loop_hash = self.loop_hash(route.next.as_ref());
        let top = self.check_vias(loop_hash)?;
        let source = self.arrival.source;
        let (destination, peer) = match self.arrival.direction {
            Direction::Inward => (source, 0),
            Direction::Outward => {
                let destination = self.destination(&route)?;
                (destination, self.proxy.keys.peer(destination.peer.ip()))
            }
        };
        let cookie = Cookie {
            direction: self.arrival.direction,
            time: Time::of(self.arrival.unix_seconds),
            loop_hash,
            peer,
            way_back: top.way_back(source),
        };
        let client = match self.arrival.direction {
            Direction::Inward => self.client_side(source, &top),
            Direction::Outward => self.phone_side(destination, &route),
        };
        self.insert_headers(&top, &cookie, forwards, &client, patch);
        self.mark_via(&top, patch);
        Ok(destination)
    }

    /// The headers that every request has are there, once (RFC 3261 section 16.3 item 1).
    fn check_headers(&self) -> Result<(), Refusal> {
        let fields = &self.fields;
        if fields.section.len() > self.proxy.settings.longest_headers {
            return Err(Refusal::TooLarge);
        }
        for single in [&fields.call_id, &fields.from, &fields.to, &fields.cseq] {
            if fields.value(single).is_empty() {
                return Err(Refusal::MissingHeader);
            }
            if single.again {
                return Err(Refusal::AmbiguousHeader);
            }
        }
        if fields.max_forwards.again {
            return Err(Refusal::AmbiguousHeader);
        }
        Ok(())
    }

    /// The number that Max-Forwards becomes; with `None` it becomes 70: it is not there, or is more
    /// than a request may have, which may be treated alike (RFC 4475 section 3.1.2.4).
    fn max_forwards(&self) -> Result<Option<u8>, Refusal> {
        if self.fields.max_forwards.value.is_none() {
            return Ok(None);
        }
        let digits = self.fields.value(&self.fields.max_forwards);
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::BadMaxForwards);
        }
        let number = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| d.parse().ok());
        match number {
            None => Ok(None),
            Some(0u8) => Err(Refusal::TooManyHops),
            Some(number) => Ok(Some(number - 1)),
        }
    }

    /// Puts our Via above all headers (RFC 3261 section 16.6 item 8), and above it what else is
    /// wanted. There it is above every other Via, Record-Route and Path, in whatever order they are.
    fn insert_headers(
        &self,
        top: &Via,
        cookie: &Cookie,
        forwards: Option<u8>,
        client: &ClientSide,
        patch: &mut Patch,
    ) {
        let Proxy { own, keys, .. } = self.proxy;
        let fields = &self.fields;
        let begin = fields.section.start;
        let next = match self.arrival.direction {
            Direction::Inward => self.inner,
            Direction::Outward => client.flow.transport,
        };
        patch.replace(begin..begin, |out| {
            out.extend_from_slice(own.via(next).as_bytes());
            write_hex(self.branch(top), out);
            out.push(b';');
            out.extend_from_slice(COOKIE_PARAMETER.as_bytes());
            out.push(b'=');
            cookie.seal(keys, fields.value(&fields.call_id), out);
            out.extend_from_slice(b"\r\n");
            self.write_ways_back(client, out);
            if fields.max_forwards.value.is_none() {
                write(out, format_args!("Max-Forwards: {MAX_FORWARDS}\r\n"));
            }
        });
        if let Some(value) = fields.max_forwards.value.clone() {
            let number = forwards.unwrap_or(MAX_FORWARDS);
            patch.replace(value, |out| write(out, format_args!("{number}")));
        }
    }

    /// Notes in the sender's Via where the request came from: `received` if its sent-by does not say
    /// so (RFC 3261 section 18.2.1), both `received` and `rport` if it asks (RFC 3581 section 4).
    fn mark_via(&self, top: &Via, patch: &mut Patch) {
        let source = self.arrival.source.peer;
        let source_ip = source.ip().to_canonical();
        let host = &self.fields.text[top.host.clone()];
        if let Some(rport) = &top.rport {
            let name_end = rport.start + b"rport".len();
            let port = source.port();
            patch.replace(name_end..rport.end, |out| {
                write(out, format_args!("={port}"));
            });
        }
        if let Some(received) = &top.received {
            // The sender cannot know, so it is not believed.
            patch.replace(received.clone(), |out| write_received(source_ip, out));
        } else if top.rport.is_some() || ip(host) != Some(source_ip) {
            let end = top.element.end;
            patch.replace(end..end, |out| {
                out.push(b';');
                write_received(source_ip, out);
            });
        }
    }
}

/// Does the start line end in a version that is SIP's, but not 2.0? Our Via would be a promise that
/// nobody can keep. What is no version at all is for the backends.
fn is_other_version(sip: &Sip<'_>) -> bool {
    let before_headers = sip.bytes()[..sip.lines().offset()].trim_ascii();
    let end = find(before_headers, b'\n').unwrap_or(before_headers.len());
    let line = before_headers[..end].trim_ascii_end();
    let word = line.rsplit(|&b| b <= b' ').next().unwrap_or_default();
    word.get(..4)
        .is_some_and(|name| name.eq_ignore_ascii_case(b"SIP/"))
        && !word[4..].eq_ignore_ascii_case(b"2.0")
}

fn write_received(ip: IpAddr, out: &mut Vec<u8>) {
    write(out, format_args!("received={ip}"));
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes everything.
    drop(out.write_fmt(text));
}

fn write_hex(number: u64, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for shift in (0..16).rev() {
        out.push(DIGITS[(number >> (4 * shift) & 15) as usize]);
    }
}
