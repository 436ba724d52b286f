//! Does one thing to one message, again and again: what `cargo xtask budget` counts the instructions of.
//!
//! `instructions` without arguments names the cases, `instructions CASE TIMES` runs one. Nothing depends on the time, on
//! chance or on the machine.

use std::{env, hint::black_box, net::SocketAddr};

use anyhow::{Context as _, bail, ensure};
use sip_forwarder::sip::{
    headers::Sip,
    proxy::{Inward, Patch, Proxy, Settings},
    reader,
    transport::{Flow, Transport},
};
use sip_forwarder_ebpf::{
    abi::Key,
    scan::{self, Lines},
};
use sip_forwarder_tests::{
    messages::{self, Message},
    program::HASH_KEY,
};

const VIP: &str = "10.210.255.1:5060";
const CLIENT: &str = "10.210.0.2:5061";
const BACKEND: &str = "10.210.1.1:5060";
/// Seconds since 1970.
const NOW: u64 = 1_800_000_000;

/// What is done to a message.
#[derive(Clone, Copy)]
enum Work {
    /// The scan of the fast path, as the host's compiler makes it.
    Scan,
    /// The full reader.
    Read,
    /// A client's request, changed for a backend.
    PatchRequest,
    /// A backend's response, changed for the client.
    PatchResponse,
}

struct Case {
    name: &'static str,
    work: Work,
    message: Vec<u8>,
}

fn main() -> anyhow::Result<()> {
    let cases = cases()?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => {
            for case in &cases {
                println!("{}", case.name);
            }
            Ok(())
        }
        [name, times] => {
            let case = cases.iter().find(|case| case.name == name);
            let case = case.with_context(|| format!("there is no case {name}"))?;
            let times = times.parse().context("TIMES is a number")?;
            repeat(case, times)
        }
        _ => bail!("usage: instructions [CASE TIMES]"),
    }
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let (invite, long) = (messages::sipp_invite(), Message::long_invite());
    let case = |name, work, message: &[u8]| Case {
        name,
        work,
        message: message.to_vec(),
    };
    Ok(vec![
        case("scan-invite", Work::Scan, &invite),
        case("scan-invite-long", Work::Scan, &long),
        case("scan-bye", Work::Scan, &messages::sipp_bye()),
        case("scan-ok", Work::Scan, &messages::sipp_ok()),
        case("read-invite", Work::Read, &invite),
        case("read-invite-long", Work::Read, &long),
        case("read-bye", Work::Read, &messages::sipp_bye()),
        case("read-ok", Work::Read, &messages::sipp_ok()),
        case("patch-invite", Work::PatchRequest, &invite),
        case("patch-invite-long", Work::PatchRequest, &long),
        case("patch-bye", Work::PatchRequest, &messages::sipp_bye()),
        case("patch-ok", Work::PatchResponse, &answer(&invite)?),
        case("patch-ok-long", Work::PatchResponse, &answer(&long)?),
    ])
}

/// What a backend answers to a request that the proxy sent on.
fn answer(request: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut patch = Patch::default();
    patch_request(&proxy(), request, &mut patch)?;
    let mut forwarded = Vec::new();
    patch.write_to(request, &mut forwarded);
    Ok(messages::answer_to(&forwarded, "200 OK", ""))
}

fn proxy() -> Proxy {
    Proxy::new(Settings::new(address(VIP), HASH_KEY))
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("the addresses above are addresses")
}

/// Once before it counts, so that memory that is kept is there.
fn repeat(case: &Case, times: u32) -> anyhow::Result<()> {
    let proxy = proxy();
    let mut patch = Patch::default();
    for _ in 0..=times {
        let message = black_box(&case.message[..]);
        match case.work {
            Work::Scan => scan_once(message)?,
            Work::Read => {
                black_box(reader::read(message)?);
            }
            Work::PatchRequest => patch_request(&proxy, message, &mut patch)?,
            Work::PatchResponse => patch_response(&proxy, message, &mut patch)?,
        }
    }
    Ok(())
}

fn scan_once(message: &[u8]) -> anyhow::Result<()> {
    let keys = scan::Keys {
        hash_key: HASH_KEY,
        key: Key::CALL_ID,
        register_key: Key::CALL_ID,
    };
    match scan::scan(message, &keys, &mut Lines::default()) {
        Ok(scan) => {
            black_box(scan);
            Ok(())
        }
        Err(verdict) => bail!("the scan passed the message on: {verdict:?}"),
    }
}

fn patch_request(proxy: &Proxy, message: &[u8], patch: &mut Patch) -> anyhow::Result<()> {
    let sip = Sip::cut(message).context("the request is no SIP")?;
    let became = proxy.inward(&sip, Flow::udp(address(CLIENT)), Transport::Udp, NOW, patch);
    ensure!(became == Inward::Forward, "the request was not sent on");
    black_box(patch.pieces());
    Ok(())
}

fn patch_response(proxy: &Proxy, message: &[u8], patch: &mut Patch) -> anyhow::Result<()> {
    let sip = Sip::cut(message).context("the response is no SIP")?;
    let to = proxy.response(&sip, address(BACKEND).ip(), true, NOW, patch)?;
    let client = address(CLIENT).ip();
    ensure!(to.peer.ip() == client, "the response goes to {}", to.peer);
    black_box(patch.pieces());
    Ok(())
}
