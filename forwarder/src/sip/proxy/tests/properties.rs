use proptest::{prelude::*, sample::select};

use super::*;

/// A header as its sender may write it.
#[derive(Clone, Debug)]
struct Field {
    long: &'static str,
    compact: &'static str,
    value: String,
    style: Style,
}

/// Which liberties it takes.
#[derive(Clone, Copy, Debug)]
struct Style {
    compact: bool,
    upper: bool,
    fold: Fold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fold {
    None,
    /// Behind the colon.
    Early,
    /// At the first blank of the value.
    Late,
}

/// A request by its parts.
#[derive(Clone, Debug)]
struct Draft {
    method: String,
    /// Vias first, in order; the others, which are mixed in between.
    vias: Vec<(Style, String)>,
    /// What the first Via becomes on its way in.
    marked: String,
    others: Vec<Field>,
    /// Where among the others each Via stands.
    places: Vec<usize>,
    ending: &'static str,
    body: Vec<u8>,
}

const FOLDS: [&str; 2] = [" ", "\t  "];

impl Field {
    fn render(&self, ending: &str) -> String {
        let Style {
            compact,
            upper,
            fold,
        } = self.style;
        let mut name = if compact { self.compact } else { self.long }.to_owned();
        if upper {
            name = name.to_uppercase();
        }
        let begin = if fold == Fold::Early {
            format!("{ending}{}", FOLDS[0])
        } else {
            " ".to_owned()
        };
        let value = if fold == Fold::Late {
            self.value
                .replacen(' ', &format!("{ending}{}", FOLDS[1]), 1)
        } else {
            self.value.clone()
        };
        format!("{name}:{begin}{value}{ending}")
    }
}

impl Draft {
    /// The request; with `passed` as it is behind us, but for our own Via.
    fn render(&self, passed: bool) -> Vec<u8> {
        let mut text = format!("{} sip:b@y SIP/2.0{}", self.method, self.ending);
        let mut vias = self.via_fields(passed).into_iter().zip(&self.places);
        let mut next = vias.next();
        for (index, field) in self.others.iter().enumerate() {
            while let Some((via, _)) = next.take_if(|(_, place)| **place <= index) {
                text += &via.render(self.ending);
                next = vias.next();
            }
            let mut field = field.clone();
            if passed && field.long == "Max-Forwards" {
                field.value = (field.value.parse::<u8>().unwrap() - 1).to_string();
            }
            text += &field.render(self.ending);
        }
        for (via, _) in next.into_iter().chain(vias) {
            text += &via.render(self.ending);
        }
        text += self.ending;
        [text.as_bytes(), &self.body].concat()
    }

    fn via_fields(&self, passed: bool) -> Vec<Field> {
        let field = |(index, (style, value)): (usize, &(Style, String))| Field {
            long: "Via",
            compact: "v",
            value: match index {
                0 if passed => value.replacen("FIRST", &self.marked, 1),
                0 => value.replacen("FIRST", &self.marked.replace(MARK, ""), 1),
                _ => value.clone(),
            },
            style: *style,
        };
        self.vias.iter().enumerate().map(field).collect()
    }

    /// What a server answers that got these Vias.
    fn answer(&self, vias: &[Field], joined: bool) -> Vec<u8> {
        let mut text = format!("SIP/2.0 200 OK{}", self.ending);
        if joined {
            let values: Vec<_> = vias.iter().map(|via| via.value.as_str()).collect();
            text += &["v: ", &values.join(", "), self.ending].concat();
        } else {
            for via in vias {
                text += &via.render(self.ending);
            }
        }
        for field in self.others.iter().filter(|f| f.compact.len() == 1) {
            text += &field.render(self.ending);
        }
        text += self.ending;
        [text.as_bytes(), &self.body].concat()
    }
}

/// What is added to a first Via.
const MARK: &str = ";received=198.51.100.9";

fn styles() -> impl Strategy<Value = Style> {
    let folds = select(vec![Fold::None, Fold::Early, Fold::Late]);
    (any::<(bool, bool)>(), folds).prop_map(|((compact, upper), fold)| Style {
        compact,
        upper,
        fold,
    })
}

fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop_oneof![
        select(vec![&b"\r\n\r\n"[..], b"\0", b"Via: x\r\n", b"\n"]).prop_map(<[u8]>::to_vec),
        proptest::collection::vec(any::<u8>(), 0..9),
    ];
    proptest::collection::vec(parts, 0..6).prop_map(|parts| parts.concat())
}

fn vias() -> impl Strategy<Value = Vec<(Style, String)>> {
    let tails = select(vec![
        "",
        ", SIP/2.0/UDP p1;branch=z9hG4bKp1",
        " ,SIP/2.0/TCP [::1]:7;x=\"a,b\"",
    ]);
    let others = select(vec![
        "SIP/2.0/UDP q1;branch=z9hG4bKq",
        "SIP/2.0/UDP q2:7, SIP / 2.0 / UDP q3 ; rport",
    ]);
    let others = proptest::collection::vec((styles(), others), 0..4);
    (styles(), tails, others).prop_map(|(style, tail, others)| {
        let mut vias = vec![(style, format!("FIRST{tail}"))];
        vias.extend(
            others
                .into_iter()
                .map(|(style, via)| (style, via.to_owned())),
        );
        vias
    })
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let values = (
        ("[a-z0-9@.-]{1,30}", "[a-z0-9]{1,9}", 1u32..1 << 31),
        1u8..=255,
        proptest::collection::vec(styles(), 8),
    );
    let ordered = values.prop_map(|((call_id, tag, cseq), forwards, styles)| {
        let texts = [
            ("Call-ID", "i", call_id),
            ("From", "f", format!("\"A, <B>\" <sip:a@x>;tag={tag}")),
            ("To", "t", "<sip:b@y> ;x=y".to_owned()),
            ("Max-Forwards", "Max-Forwards", forwards.to_string()),
            ("CSeq", "CSEQ", format!("{cseq} INVITE")),
            ("X-Odd", "x", "a\u{e9}: \"b".to_owned()),
            ("Route", "route", "<sip:p,q@z;lr>, <sip:y>".to_owned()),
            ("Subject", "s", "a  b".to_owned()),
        ];
        let fields = texts.into_iter().zip(styles);
        let field = |((long, compact, value), style)| Field {
            long,
            compact,
            value,
            style,
        };
        fields.map(field).collect::<Vec<_>>()
    });
    ordered.prop_shuffle()
}

fn drafts() -> impl Strategy<Value = Draft> {
    let methods = prop_oneof![
        select(vec!["INVITE", "BYE", "REGISTER"]).prop_map(str::to_owned),
        "[A-Z]{3,9}[-.!]",
    ];
    let firsts = select(vec![
        format!("SIP/2.0/UDP a{MARK}"),
        format!("SIP/2.0/UDP a.example:7;branch=z9hG4bKab{MARK}"),
        format!("SIP / 2.0 / UDP a : 7 ;x=\",;\"{MARK}"),
        "SIP/2.0/UDP 198.51.100.9;branch=z9hG4bKab".to_owned(),
    ]);
    let places = proptest::collection::vec(0usize..10, 5);
    let endings = select(vec!["\r\n", "\n"]);
    (methods, vias(), firsts, fields(), places, endings, bodies()).prop_map(
        |(method, vias, marked, others, mut places, ending, body)| {
            places.sort_unstable();
            Draft {
                method,
                vias,
                marked,
                others,
                places,
                ending,
                body,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_request_is_changed_where_it_must_be_only(draft in drafts()) {
        let original = draft.render(false);
        let forwarded = inward(&proxy(), &original, CLIENT).unwrap();
        let (via, rest) = split_own_via(&forwarded);
        prop_assert!(via.starts_with("Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK"));
        prop_assert_eq!(rest, draft.render(true));
    }

    #[test]
    fn what_is_put_in_can_be_taken_out(draft in drafts()) {
        let original = draft.render(false);
        let mut patch = Patch::default();
        let sip = Sip::cut(&original).unwrap();
        let done = recording().inward(&sip, udp(CLIENT), Transport::Udp, NOW, &mut patch);
        prop_assert_eq!(done, Inward::Forward);
        let mut at = 0;
        for piece in patch.pieces() {
            if let Piece::Original(range) = piece {
                // All that is taken out is the number in Max-Forwards.
                prop_assert!(original[at..range.start].iter().all(u8::is_ascii_digit));
                at = range.end;
            }
        }
        prop_assert_eq!(at, original.len());
    }

    #[test]
    fn a_retransmission_leaves_as_the_request_did(draft in drafts(), later in 0u64..16) {
        let original = draft.render(false);
        let mut patch = Patch::default();
        let mut vias = Vec::new();
        for now in [NOW, NOW + 16 + later] {
            let sip = Sip::cut(&original).unwrap();
            proxy().inward(&sip, udp(CLIENT), Transport::Udp, now, &mut patch);
            let (via, _) = split_own_via(&written(&patch, &original));
            vias.push(via.split(";sfw=").next().unwrap().to_owned());
        }
        prop_assert_eq!(&vias[0], &vias[1]);
    }

    #[test]
    fn a_response_reaches_the_client_as_if_we_were_not_there(
        draft in drafts(), style in styles(), joined: bool, seconds in 0..Settings::LIFETIME)
    {
        let forwarded = inward(&proxy(), &draft.render(false), CLIENT).unwrap();
        let (own, _) = split_own_via(&forwarded);
        let value = own.trim_end().strip_prefix("Via: ").unwrap().to_owned();
        let own = Field { long: "Via", compact: "v", value, style };
        let clients = draft.via_fields(true);
        let vias: Vec<_> = std::iter::once(own).chain(clients.iter().cloned()).collect();
        let answer = draft.answer(&vias, joined);
        let (passed, to) = response(&proxy(), &answer, seconds).unwrap();
        prop_assert_eq!(passed, draft.answer(&clients, joined));
        prop_assert_eq!(to.ip(), address(CLIENT).ip());
    }

    #[test]
    fn a_cookie_is_accepted_for_its_call_only(draft in drafts(), other in "[a-z0-9@.-]{1,30}") {
        let forwarded = inward(&proxy(), &draft.render(false), CLIENT).unwrap();
        let (own, _) = split_own_via(&forwarded);
        let call = |id: &str| format!("SIP/2.0 200 OK\r\n{own}{VIA}Call-ID: {id}\r\n\r\n");
        let call_id = &draft.others.iter().find(|f| f.long == "Call-ID").unwrap().value;
        prop_assert!(response(&proxy(), call(call_id).as_bytes(), 0).is_ok());
        prop_assume!(other != *call_id);
        let moved = response(&proxy(), call(&other).as_bytes(), 0);
        prop_assert_eq!(moved, Err(ResponseError::Forged));
    }

    #[test]
    fn nothing_panics(
        parts in proptest::collection::vec(prop_oneof![
            select(vec![
                "\r\n", "\n", " ", "\r", ",", ";", "\"", "<", ">", ":", "Via:", "v: SIP/2.0/UDP a;rport",
                "Via: SIP/2.0/UDP 192.0.2.1;sfw=AAAA", "Route: <sip:192.0.2.1>", "Route:", "i:c", "To:b",
                "f:a", "CSeq:1", "Max-Forwards: 7", "received=", "branch",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ], 0..40),
        is_response: bool)
    {
        let start = if is_response { "SIP/2.0 200 OK\r\n" } else { "INVITE sip:192.0.2.2 SIP/2.0\r\n" };
        let bytes = [start.as_bytes(), &parts.concat()].concat();
        let mut patch = Patch::default();
        let sip = Sip::cut(&bytes).unwrap();
        let _ = proxy().inward(&sip, udp(CLIENT), Transport::Udp, NOW, &mut patch);
        if let Outward::Forward { .. } = recording().outward(&sip, udp(BACKEND), NOW, &mut patch) {
            written(&patch, &bytes);
        }
        let done = proxy().response(&sip, address(BACKEND).ip(), true, NOW, &mut patch);
        prop_assert!(done.is_err());
    }
}
