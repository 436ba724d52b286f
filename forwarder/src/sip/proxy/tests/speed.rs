use std::{hint::black_box, time::Instant};

use super::*;

/// What SIPp's built-in client sends.
const INVITE: &str = "INVITE sip:service@192.0.2.1:5060 SIP/2.0\r\n\
    Via: SIP/2.0/UDP 198.51.100.9:5061;branch=z9hG4bK-4711-1-0\r\n\
    From: sipp <sip:sipp@198.51.100.9:5061>;tag=4711SIPpTag001\r\n\
    To: service <sip:service@192.0.2.1:5060>\r\n\
    Call-ID: 1-4711@198.51.100.9\r\n\
    CSeq: 1 INVITE\r\n\
    Contact: sip:sipp@198.51.100.9:5061\r\n\
    Max-Forwards: 70\r\n\
    Subject: Performance Test\r\n\
    Content-Type: application/sdp\r\n\
    Content-Length:   135\r\n\r\n\
    v=0\r\no=user1 53655765 2353687637 IN IP4 198.51.100.9\r\ns=-\r\nc=IN IP4 198.51.100.9\r\n\
    t=0 0\r\nm=audio 6000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";

fn nanoseconds(mut each: impl FnMut()) -> f64 {
    const ROUNDS: u32 = 200_000;
    (0..5)
        .map(|_| {
            let start = Instant::now();
            (0..ROUNDS).for_each(|_| each());
            start.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
        })
        .fold(f64::MAX, f64::min)
}

#[test]
#[ignore = "prints times; run with --release --ignored --nocapture"]
fn time_per_message() {
    let (proxy, client) = (recording(), address("198.51.100.9:5061"));
    let mut patch = Patch::default();
    let request = nanoseconds(|| {
        let sip = Sip::cut(black_box(INVITE.as_bytes())).unwrap();
        let done = proxy.inward(&sip, client, NOW, &mut patch);
        assert_eq!(black_box(done), Inward::Forward);
    });
    let forwarded = written(&patch, INVITE.as_bytes());
    let answer = String::from_utf8(forwarded)
        .unwrap()
        .replace(
            "INVITE sip:service@192.0.2.1:5060 SIP/2.0",
            "SIP/2.0 200 OK",
        )
        .replace("5060>\r\n", "5060>;tag=1\r\n");
    let response = nanoseconds(|| {
        let sip = Sip::cut(black_box(answer.as_bytes())).unwrap();
        let done = proxy.response(&sip, address(BACKEND), true, NOW, &mut patch);
        assert_eq!(black_box(done), Ok(client));
    });
    println!("request {request:.0} ns, response {response:.0} ns");
}
