//! Path, flow tokens, and Record-Routes of two halves.

use std::num::NonZeroU64;

use super::*;
use crate::sip::transport::ConnectionId;

const PHONE: &str = "203.0.113.7:40001";

fn flow(transport: Transport, peer: &str) -> Flow {
    Flow {
        transport,
        peer: address(peer),
        connection: transport
            .has_connections()
            .then(|| ConnectionId(NonZeroU64::new(77).unwrap())),
    }
}

fn edge(onward: Transport) -> Proxy {
    Proxy::new(Settings {
        edge: true,
        onward,
        listeners: vec![
            (Transport::Tcp, 5060),
            (Transport::Tls, 5061),
            (Transport::Ws, 8080),
        ],
        ..settings()
    })
}

/// What a backend gets of a phone's request.
fn from_phone(proxy: &Proxy, request: &str, phone: Flow) -> String {
    let mut patch = Patch::default();
    let sip = Sip::cut(request.as_bytes()).unwrap();
    let onward = proxy.settings().onward;
    let done = proxy.inward(&sip, phone, onward, NOW, &mut patch);
    assert_eq!(done, Inward::Forward);
    text(written(&patch, request.as_bytes()))
}

/// Where a backend's request goes, and as what, after so many seconds.
fn to_phone(proxy: &Proxy, request: &str, seconds: u64) -> Result<(String, Flow), Outward> {
    let mut patch = Patch::default();
    let sip = Sip::cut(request.as_bytes()).unwrap();
    let inner = proxy.settings().onward;
    let backend = flow(inner, BACKEND);
    match proxy.outward(&sip, backend, NOW + seconds, &mut patch) {
        Outward::Forward { destination } => {
            Ok((text(written(&patch, request.as_bytes())), destination))
        }
        other => Err(other),
    }
}

/// The values of all headers of this name.
fn values<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    let prefix = format!("{name}: ");
    message
        .split("\r\n")
        .filter_map(|line| line.strip_prefix(&prefix))
        .collect()
}

fn register(via: &str) -> String {
    request("REGISTER sip:y", via, "Path: <sip:other;lr>\r\n")
}

#[test]
fn a_registration_gets_a_path_that_leads_back_by_its_flow() {
    for transport in Transport::ALL {
        let proxy = edge(Transport::Udp);
        let phone = flow(transport, PHONE);
        let registered = from_phone(&proxy, &register(VIA), phone);
        let paths = values(&registered, "Path");
        assert_eq!(paths.len(), 2, "{registered}");
        assert!(paths[0].ends_with("@192.0.2.1:5060;lr;ob>"), "{}", paths[0]);
        assert_eq!(paths[1], "<sip:other;lr>");

        let route = format!("Route: {}\r\n", paths[0]);
        let call = request(
            "INVITE sip:b@10.9.9.9:1",
            "Via: SIP/2.0/UDP 10.0.0.1\r\n",
            &route,
        );
        let (called, to) = to_phone(&proxy, &call, 86_400).unwrap();
        assert_eq!(to, phone);
        assert!(values(&called, "Route").is_empty(), "{called}");
        let name = transport.name();
        assert!(values(&called, "Via")[0].starts_with(&format!("SIP/2.0/{name} 192.0.2.1:")));

        let at = call.find("@192.0.2.1").unwrap() - 9;
        let other = if &call[at..=at] == "A" { "B" } else { "A" };
        let mut forged = call.clone();
        forged.replace_range(at..=at, other);
        let refused = Err(Outward::Refuse(Refusal::BadFlowToken));
        assert_eq!(to_phone(&proxy, &forged, 0), refused);
        assert_eq!(to_phone(&proxy, &call, 3 * 86_400), refused);
    }
    assert_eq!(Refusal::BadFlowToken.code(), 403);
    assert_eq!(Refusal::FlowFailed.code(), 430);
}

#[test]
fn a_phone_whose_address_is_true_gets_a_path_without_a_token() {
    let proxy = edge(Transport::Udp);
    let via = "Via: SIP/2.0/UDP 203.0.113.7:40001\r\n";
    let registered = from_phone(&proxy, &register(via), Flow::udp(address(PHONE)));
    assert_eq!(values(&registered, "Path")[0], "<sip:192.0.2.1:5060;lr;ob>");
    let invite = request("INVITE sip:b@y", via, "");
    let forwarded = from_phone(&proxy, &invite, Flow::udp(address(PHONE)));
    assert!(values(&forwarded, "Record-Route").is_empty());
}

#[test]
fn without_edge_nothing_is_added() {
    let registered = from_phone(&proxy(), &register(VIA), udp(PHONE));
    assert_eq!(values(&registered, "Path"), ["<sip:other;lr>"]);
}

#[test]
fn where_transports_differ_the_route_is_recorded_twice() {
    let proxy = edge(Transport::Udp);
    let phone = flow(Transport::Tls, PHONE);
    let invite = from_phone(&proxy, &request("INVITE sip:b@y", VIA, ""), phone);
    let [inner, outer] = values(&invite, "Record-Route")[..] else {
        panic!("{invite}");
    };
    assert!(inner.ends_with("@192.0.2.1:5060;lr>"), "{inner}");
    assert_eq!(outer, "<sip:192.0.2.1:5061;transport=tls;lr>");

    // The callee's BYE has the route as it was recorded, the caller's has it reversed.
    let route = format!("Route: {inner}, {outer}, <sip:next;lr>\r\n");
    let bye = request(
        "BYE sip:a@10.9.9.9",
        "Via: SIP/2.0/UDP 10.0.0.1\r\n",
        &route,
    );
    let (bye, to) = to_phone(&proxy, &bye, 60).unwrap();
    assert_eq!(to, phone);
    assert_eq!(values(&bye, "Route"), ["<sip:next;lr>"]);
    let route = format!("Route: {outer}\r\nRoute: {inner}\r\nRoute: <sip:10.0.0.1;lr>\r\n");
    let bye = from_phone(&proxy, &request("BYE sip:b@y", VIA, &route), phone);
    assert_eq!(values(&bye, "Route"), ["<sip:10.0.0.1;lr>"]);
}

#[test]
fn towards_a_phone_the_outer_half_comes_first() {
    let proxy = edge(Transport::Udp);
    let phone = flow(Transport::Ws, PHONE);
    let registered = from_phone(&proxy, &register(VIA), phone);
    let route = format!("Route: {}\r\n", values(&registered, "Path")[0]);
    let call = request(
        "INVITE sip:b@10.9.9.9",
        "Via: SIP/2.0/UDP 10.0.0.1\r\n",
        &route,
    );
    let (called, _) = to_phone(&proxy, &call, 0).unwrap();
    let [outer, inner] = values(&called, "Record-Route")[..] else {
        panic!("{called}");
    };
    assert_eq!(outer, "<sip:192.0.2.1:8080;transport=ws;lr>");
    assert!(inner.ends_with("@192.0.2.1:5060;lr>"), "{inner}");
}

#[test]
fn with_one_transport_on_both_sides_one_route_is_enough() {
    let proxy = edge(Transport::Tcp);
    let phone = flow(Transport::Tcp, PHONE);
    let invite = from_phone(&proxy, &request("INVITE sip:b@y", VIA, ""), phone);
    let [route] = values(&invite, "Record-Route")[..] else {
        panic!("{invite}");
    };
    assert!(
        route.ends_with("@192.0.2.1:5060;transport=tcp;lr>"),
        "{route}"
    );
    assert!(values(&invite, "Via")[0].starts_with("SIP/2.0/TCP 192.0.2.1:5060;branch="));
}

#[test]
fn a_token_of_a_dialog_is_good_for_no_other() {
    let proxy = edge(Transport::Udp);
    let phone = flow(Transport::Tcp, PHONE);
    let invite = from_phone(&proxy, &request("INVITE sip:b@y", VIA, ""), phone);
    let inner = values(&invite, "Record-Route")[0];
    let bye = request(
        "BYE sip:a@10.9.9.9",
        "Via: SIP/2.0/UDP 10.0.0.1\r\n",
        &format!("Route: {inner}\r\n"),
    );
    assert_eq!(to_phone(&proxy, &bye, 0).unwrap().1, phone);
    let other = bye.replace("Call-ID: c@d", "Call-ID: c@e");
    let refused = Err(Outward::Refuse(Refusal::BadFlowToken));
    assert_eq!(to_phone(&proxy, &other, 0), refused);
}

#[test]
fn a_client_that_presents_a_token_gains_nothing() {
    let proxy = edge(Transport::Udp);
    let phone = flow(Transport::Tcp, PHONE);
    let registered = from_phone(&proxy, &register(VIA), phone);
    let route = format!("Route: {}\r\n", values(&registered, "Path")[0]);
    let stranger = flow(Transport::Tcp, CLIENT);
    // It goes to a backend by the rule, and our Route is gone.
    let forwarded = from_phone(&proxy, &request("INVITE sip:b@y", VIA, &route), stranger);
    assert!(values(&forwarded, "Route").is_empty(), "{forwarded}");
}

#[test]
fn a_later_hop_of_ours_keeps_its_token() {
    let proxy = edge(Transport::Udp);
    let caller = Flow::udp(address(PHONE));
    let invite = from_phone(&proxy, &request("INVITE sip:b@y", VIA, ""), caller);
    let of_caller = values(&invite, "Record-Route")[0];
    let route = format!("Route: <sip:192.0.2.1:5060;lr>\r\nRoute: {of_caller}\r\n");
    let bye = from_phone(&proxy, &request("BYE sip:a@z", VIA, &route), udp(CLIENT));
    assert_eq!(values(&bye, "Route"), [of_caller]);
}

#[test]
fn responses_go_back_by_the_connection_the_request_came_by() {
    let proxy = edge(Transport::Udp);
    let phone = flow(Transport::Tcp, PHONE);
    let invite = from_phone(&proxy, &request("INVITE sip:b@y", VIA, ""), phone);
    let vias = values(&invite, "Via").join("\r\nVia: ");
    let ok = format!("SIP/2.0 200 OK\r\nVia: {vias}\r\nCall-ID: c@d\r\n\r\n");
    let sip = Sip::cut(ok.as_bytes()).unwrap();
    let backend = address(BACKEND).ip();
    let to = proxy
        .response(&sip, backend, true, NOW, &mut Patch::default())
        .unwrap();
    assert_eq!(to.connection, phone.connection);
    // Once it is gone: where the client's Via says.
    assert_eq!(to.peer, address("203.0.113.7:5060"));
}

#[test]
fn a_uri_may_ask_for_a_transport() {
    for (uri, transport, port) in [
        ("sip:b@203.0.113.5;transport=TCP", Transport::Tcp, 5060),
        ("sips:b@203.0.113.5", Transport::Tls, 5061),
        ("sips:b@203.0.113.5:7;transport=tcp", Transport::Tls, 7),
        ("sip:b@203.0.113.5;transport=tls", Transport::Tls, 5061),
        ("sip:b@203.0.113.5:9;transport=ws", Transport::Ws, 9),
        ("sips:b@203.0.113.5:9;transport=ws", Transport::Wss, 9),
    ] {
        let call = request(
            &format!("INVITE {uri}"),
            "Via: SIP/2.0/UDP 10.0.0.1\r\n",
            "",
        );
        let (_, to) = to_phone(&proxy(), &call, 0).unwrap();
        assert_eq!(
            (to.transport, to.peer.port(), to.connection),
            (transport, port, None),
            "{uri}"
        );
    }
}
