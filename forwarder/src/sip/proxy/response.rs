//! Responses (RFC 3261 sections 16.7 and 16.11).

use std::{mem, net::IpAddr};

use super::{
    Patch, Proxy,
    cookie::{Cookie, Direction, Time},
    fields::{Fields, elements},
    via::Via,
};
use crate::sip::{
    headers::{Name, Sip, StartLine},
    transport::Flow,
};

/// Why a response comes to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The first Via is somebody else's (RFC 3261 section 18.1.2).
    #[error("the response's first Via is not ours")]
    NotOurs,
    /// The first Via has our name but no cookie that we made for this call.
    #[error("the response's first Via was not written by this forwarder")]
    Forged,
    /// The request was too long ago.
    #[error("the response belongs to a request too long ago")]
    Expired,
    /// Whoever sent it is not who got the request.
    #[error("the response is not from where its request went")]
    WrongSender,
    /// It is no response, or has not exactly one Call-ID, or no first Via that can be read.
    #[error("the response has no readable Via, or not exactly one Call-ID")]
    Malformed,
    /// Only our own Via was in it, and we ask nothing (RFC 3261 section 16.7 item 3).
    #[error("the response is for nobody but this forwarder")]
    NoVia,
}

impl Proxy {
    /// Takes our Via off a response that `sender` sent to the VIP, and says where the response goes.
    pub fn response(
        &self,
        sip: &Sip<'_>,
        sender: IpAddr,
        from_backend: bool,
        unix_seconds: u64,
        patch: &mut Patch,
    ) -> Result<Flow, ResponseError> {
        let StartLine::Response { .. } = sip.start else {
            return Err(ResponseError::Malformed);
        };
        patch.clear();
        let mut unfolded = mem::take(&mut patch.unfolded);
        let fields = Fields::read(sip, &mut unfolded);
        let cookie = self.cut_own_via(&fields, patch);
        patch.unfolded = unfolded;
        let cookie = cookie?;
        if !cookie
            .time
            .is_fresh(Time::of(unix_seconds), self.settings.lifetime)
        {
            return Err(ResponseError::Expired);
        }
        let expected = match cookie.direction {
            Direction::Inward => from_backend,
            Direction::Outward => self.keys.peer(sender) == cookie.peer,
        };
        if !expected {
            return Err(ResponseError::WrongSender);
        }
        patch.finish(sip.bytes().len());
        Ok(cookie.way_back)
    }

    /// The cookie of the first Via, which is cut off: the element alone if it shares its line.
    fn cut_own_via(&self, fields: &Fields<'_>, patch: &mut Patch) -> Result<Cookie, ResponseError> {
        let call_id = fields.value(&fields.call_id);
        if call_id.is_empty() || fields.call_id.again {
            return Err(ResponseError::Malformed);
        }
        let mut lines = fields.lines(Name::Via, fields.vias);
        let line = lines.next().ok_or(ResponseError::Malformed)?;
        let mut list = elements(fields.text, line.value.clone());
        let top = list
            .next()
            .and_then(|element| Via::read(fields.text, element))
            .ok_or(ResponseError::Malformed)?;
        if !self.is_own(&fields.text[top.host.clone()], top.port) {
            return Err(ResponseError::NotOurs);
        }
        let cookie = top
            .cookie
            .and_then(|cookie| Cookie::open(&fields.text[cookie], &self.keys, call_id))
            .ok_or(ResponseError::Forged)?;
        match (list.next(), lines.next()) {
            (Some(next), _) => patch.cut(top.element.start..next.start),
            (None, Some(_)) => patch.cut(line.line),
            (None, None) => return Err(ResponseError::NoVia),
        }
        Ok(cookie)
    }
}
