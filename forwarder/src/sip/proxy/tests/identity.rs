use super::*;

#[test]
fn a_loop_is_found_and_a_spiral_passes() {
    let first = inward(
        &proxy(),
        request("INVITE sip:b@y", VIA, "").as_bytes(),
        CLIENT,
    )
    .unwrap();
    let back = text(first).replacen(
        "\r\n",
        "\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1\r\n",
        1,
    );
    let again = |bytes: &str| inward(&proxy(), bytes.as_bytes(), BACKEND).err();
    let found = Some(Inward::Refuse(Refusal::Loop));
    assert_eq!(again(&back), found);
    // Our own Route decides nothing.
    let routed = back.replace("CSeq", "Route: <sip:192.0.2.1;lr>\r\nCSeq");
    assert_eq!(again(&routed), found);
    // A Via list is looked through as well as lines.
    let listed = back.replacen("branch=z9hG4bK1\r\nVia: ", "branch=z9hG4bK1, ", 1);
    assert_eq!(again(&listed), found);
    let ack = back.replace("INVITE sip", "ACK sip");
    assert_eq!(
        again(&ack),
        Some(Inward::Drop(DropReason::Ack(Refusal::Loop)))
    );
    // With another destination or of another call it is no loop; nor is a cookie of somebody else's.
    for (from, to) in [
        ("sip:b@y SIP", "sip:c@y SIP"),
        ("CSeq", "Route: <sip:q;lr>\r\nCSeq"),
        ("CSeq", "Proxy-Require: q\r\nCSeq"),
        ("CSeq: 1", "CSeq: 2"),
        ("c@d", "c@e"),
        ("tag=1", "tag=2"),
        ("192.0.2.1:5060", "192.0.2.2:5060"),
    ] {
        assert_eq!(again(&back.replace(from, to)), None, "{to}");
    }
    // Out through us with nothing changed, as a backend may that was chosen by Route.
    let out = back.replace("sip:b@y SIP", "sip:b@203.0.113.5 SIP");
    let in_first = request("INVITE sip:b@203.0.113.5", VIA, "");
    let in_first = text(inward(&proxy(), in_first.as_bytes(), CLIENT).unwrap());
    assert!(outward(&proxy(), in_first.as_bytes()).is_ok());
    assert!(outward(&proxy(), out.as_bytes()).is_ok());
}

#[test]
fn a_transaction_has_one_branch() {
    let invite = request("INVITE sip:b@y", VIA, "");
    let of = |method: &str| {
        request(&format!("{method} sip:b@y"), VIA, "").replace("1 INVITE", &format!("1 {method}"))
    };
    let old = |request: &str| request.replace(";branch=z9hG4bKabc", "");
    let bare = |request: &str| request.replace("z9hG4bKabc", "z9hG4bK");
    let tagged = |request: &str| request.replace("<sip:b@y>", "<sip:b@y>;tag=2");
    for kind in [&str::to_owned as &dyn Fn(&str) -> String, &old, &bare] {
        let expected = branch(&kind(&invite));
        assert_eq!(branch(&kind(&of("CANCEL"))), expected);
        assert_eq!(branch(&kind(&tagged(&of("ACK")))), expected);
        for (from, to) in [("abc", "abd"), ("9:5060", "9:5061"), ("c@d", "c@e")] {
            let other = invite.replace(from, to);
            assert_ne!(
                branch(&kind(&other)) == expected,
                kind(&other) != kind(&invite)
            );
        }
    }
    for (from, to) in [
        ("CSeq: 1", "CSeq: 2"),
        ("tag=1", "tag=2"),
        ("sip:b@y SIP", "sip:c@y SIP"),
    ] {
        assert_ne!(
            branch(&old(&invite.replace(from, to))),
            branch(&old(&invite)),
            "{to}"
        );
    }
}
