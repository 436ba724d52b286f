//! The route of a request (RFC 3261 sections 16.4 to 16.6): our own part of it, where it leads, and
//! how later requests find back to the client.

use std::{net::SocketAddr, ops::Range};

use super::{
    Patch,
    cookie::{Direction, Time},
    fields::{elements, shift},
    refusal::Refusal,
    request::{Request, Stop},
    token::{Found, Purpose, Token},
    via::{Via, ip},
};
use crate::sip::{
    address,
    headers::{Name, trim},
    transport::{Flow, Transport},
};

/// Seconds in which a token leads to its flow: longer than registrations last, and calls.
const TOKEN_LIFETIME: u64 = 2 * 86_400;
/// Port of SIP under TLS (RFC 3261 section 19.1.2).
const TLS_PORT: u16 = 5061;

/// What the route of a request says.
pub(super) struct Route {
    /// The first element that is not ours.
    pub(super) next: Option<Range<usize>>,
    /// What the user parts of ours are.
    token: Found,
}

/// How the client of a request is reached, if it is one that must be reached in a special way.
pub(super) struct ClientSide {
    /// The flow of the client.
    pub(super) flow: Flow,
    /// Is it by this flow alone that the client is reached?
    bound: bool,
}

impl Request<'_> {
    /// Takes our own elements off the top of the route (RFC 3261 section 16.4): two at most, the halves
    /// of a double Record-Route (RFC 5658 section 5). A second one for the same side that bears a token
    /// belongs to a later hop of this request.
    pub(super) fn cut_own_routes(&self, patch: &mut Patch) -> Route {
        let fields = &self.fields;
        let mut first: Option<Range<usize>> = None;
        let mut second = false;
        let mut token = Found::Nothing;
        for field in fields.lines(Name::Route, fields.routes) {
            for element in elements(fields.text, field.value.clone()) {
                let ours = !second
                    && self.is_own_route(element.clone())
                    && first.as_ref().is_none_or(|f| self.may_follow(f, &element));
                if ours {
                    second = first.is_some();
                    // Only a backend's counts.
                    if token == Found::Nothing && self.arrival.direction == Direction::Outward {
                        token = self.token_in(&element);
                    }
                    first = Some(element);
                    continue;
                }
                if element.start != field.value.start {
                    patch.cut(field.value.start..element.start);
                }
                let next = Some(element);
                return Route { next, token };
            }
            patch.cut(field.line);
        }
        Route { next: None, token }
    }

    fn is_own_route(&self, element: Range<usize>) -> bool {
        let route = &self.fields.text[element];
        address::route_host(route).is_some_and(|(host, port)| self.proxy.is_own(&route[host], port))
    }

    /// May an element of ours be the second half of what `first` begins?
    fn may_follow(&self, first: &Range<usize>, element: &Range<usize>) -> bool {
        let side = |element: &Range<usize>| {
            let uri = self.uri_of(element.clone());
            let (host, port) = address::uri_host(uri)?;
            Some((
                &uri[host.clone()],
                port,
                transport_parameter(&uri[host.end..]),
            ))
        };
        side(first) != side(element) || self.token_in(element) == Found::Nothing
    }

    fn uri_of(&self, element: Range<usize>) -> &[u8] {
        let route = &self.fields.text[element];
        trim(&route[address::route_uri(route)])
    }

    /// What the user part of an element of ours is.
    fn token_in(&self, element: &Range<usize>) -> Found {
        let call_id = self.fields.value(&self.fields.call_id);
        let user = address::user(self.uri_of(element.clone()));
        Token::find(user, &self.proxy.keys, call_id)
    }

    /// Where a backend's request goes: by the flow that its Route names, else to the address of the
    /// next Route, or of the Request-URI (RFC 3261 section 16.6 items 6 and 7).
    pub(super) fn destination(&self, route: &Route) -> Result<Flow, Stop> {
        match route.token {
            Found::Token(token) => self.by_token(&token),
            Found::Forged => Err(Refusal::BadFlowToken.into()),
            Found::Nothing => self.by_uri(route.next.clone()),
        }
    }

    fn by_token(&self, token: &Token) -> Result<Flow, Stop> {
        let now = Time::of(self.arrival.unix_seconds);
        if token.time.is_fresh(now, TOKEN_LIFETIME) {
            Ok(token.flow)
        } else {
            Err(Refusal::BadFlowToken.into())
        }
    }

    fn by_uri(&self, next_route: Option<Range<usize>>) -> Result<Flow, Stop> {
        let text = self.fields.text;
        let uri = next_route.map_or(self.uri, |route| {
            let uri = address::route_uri(&text[route.clone()]);
            trim(&text[shift(uri, route.start)])
        });
        let scheme = uri.iter().position(|&b| b == b':').unwrap_or(0);
        let secure = uri[..scheme].eq_ignore_ascii_case(b"sips");
        if !secure && !uri[..scheme].eq_ignore_ascii_case(b"sip") {
            return Err(Refusal::UnsupportedScheme.into());
        }
        let (host, mut port) = address::uri_host(uri).ok_or(Refusal::BadNextHop)?;
        let behind_host = &uri[host.end..];
        let host = &uri[host];
        if self.proxy.is_own(host, port) {
            return Err(Stop::Spiral);
        }
        let ip = ip(host).ok_or(Refusal::NextHopIsName)?;
        let transport = transport_of(transport_parameter(behind_host), secure)?;
        if transport == Transport::Tls && behind_host.first() != Some(&b':') {
            port = TLS_PORT;
        }
        Ok(Flow {
            transport,
            peer: SocketAddr::new(ip, port),
            connection: None,
        })
    }

    /// The client that sent this request.
    pub(super) fn client_side(&self, source: Flow, top: &Via) -> ClientSide {
        let edge = self.proxy.settings.edge;
        let is_translated = || top.is_translated(self.fields.text, source.peer);
        ClientSide {
            flow: source,
            bound: edge && (source.transport.has_connections() || is_translated()),
        }
    }

    /// The client, or carrier, that a backend's request goes to.
    pub(super) fn phone_side(&self, destination: Flow, route: &Route) -> ClientSide {
        let by_token = matches!(route.token, Found::Token(_));
        ClientSide {
            flow: destination,
            bound: self.proxy.settings.edge
                && (by_token || destination.transport.has_connections()),
        }
    }

    /// Writes Path or Record-Route, where this forwarder must stay on the way.
    pub(super) fn write_ways_back(&self, client: &ClientSide, out: &mut Vec<u8>) {
        let settings = &self.proxy.settings;
        let inward = self.arrival.direction == Direction::Inward;
        if settings.edge && inward && self.method == b"REGISTER" {
            out.extend_from_slice(b"Path: <sip:");
            self.write_own_uri(self.inner, client, Purpose::Registration, out);
            // The registrar may count on flows (RFC 5626 section 5.1).
            out.extend_from_slice(b";ob>\r\n");
        }
        if self.may_form_dialog() && (settings.record_route || client.bound) {
            self.write_record_routes(client, inward, out);
        }
    }

    /// The side that the request leaves by comes first (RFC 5658 section 5.1). The token is on the
    /// backends' side, for their requests alone may use it.
    fn write_record_routes(&self, client: &ClientSide, inward: bool, out: &mut Vec<u8>) {
        let outer = client.flow.transport;
        let write_outer = |out: &mut Vec<u8>| {
            out.extend_from_slice(b"Record-Route: <sip:");
            out.extend_from_slice(self.proxy.own.uri(outer).as_bytes());
            out.extend_from_slice(b">\r\n");
        };
        let double = outer != self.inner;
        if double && !inward {
            write_outer(out);
        }
        out.extend_from_slice(b"Record-Route: <sip:");
        self.write_own_uri(self.inner, client, Purpose::Dialog, out);
        out.extend_from_slice(b">\r\n");
        if double && inward {
            write_outer(out);
        }
    }

    /// Our URI on a transport, with a token if the client is bound to its flow.
    fn write_own_uri(
        &self,
        transport: Transport,
        client: &ClientSide,
        purpose: Purpose,
        out: &mut Vec<u8>,
    ) {
        if client.bound {
            let token = Token {
                purpose,
                time: Time::of(self.arrival.unix_seconds),
                flow: client.flow,
            };
            let call_id = self.fields.value(&self.fields.call_id);
            token.seal(&self.proxy.keys, call_id, out);
            out.push(b'@');
        }
        out.extend_from_slice(self.proxy.own.uri(transport).as_bytes());
    }

    /// Can this request form a dialog, or refresh the route of one (RFC 3261 section 16.6 item 4: also
    /// inside a dialog, for a client that has lost its route set)?
    fn may_form_dialog(&self) -> bool {
        matches!(self.method, b"INVITE" | b"SUBSCRIBE" | b"NOTIFY" | b"REFER")
    }
}

/// The value of the parameter `transport` behind a host.
fn transport_parameter(behind_host: &[u8]) -> Option<&[u8]> {
    address::parameters(behind_host).find_map(|p| {
        let (name, value) = p.split_at(p.iter().position(|&b| b == b'=')?);
        name.eq_ignore_ascii_case(b"transport")
            .then_some(&value[1..])
    })
}

/// The transport that a URI asks for (RFC 3261 section 26.2.2 for `sips`, RFC 7118 section 5.2).
fn transport_of(parameter: Option<&[u8]>, secure: bool) -> Result<Transport, Refusal> {
    let is = |name: &[u8]| parameter.is_some_and(|p| p.eq_ignore_ascii_case(name));
    match parameter {
        Some(_) if is(b"ws") && secure => Ok(Transport::Wss),
        Some(_) if is(b"ws") => Ok(Transport::Ws),
        Some(_) if is(b"tls") || (is(b"tcp") && secure) => Ok(Transport::Tls),
        None if secure => Ok(Transport::Tls),
        Some(_) if secure => Err(Refusal::NextHopTransport),
        Some(_) if is(b"tcp") => Ok(Transport::Tcp),
        Some(_) if !is(b"udp") => Err(Refusal::NextHopTransport),
        _ => Ok(Transport::Udp),
    }
}
