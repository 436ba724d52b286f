use super::*;

/// Our Via for a client's request, without its line ending.
fn own_via() -> String {
    let original = request("INVITE sip:b@y", VIA, "");
    let (via, _) = split_own_via(&inward(&proxy(), original.as_bytes(), CLIENT).unwrap());
    via.trim_end().to_owned()
}

fn answer(vias: &str) -> String {
    format!("SIP/2.0 200 OK\r\n{vias}f: <sip:a@x>;tag=1\r\ni: c@d\r\n\r\n\0body\r\n\r\n")
}

#[test]
fn our_via_is_cut_off_and_nothing_else() {
    let own = own_via();
    let value = own.strip_prefix("Via: ").unwrap();
    let (head, params) = value.split_once(';').unwrap();
    for (vias, expected) in [
        (format!("{own}\r\n{VIA}"), VIA.to_owned()),
        (format!("{own};received=192.0.2.1\r\n{VIA}"), VIA.to_owned()),
        (
            format!("v:{value} ,SIP/2.0/UDP a\r\n{VIA}"),
            format!("v:SIP/2.0/UDP a\r\n{VIA}"),
        ),
        (
            format!("Via:\r\n {head}\r\n ;{params}\r\n{VIA}"),
            VIA.to_owned(),
        ),
        (
            format!("Via:\r\n {head}\r\n\t;{params}\r\n ,\r\n SIP/2.0/UDP a\r\n"),
            "Via:\r\n SIP/2.0/UDP a\r\n".to_owned(),
        ),
        (
            format!("X: y\r\n{own}\r\nZ: z\r\n{VIA}"),
            format!("X: y\r\nZ: z\r\n{VIA}"),
        ),
        (format!("{own}\n{VIA}"), VIA.to_owned()),
    ] {
        let done = response(&proxy(), answer(&vias).as_bytes(), 30).unwrap();
        // No rport: to the port of the sent-by.
        assert_eq!(
            done,
            (answer(&expected).into_bytes(), address("198.51.100.9:5060"))
        );
    }
}

#[test]
fn with_rport_a_response_goes_to_the_port_the_request_came_from() {
    let original = request("INVITE sip:b@y", &VIA.replace(';', ";rport;"), "");
    let (via, _) = split_own_via(&inward(&proxy(), original.as_bytes(), CLIENT).unwrap());
    let (_, to) = response(&proxy(), answer(&format!("{via}{VIA}")).as_bytes(), 0).unwrap();
    assert_eq!(to, address(CLIENT));
}

#[test]
fn what_is_not_our_response_is_told_apart() {
    let own = own_via();
    let ours = answer(&format!("{own}\r\n{VIA}"));
    let lifetime = Settings::LIFETIME;
    for (bytes, seconds, error) in [
        (answer(VIA), 0, ResponseError::NotOurs),
        (
            answer(&format!("{VIA}{own}\r\n")),
            0,
            ResponseError::NotOurs,
        ),
        (
            ours.replace(":5060;branch=z9hG4bK", ":5061;branch=z9hG4bK"),
            0,
            ResponseError::NotOurs,
        ),
        (ours.replace("sfw=", "x="), 0, ResponseError::Forged),
        (ours.replace("sfw=", "sfw=A"), 0, ResponseError::Forged),
        (ours.replace("c@d", "c@e"), 0, ResponseError::Forged),
        (ours.clone(), lifetime + 16, ResponseError::Expired),
        (answer(&format!("{own}\r\n")), 0, ResponseError::NoVia),
        (answer(""), 0, ResponseError::Malformed),
        (answer("Via: a\r\n"), 0, ResponseError::Malformed),
        (ours.replace("i: c@d\r\n", ""), 0, ResponseError::Malformed),
        (
            ours.replace("i: c@d\r\n", "i: c@d\r\ni: q\r\n"),
            0,
            ResponseError::Malformed,
        ),
        (
            ours.replace("SIP/2.0 200 OK", "BYE sip:a SIP/2.0"),
            0,
            ResponseError::Malformed,
        ),
    ] {
        assert_eq!(
            response(&proxy(), bytes.as_bytes(), seconds),
            Err(error),
            "{bytes}"
        );
    }
    for seconds in [0, 30, 300, lifetime] {
        assert!(response(&proxy(), ours.as_bytes(), seconds).is_ok());
    }
}

#[test]
fn a_clients_response_to_a_clients_request_is_refused() {
    let ours = answer(&format!("{}\r\n{VIA}", own_via()));
    let sip = Sip::cut(ours.as_bytes()).unwrap();
    let done = proxy().response(
        &sip,
        address(CLIENT).ip(),
        false,
        NOW,
        &mut Patch::default(),
    );
    assert_eq!(done, Err(ResponseError::WrongSender));
}

#[test]
fn a_backends_request_is_answered_by_whoever_got_it() {
    let original = request(
        "INVITE sip:b@203.0.113.5",
        "Via: SIP/2.0/UDP 10.0.0.1:5060\r\n",
        "",
    );
    let (forwarded, _) = outward(&proxy(), original.as_bytes()).unwrap();
    let (via, rest) = split_own_via(&forwarded);
    assert_eq!(text(rest), original.replace(": 70", ": 69"));
    let bytes = answer(&format!("{via}Via: SIP/2.0/UDP 10.0.0.1:5060\r\n"));
    let sip = Sip::cut(bytes.as_bytes()).unwrap();
    let from = |sender, backend| {
        proxy().response(
            &sip,
            address(sender).ip(),
            backend,
            NOW,
            &mut Patch::default(),
        )
    };
    assert_eq!(from("203.0.113.5:5060", false), Ok(udp(BACKEND)));
    // From another port of the same host.
    assert_eq!(from("203.0.113.5:9", false), Ok(udp(BACKEND)));
    assert_eq!(
        from("203.0.113.6:5060", false),
        Err(ResponseError::WrongSender)
    );
    assert_eq!(from(BACKEND, true), Err(ResponseError::WrongSender));
}
