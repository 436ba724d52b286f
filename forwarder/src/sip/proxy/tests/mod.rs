mod edge;
mod identity;
mod properties;
mod requests;
mod responses;

use std::net::SocketAddr;

use super::*;
use crate::sip::{headers::Sip, transport::Flow};

const OWN: &str = "192.0.2.1:5060";
const CLIENT: &str = "198.51.100.9:40000";
const BACKEND: &str = "10.0.0.1:5060";
const NOW: u64 = 1_800_000_000;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn udp(text: &str) -> Flow {
    Flow::udp(address(text))
}

fn settings() -> Settings {
    Settings::new(address(OWN), [1, 2])
}

fn proxy() -> Proxy {
    Proxy::new(settings())
}

fn recording() -> Proxy {
    Proxy::new(Settings {
        record_route: true,
        ..settings()
    })
}

fn written(patch: &Patch, original: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    patch.write_to(original, &mut out);
    assert_eq!(out.len(), patch.length());
    out
}

/// What becomes of a client's request.
fn inward(proxy: &Proxy, request: &[u8], client: &str) -> Result<Vec<u8>, Inward> {
    let mut patch = Patch::default();
    let sip = Sip::cut(request).unwrap();
    match proxy.inward(&sip, udp(client), Transport::Udp, NOW, &mut patch) {
        Inward::Forward => Ok(written(&patch, request)),
        other => Err(other),
    }
}

/// What becomes of a backend's request.
fn outward(proxy: &Proxy, request: &[u8]) -> Result<(Vec<u8>, SocketAddr), Outward> {
    let mut patch = Patch::default();
    let sip = Sip::cut(request).unwrap();
    match proxy.outward(&sip, udp(BACKEND), NOW, &mut patch) {
        Outward::Forward { destination } => Ok((written(&patch, request), destination.peer)),
        other => Err(other),
    }
}

/// What becomes of a backend's response after so many seconds.
fn response(
    proxy: &Proxy,
    bytes: &[u8],
    seconds: u64,
) -> Result<(Vec<u8>, SocketAddr), ResponseError> {
    let mut patch = Patch::default();
    let sip = Sip::cut(bytes).unwrap();
    let to = proxy.response(&sip, address(BACKEND).ip(), true, NOW + seconds, &mut patch)?;
    Ok((written(&patch, bytes), to.peer))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// The first header of a message that is forwarded, which is our Via, and the message without it.
fn split_own_via(forwarded: &[u8]) -> (String, Vec<u8>) {
    let begin = Sip::cut(forwarded).unwrap().lines().offset();
    let length = forwarded[begin..].iter().position(|&b| b == b'\n').unwrap();
    let via = String::from_utf8(forwarded[begin..=begin + length].to_vec()).unwrap();
    let rest = [&forwarded[..begin], &forwarded[begin + length + 1..]].concat();
    (via, rest)
}

/// The branch that a request leaves with.
fn branch(request: &str) -> String {
    let (via, _) = split_own_via(&inward(&proxy(), request.as_bytes(), CLIENT).unwrap());
    let begin = via.find(";branch=").unwrap() + 8;
    via[begin..].split(';').next().unwrap().to_owned()
}

/// A request with these Via lines and more headers.
fn request(start: &str, vias: &str, more: &str) -> String {
    format!(
        "{start} SIP/2.0\r\n{vias}Max-Forwards: 70\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@y>\r\n\
        Call-ID: c@d\r\nCSeq: 1 INVITE\r\n{more}\r\nbody"
    )
}

const VIA: &str = "Via: SIP/2.0/UDP 198.51.100.9:5060;branch=z9hG4bKabc\r\n";
