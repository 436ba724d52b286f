//! What a request is known by: its branch, and whether it was here before.

use std::ops::Range;

use super::{cookie::Cookie, hash::FieldHasher, refusal::Refusal, request::Request, via::Via};
use crate::sip::{address, headers::Name};

/// More hops than Max-Forwards would allow.
const MOST_VIAS: usize = 70;

impl Request<'_> {
    /// The branch of our Via: a pure function of what a request shares with its retransmissions, with
    /// its CANCEL and with the ACK of a non-2xx, and with nothing else (RFC 3261 section 16.11).
    ///
    /// If the sender knows RFC 3261, its own branch says all that. Else it is told by what section
    /// 17.2.3 compares, but for the tag of To: the ACK has one, the INVITE has none.
    pub(super) fn branch(&self, top: &Via) -> u64 {
        let fields = &self.fields;
        let mut hasher = FieldHasher::new(self.proxy.keys.branch);
        hasher.field(fields.value(&fields.call_id));
        match top.unique_branch(fields.text) {
            Some(branch) => hasher
                .field(branch)
                .field(&fields.text[top.host.clone()])
                .field(&top.port.to_be_bytes()),
            None => hasher
                .field(&fields.text[top.element.clone()])
                .field(address::tag(fields.value(&fields.from)).unwrap_or_default())
                .field(fields.cseq_number())
                .field(self.uri),
        };
        hasher.finish()
    }

    /// Stands for all that decides where a request goes (RFC 3261 section 16.6 item 8, RFC 5393
    /// section 4.2): if it comes back with the same, it would go the same way again. Not for our own
    /// Route, which it had once at most.
    pub(super) fn loop_hash(&self, next_route: Option<&Range<usize>>) -> u32 {
        let fields = &self.fields;
        let mut hasher = FieldHasher::new(self.proxy.keys.loops);
        hasher
            .field(self.uri)
            .field(address::tag(fields.value(&fields.to)).unwrap_or_default())
            .field(address::tag(fields.value(&fields.from)).unwrap_or_default())
            .field(fields.value(&fields.call_id))
            .field(fields.cseq_number());
        if let Some(next) = next_route {
            for field in fields.lines(Name::Route, fields.routes) {
                let rest = field.value.start.max(next.start)..field.value.end;
                if !rest.is_empty() {
                    hasher.field(&fields.text[rest]);
                }
            }
        }
        for field in fields.lines(Name::ProxyRequire, fields.proxy_requires) {
            hasher.field(&fields.text[field.value]);
        }
        hasher.finish() as u32
    }

    /// The first Via. Was this request here before, on the same way (RFC 3261 section 16.3 item 4)?
    /// Has it been anywhere too often?
    ///
    /// The way matters because a backend may send on what it got as it got it: once inward and once
    /// outward is no loop.
    pub(super) fn check_vias(&self, loop_hash: u32) -> Result<Via, Refusal> {
        let text = self.fields.text;
        let mut elements = self.fields.via_elements();
        let first = elements.next().ok_or(Refusal::NoVia)?;
        let top = Via::read(text, first).ok_or(Refusal::BadVia)?;
        if self.is_loop(&top, loop_hash) {
            return Err(Refusal::Loop);
        }
        for (index, element) in elements.enumerate() {
            if index + 1 == MOST_VIAS {
                return Err(Refusal::TooManyHops);
            }
            if Via::read(text, element).is_some_and(|via| self.is_loop(&via, loop_hash)) {
                return Err(Refusal::Loop);
            }
        }
        Ok(top)
    }

    /// Did we write this Via for the same request on the same way?
    fn is_loop(&self, via: &Via, loop_hash: u32) -> bool {
        let text = self.fields.text;
        via.cookie
            .clone()
            .filter(|_| self.proxy.is_own(&text[via.host.clone()], via.port))
            .and_then(|cookie| self.open(&text[cookie]))
            .is_some_and(|cookie| {
                cookie.loop_hash == loop_hash && cookie.direction == self.arrival.direction
            })
    }

    fn open(&self, text: &[u8]) -> Option<Cookie> {
        let call_id = self.fields.value(&self.fields.call_id);
        Cookie::open(text, &self.proxy.keys, call_id)
    }
}
