//! What fuzzing holds true. `cargo xtask fuzz` feeds these functions with bytes that coverage guides; the
//! test `fuzz_seeds` feeds them the seeds and all torture messages, without a fuzzer.

mod framing;
mod heartbeat;
mod proxy;
mod step;

use std::net::SocketAddr;

use sip_forwarder::sip::{
    address, answer,
    headers::StartLine,
    reader::{self, Reading},
};

use crate::parity::agree;

pub use framing::framing;
pub use heartbeat::heartbeat;
pub use proxy::{proxied, proxy};
pub use step::step;

/// A function that is fed.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("scan", scan),
    ("reader", reader),
    ("step", step),
    ("proxy", proxy),
    ("framing", framing),
    ("heartbeat", heartbeat),
];

/// Who sent what is fed.
const CLIENT: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9)),
    40_000,
);

/// Where the fast scan answers, it answers as the full reader does.
///
/// # Panics
/// If it does not.
pub fn scan(data: &[u8]) {
    if let Err(difference) = agree(data) {
        panic!("{difference}: {}", data.escape_ascii());
    }
}

/// The full reader and all that is built on it take any bytes, and line ends before a message mean
/// nothing (RFC 3261 section 7.5).
///
/// # Panics
/// If they do not.
pub fn reader(data: &[u8]) {
    let read = reader::read(data);
    let behind_line_ends = [b"\r\n\r\n", data].concat();
    let again = reader::read(&behind_line_ends);
    match (&read, &again) {
        (Ok(one), Ok(other)) => {
            assert_eq!(one.role, other.role);
            assert_eq!(one.call_id, other.call_id);
            assert_eq!(one.host, other.host);
        }
        (Err(one), Err(other)) => assert_eq!(one, other),
        _ => panic!("line ends before the message matter"),
    }
    if let Ok(reading) = &read {
        look_at(reading);
    }
}

/// Asks all that anybody asks of a message.
fn look_at(reading: &Reading<'_>) {
    assert!(!reading.call_id.is_empty(), "an empty Call-ID");
    if let Some((host, _)) = &reading.host {
        assert!(!host.is_empty(), "an empty host");
    }
    for value in [&reading.to, &reading.from] {
        let _ = address::tag(value);
        let _ = address::address_of_record(value);
        let _ = address::user(value);
    }
    if let StartLine::Request { uri, .. } = reading.sip.start {
        let _ = address::is_emergency(uri, &["112".to_owned()]);
        let _ = address::uri_host(uri);
    }
    let answers = [
        answer::options(&reading.sip, CLIENT),
        answer::unavailable(&reading.sip, CLIENT, 5, Some("sfw-503-0123456789abcdef")),
    ];
    for answer in answers.into_iter().flatten() {
        check_answer(&answer, reading);
    }
}

/// An answer goes to whom it came from, and is a response of the same call.
fn check_answer(answer: &answer::Answer, request: &Reading<'_>) {
    assert_eq!(answer.to.ip(), CLIENT.ip(), "answered somebody else");
    let text = answer.bytes.escape_ascii();
    let read = reader::read(&answer.bytes)
        .unwrap_or_else(|error| panic!("the answer cannot be read ({error}): {text}"));
    assert!(
        matches!(
            read.sip.start,
            StartLine::Response {
                code: Some(200 | 503)
            }
        ),
        "no response: {text}"
    );
    // Bytes that are no UTF-8 cannot be repeated as they are.
    if std::str::from_utf8(&request.call_id).is_ok() {
        assert_eq!(read.call_id, request.call_id, "another call: {text}");
    }
    assert!(address::has_tag(&read.to), "no To-tag: {text}");
}
