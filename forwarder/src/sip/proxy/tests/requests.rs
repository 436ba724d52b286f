use super::*;

fn own_via_of(forwarded: &str) -> &str {
    forwarded.split("\r\n").nth(1).unwrap()
}

#[test]
fn our_via_comes_first_and_all_else_stays() {
    let original = request("INVITE sip:b@y", VIA, "");
    let forwarded = text(inward(&proxy(), original.as_bytes(), CLIENT).unwrap());
    let via = own_via_of(&forwarded);
    let (head, cookie) = via.split_once(";sfw=").unwrap();
    let branch = head
        .strip_prefix("Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK")
        .unwrap();
    assert!(branch.len() == 16 && branch.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(cookie.len(), 35);
    assert_eq!(
        forwarded,
        original
            .replacen("\r\n", &format!("\r\n{via}\r\n"), 1)
            .replace("Max-Forwards: 70", "Max-Forwards: 69")
    );
}

#[test]
fn pieces_refer_to_the_original_and_to_little_else() {
    let original = request("INVITE sip:b@y", VIA, "");
    let mut patch = Patch::default();
    let sip = Sip::cut(original.as_bytes()).unwrap();
    for _ in 0..2 {
        let done = proxy().inward(&sip, udp(CLIENT), Transport::Udp, NOW, &mut patch);
        assert_eq!(done, Inward::Forward);
        let [
            Piece::Original(start),
            Piece::Inserted(via),
            Piece::Original(_),
            Piece::Inserted(forwards),
            Piece::Original(rest),
        ] = patch.pieces()
        else {
            panic!("{:?}", patch.pieces());
        };
        assert_eq!(&original[start.clone()], "INVITE sip:b@y SIP/2.0\r\n");
        assert!(patch.inserted()[via.clone()].starts_with(b"Via: "));
        assert_eq!(&patch.inserted()[forwards.clone()], b"69");
        assert!(original[rest.clone()].ends_with("\r\n\r\nbody"));
    }
}

#[test]
fn the_advertised_host_stands_in_via_and_record_route() {
    let advertised = Proxy::new(Settings {
        advertised: Some("Edge.example".into()),
        record_route: true,
        ..settings()
    });
    let more = "Route: <sip:edge.EXAMPLE;lr>,<sip:192.0.2.1:5060;lr>\r\n";
    let original = request("INVITE sip:b@y", VIA, more);
    let forwarded = text(inward(&advertised, original.as_bytes(), CLIENT).unwrap());
    assert!(own_via_of(&forwarded).starts_with("Via: SIP/2.0/UDP Edge.example:5060;branch="));
    assert!(forwarded.contains("\r\nRecord-Route: <sip:Edge.example:5060;lr>\r\nVia: "));
    assert!(!forwarded.contains("\r\nRoute:"));
}

#[test]
fn an_ipv6_vip_stands_in_brackets() {
    let ipv6 = Proxy::new(Settings {
        own: address("[2001:db8::1]:5060"),
        record_route: true,
        ..settings()
    });
    let original = request(
        "INVITE sip:b@y",
        "v:SIP/2.0/UDP [2001:db8::9];rport\r\n",
        "Route: <sip:[2001:DB8:0::1];lr>\r\n",
    );
    let forwarded = text(inward(&ipv6, original.as_bytes(), "[2001:db8::7]:7").unwrap());
    let via = own_via_of(&forwarded);
    assert!(via.starts_with("Via: SIP/2.0/UDP [2001:db8::1]:5060;branch=z9hG4bK"));
    assert!(forwarded.contains(
        "\r\nRecord-Route: <sip:[2001:db8::1]:5060;lr>\r\n\
        v:SIP/2.0/UDP [2001:db8::9];rport=7;received=2001:db8::7\r\n"
    ));
    assert!(!forwarded.contains("\r\nRoute:"));
    let answer = format!("SIP/2.0 200 OK\r\n{via}\r\nVia: SIP/2.0/UDP a\r\nCall-ID: c@d\r\n\r\n");
    let (_, to) = response(&ipv6, answer.as_bytes(), 0).unwrap();
    assert_eq!(to, address("[2001:db8::7]:7"));
}

#[test]
fn the_clients_via_is_marked() {
    for (via, expected) in [
        (
            "Via: SIP/2.0/UDP 198.51.100.9;branch=z\r\n",
            "Via: SIP/2.0/UDP 198.51.100.9;branch=z\r\n",
        ),
        (
            "Via: SIP/2.0/UDP pc.example;branch=z \r\n",
            "Via: SIP/2.0/UDP pc.example;branch=z;received=198.51.100.9 \r\n",
        ),
        (
            "v:SIP/2.0/UDP 198.51.100.9;rport;branch=z\r\n",
            "v:SIP/2.0/UDP 198.51.100.9;rport=40000;branch=z;received=198.51.100.9\r\n",
        ),
        (
            "Via: SIP/2.0/UDP 198.51.100.9 ; RPORT = 7 ; Received=203.0.113.1 ; x, SIP/2.0/UDP a;rport\r\n",
            "Via: SIP/2.0/UDP 198.51.100.9 ; RPORT=40000 ; received=198.51.100.9 ; x, SIP/2.0/UDP a;rport\r\n",
        ),
        (
            "Via: SIP/2.0/UDP a;rport, SIP/2.0/UDP b\r\nVia: SIP/2.0/UDP c;rport\r\n",
            "Via: SIP/2.0/UDP a;rport=40000;received=198.51.100.9, SIP/2.0/UDP b\r\nVia: SIP/2.0/UDP c;rport\r\n",
        ),
        (
            "VIA :\r\n SIP / 2.0 / UDP\r\n\ta : 7\r\n ;rport\r\n ,SIP/2.0/UDP b\r\n",
            "VIA :\r\n SIP / 2.0 / UDP\r\n\ta : 7\r\n ;rport=40000;received=198.51.100.9\r\n ,SIP/2.0/UDP b\r\n",
        ),
        (
            "Via: SIP/2.0/UDP a;x=\";rport,\"\r\n",
            "Via: SIP/2.0/UDP a;x=\";rport,\";received=198.51.100.9\r\n",
        ),
    ] {
        let original = request("INVITE sip:b@y", via, "");
        let (_, rest) = split_own_via(&inward(&proxy(), original.as_bytes(), CLIENT).unwrap());
        let expected = request("INVITE sip:b@y", expected, "").replace(": 70", ": 69");
        assert_eq!(text(rest), expected);
    }
}

#[test]
fn an_ipv4_client_of_an_ipv6_socket_is_named_as_ipv4() {
    let original = request("INVITE sip:b@y", VIA, "");
    let client = "[::ffff:198.51.100.9]:7";
    let (_, rest) = split_own_via(&inward(&proxy(), original.as_bytes(), client).unwrap());
    assert_eq!(text(rest), original.replace(": 70", ": 69"));
}

#[test]
fn max_forwards_is_counted_down() {
    for (header, expected) in [
        ("Max-Forwards: 70\r\n", Ok("Max-Forwards: 69\r\n")),
        ("MAX-FORWARDS :\t10 \r\n", Ok("MAX-FORWARDS :\t9 \r\n")),
        ("Max-Forwards:\r\n 1\r\n", Ok("Max-Forwards:\r\n 0\r\n")),
        ("Max-Forwards: 007\r\n", Ok("Max-Forwards: 6\r\n")),
        ("Max-Forwards: 300\r\n", Ok("Max-Forwards: 70\r\n")),
        ("Max-Forwards: 0\r\n", Err(Refusal::TooManyHops)),
        ("Max-Forwards: -1\r\n", Err(Refusal::BadMaxForwards)),
        ("Max-Forwards: 7, 8\r\n", Err(Refusal::BadMaxForwards)),
        ("Max-Forwards:\r\n", Err(Refusal::BadMaxForwards)),
        (
            "Max-Forwards: 7\r\nMax-Forwards: 7\r\n",
            Err(Refusal::AmbiguousHeader),
        ),
    ] {
        let original = request("OPTIONS sip:b@y", VIA, "").replace("Max-Forwards: 70\r\n", header);
        let done = inward(&proxy(), original.as_bytes(), CLIENT);
        let expected = expected
            .map(|header| {
                request("OPTIONS sip:b@y", VIA, "").replace("Max-Forwards: 70\r\n", header)
            })
            .map_err(Inward::Refuse);
        assert_eq!(done.map(|bytes| text(split_own_via(&bytes).1)), expected);
    }
    let none = request("OPTIONS sip:b@y", VIA, "").replace("Max-Forwards: 70\r\n", "");
    let (_, rest) = split_own_via(&inward(&proxy(), none.as_bytes(), CLIENT).unwrap());
    assert_eq!(
        text(rest),
        none.replacen("\r\n", "\r\nMax-Forwards: 70\r\n", 1)
    );
}

#[test]
fn our_own_routes_are_taken_off() {
    for (routes, expected) in [
        ("Route: <sip:192.0.2.1;lr>\r\n", ""),
        (
            "Route: <sip:192.0.2.1:5060;lr>, <sip:z;lr>\r\n",
            "Route: <sip:z;lr>\r\n",
        ),
        (
            "Route:\r\n <sip:192.0.2.1;lr>\r\n , <sip:z;lr>\r\n",
            "Route:\r\n <sip:z;lr>\r\n",
        ),
        (
            "Route: <sip:192.0.2.1>\r\nX: y\r\nroute: <sip:192.0.2.1>\r\nRoute: <sip:z>\r\n",
            "X: y\r\nRoute: <sip:z>\r\n",
        ),
        (
            "Route: <sip:192.0.2.1;lr>,<sip:192.0.2.1;lr>,<sip:z,y@z;lr>\r\n",
            "Route: <sip:z,y@z;lr>\r\n",
        ),
        (
            "Route: <sip:192.0.2.1>,<sip:192.0.2.1>,<sip:192.0.2.1>\r\n",
            "Route: <sip:192.0.2.1>\r\n",
        ),
        (
            "Route: <sip:192.0.2.1:5061;lr>\r\n",
            "Route: <sip:192.0.2.1:5061;lr>\r\n",
        ),
        (
            "Route: <sip:z>, <sip:192.0.2.1>\r\n",
            "Route: <sip:z>, <sip:192.0.2.1>\r\n",
        ),
        (
            "Route: \"192.0.2.1, <sip:192.0.2.1>\" <sip:z>\r\n",
            "Route: \"192.0.2.1, <sip:192.0.2.1>\" <sip:z>\r\n",
        ),
        (
            "Route: , <sip:192.0.2.1>\r\n",
            "Route: , <sip:192.0.2.1>\r\n",
        ),
    ] {
        let original = request("BYE sip:b@y", VIA, routes);
        let (_, rest) = split_own_via(&inward(&proxy(), original.as_bytes(), CLIENT).unwrap());
        let expected = request("BYE sip:b@y", VIA, expected).replace(": 70", ": 69");
        assert_eq!(text(rest), expected);
    }
}

#[test]
fn what_may_form_a_dialog_is_recorded() {
    for (method, recorded) in [
        ("INVITE", true),
        ("SUBSCRIBE", true),
        ("REFER", true),
        ("BYE", false),
        ("ACK", false),
        ("REGISTER", false),
    ] {
        let original = request(
            &format!("{method} sip:b@y"),
            VIA,
            "Record-Route: <sip:q;lr>\r\n",
        );
        let forwarded = text(inward(&recording(), original.as_bytes(), CLIENT).unwrap());
        let ours = "\r\nRecord-Route: <sip:192.0.2.1:5060;lr>\r\n";
        let at = forwarded.find(ours);
        assert_eq!(at.is_some(), recorded, "{method}");
        assert!(at < forwarded.find("<sip:q;lr>"));
    }
}

#[test]
fn a_request_that_lacks_something_is_refused_but_for_an_ack() {
    for (line, refusal) in [
        (VIA, Refusal::NoVia),
        ("From: <sip:a@x>;tag=1\r\n", Refusal::MissingHeader),
        ("To: <sip:b@y>\r\n", Refusal::MissingHeader),
        ("Call-ID: c@d\r\n", Refusal::MissingHeader),
        ("CSeq: 1 INVITE\r\n", Refusal::MissingHeader),
    ] {
        for method in ["INVITE", "ACK"] {
            let original = request(&format!("{method} sip:b@y"), VIA, "").replace(line, "");
            let expected = match method {
                "ACK" => Inward::Drop(DropReason::Ack(refusal)),
                _ => Inward::Refuse(refusal),
            };
            let done = inward(&proxy(), original.as_bytes(), CLIENT);
            assert_eq!(done, Err(expected), "{method} without {line}");
        }
    }
    assert_eq!(Refusal::MissingHeader.code(), 400);
    let twice = request("INVITE sip:b@y", VIA, "i: other\r\n");
    let done = inward(&proxy(), twice.as_bytes(), CLIENT);
    assert_eq!(done, Err(Inward::Refuse(Refusal::AmbiguousHeader)));
    let garbage = request("INVITE sip:b@y", "Via: a\r\n", "");
    let done = inward(&proxy(), garbage.as_bytes(), CLIENT);
    assert_eq!(done, Err(Inward::Refuse(Refusal::BadVia)));
    let done = inward(&proxy(), b"SIP/2.0 200 OK\r\n\r\n", CLIENT);
    assert_eq!(done, Err(Inward::Drop(DropReason::NotARequest)));
}

#[test]
fn what_is_too_long_is_refused() {
    let vias = |count| "Via: SIP/2.0/UDP a\r\n".repeat(count);
    let limits = [
        (vias(70), String::new(), None),
        (vias(71), String::new(), Some(Refusal::TooManyHops)),
        (
            VIA.to_owned(),
            format!("X: {}\r\n", "x".repeat(Settings::LONGEST_HEADERS)),
            Some(Refusal::TooLarge),
        ),
        (VIA.to_owned(), format!("\r\n{}", "x".repeat(64_000)), None),
        (
            VIA.to_owned(),
            format!("\r\n{}", "x".repeat(65_300)),
            Some(Refusal::TooLarge),
        ),
    ];
    for (vias, more, refusal) in limits {
        let original = request("INVITE sip:b@y", &vias, &more);
        let done = inward(&proxy(), original.as_bytes(), CLIENT);
        assert_eq!(done.err(), refusal.map(Inward::Refuse));
    }
}

#[test]
fn a_backends_request_goes_to_the_next_hop() {
    let refuse = |refusal| Err(Outward::Refuse(refusal));
    for (uri, routes, expected) in [
        ("sip:b@203.0.113.5", "", Ok("203.0.113.5:5060")),
        ("sip:b@203.0.113.5:7;transport=UDP", "", Ok("203.0.113.5:7")),
        ("SIP:[2001:db8::5]:7", "", Ok("[2001:db8::5]:7")),
        (
            "sip:b",
            "Route: <sip:192.0.2.1;lr>,<sip:203.0.113.6;lr>\r\n",
            Ok("203.0.113.6:5060"),
        ),
        (
            "sip:203.0.113.5",
            "Route: <sip:192.0.2.1;lr>\r\n",
            Ok("203.0.113.5:5060"),
        ),
        (
            "sip:b",
            "Route: < sip:203.0.113.6:9;lr >\r\n",
            Ok("203.0.113.6:9"),
        ),
        ("sip:b@192.0.2.1", "", Err(Outward::Spiral)),
        ("sip:b@y", "", refuse(Refusal::NextHopIsName)),
        ("tel:112", "", refuse(Refusal::UnsupportedScheme)),
        ("sip:b@203.0.113.5:0", "", refuse(Refusal::BadNextHop)),
        (
            "sip:203.0.113.5;Transport=sctp",
            "",
            refuse(Refusal::NextHopTransport),
        ),
    ] {
        let original = request(
            &format!("INVITE {uri}"),
            "Via: SIP/2.0/UDP 10.0.0.1\r\n",
            routes,
        );
        let done = outward(&proxy(), original.as_bytes()).map(|(_, destination)| destination);
        assert_eq!(done, expected.map(address), "{uri} {routes}");
    }
    assert_eq!(Refusal::NextHopIsName.code(), 500);
}

#[test]
fn another_version_of_sip_is_refused() {
    for (version, refused) in [
        ("SIP/7.0", true),
        ("sip/2.01  ", true),
        ("SIP/2.0\t ", false),
        ("sip/2.0", false),
        ("HTTP/1.1", false),
    ] {
        let original = request("OPTIONS sip:b@y", VIA, "").replacen("SIP/2.0", version, 1);
        let done = inward(&proxy(), format!("\r\n{original}").as_bytes(), CLIENT);
        let expected = Err(Inward::Refuse(Refusal::UnsupportedVersion));
        assert_eq!(done == expected, refused, "{version}: {done:?}");
    }
    assert_eq!(Refusal::UnsupportedVersion.code(), 505);
}
