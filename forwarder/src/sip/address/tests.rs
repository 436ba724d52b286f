use super::*;
use proptest::prelude::*;

fn named(found: Option<HostPort>, text: &[u8]) -> Option<(&str, u16)> {
    found.map(|(host, port)| (std::str::from_utf8(&text[host]).unwrap(), port))
}

#[test]
fn tags_are_found_where_they_may_stand() {
    for with in [
        "<sip:a@b>;tag=1",
        "<sip:a@b> ; x=y ; TAG = 1",
        "sip:a@b;tag=1",
        "\"x>;y\" <sip:a@b>;tag=1",
        "\"a \\\" <\" <sip:a@b>;q=\";\";tag=1",
    ] {
        assert!(has_tag(with.as_bytes()), "{with}");
    }
    for without in [
        "<sip:a@b>",
        "<sip:a@b;tag=1>",
        "\";tag=1\" <sip:a@b>",
        "<sip:a@b>;x=\">;tag=1\"",
        "<sip:a@b>;x=\";tag=1;\"",
        "<sip:a@b>;mytag=1",
        "sip:a@b",
        "",
    ] {
        assert!(!has_tag(without.as_bytes()), "{without}");
    }
}

#[test]
fn sent_by_is_read_in_every_form() {
    for (via, expected) in [
        ("SIP/2.0/UDP a.example;branch=z", Some(("a.example", 5060))),
        ("SIP / 2.0 / UDP  a : 4000 ;x", Some(("a", 4000))),
        (
            "SIP/2.0/TCP [2001:db8::1]:5070;x",
            Some(("[2001:db8::1]", 5070)),
        ),
        ("SIP/2.0/UDP [::1], SIP/2.0/UDP b", Some(("[::1]", 5060))),
        ("SIP/2.0/UDP a,SIP/2.0/UDP b", Some(("a", 5060))),
        ("SIP/2.0/UDP a:0", None),
        ("SIP/2.0/UDP a:65536", None),
        ("SIP/2.0/UDP a:99999999999999999999", None),
        ("SIP/2.0/UDP a:", None),
        ("SIP/2.0/UDP [::1", None),
        ("SIP/2.0/UDP ;branch=z", None),
        ("SIP/2.0/UDP", None),
        ("a", None),
        ("", None),
    ] {
        assert_eq!(
            named(sent_by(via.as_bytes()), via.as_bytes()),
            expected,
            "{via}"
        );
    }
}

#[test]
fn route_hosts_are_read_in_every_form() {
    for (route, expected) in [
        ("<sip:a;lr>", Some(("a", 5060))),
        ("<SIPS:u@a:5061;lr>,<sip:b>", Some(("a", 5061))),
        ("\"x, <sip:c>\" <sip:a:7>", Some(("a", 7))),
        ("Proxy < sip:u;x=y:pw@[::1]:9;lr>", Some(("[::1]", 9))),
        ("sip:a:6;lr, <sip:b>", Some(("a", 6))),
        ("sip:a", Some(("a", 5060))),
        ("<sip:a", Some(("a", 5060))),
        ("<sip:a?x=y>", Some(("a", 5060))),
        ("<tel:123>", None),
        ("<sip:>", None),
        ("<>", None),
        ("", None),
    ] {
        assert_eq!(
            named(route_host(route.as_bytes()), route.as_bytes()),
            expected,
            "{route}"
        );
    }
}

#[test]
fn tags_are_cut_out() {
    for (value, expected) in [
        ("<sip:a@b>;tag=1", Some("1")),
        ("<sip:a@b> ; x=y ; TAG = 1 ", Some("1")),
        ("sip:a@b;tag", Some("")),
        ("sip:a@b", None),
    ] {
        assert_eq!(
            tag(value.as_bytes()),
            expected.map(str::as_bytes),
            "{value}"
        );
    }
}

#[test]
fn addresses_of_record_are_those_of_section_10_3() {
    for (value, expected) in [
        (
            "\"Bob <x>\" <sip:bob@Example.COM:5070;user=phone>;tag=1",
            "bob@example.com",
        ),
        ("sips:bob:secret@example.com", "bob@example.com"),
        ("<sip:+49;ext=1@b?h=1>", "+49@b"),
        ("sip:example.com", "@example.com"),
        ("<tel:+49-30;phone-context=x>", "tel:+49-30"),
        ("urn:Service:sos", "urn:service:sos"),
        ("", ""),
    ] {
        let record = String::from_utf8(address_of_record(value.as_bytes()).to_vec()).unwrap();
        assert_eq!(record, expected, "{value}");
    }
}

#[test]
fn emergency_calls_are_known_by_urn_and_number() {
    let numbers = ["112".to_owned()];
    for (uri, emergency) in [
        ("urn:service:sos", true),
        ("URN:SERVICE:sos.fire", true),
        ("urn:service:sosanything", false),
        ("sip:112@example.com;user=phone", true),
        ("tel:112;phone-context=x", true),
        ("tel:112", true),
        ("sip:1122@example.com", false),
        ("sip:112", false),
        ("", false),
    ] {
        assert_eq!(is_emergency(uri.as_bytes(), &numbers), emergency, "{uri}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(value in proptest::collection::vec(prop_oneof![
        any::<u8>(), proptest::sample::select(b"<>\"\\;:,@[]/ \tsip=".to_vec())], 0..60))
    {
        let _ = (has_tag(&value), sent_by(&value), route_host(&value), uri_host(&value));
        let _ = (address_of_record(&value), is_emergency(&value, &["1".to_owned()]));
    }
}
