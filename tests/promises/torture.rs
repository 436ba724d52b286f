//! The torture messages of RFC 4475 and RFC 5118, in mode `nat`: both paths give each to the same backend,
//! and the backend gets it byte for byte; what belongs to no call is dropped and counted.
//!
//! Mode `proxy` has its own expectations in the same table ([`Torture::expected_in_proxy_mode`]).

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder::{
    dataplane::KernelTables,
    sip::proxy::Patch,
    slowpath::{
        proxying::ProxyStep,
        step::{Step, step},
    },
};
use sip_forwarder_ebpf::{
    abi::ServiceId,
    verdict::{Outcome, Verdict},
};
use sip_forwarder_tests::{
    corpus::{self, InNatMode, InProxyMode, Torture},
    frames::parse,
    fuzz::proxied,
    lab::{Daemon, DaemonSpec, Family, Host, Lab},
    messages::Message,
    parity::agree,
    patches,
    program::{Action, Program},
};

use crate::{
    packets::{Bench, config, in_lab},
    support::{
        ARRIVAL, CLIENT_PORT, anywhere, arrival, as_root, daemon_file, forwarding_lab,
        program_file, proxy_sockets, socket, verdict, vip_socket,
    },
};

/// Longest message that an Ethernet frame carries whole, in bytes, IPv6 and UDP headers counted.
const WHOLE: usize = 1_500 - 48;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![anywhere("torture::scan_and_reader_agree", || {
        each("the scan and the reader", corpus::all(), |message| {
            agree(message.bytes).map_err(anyhow::Error::msg)?;
            Ok(())
        })
    })];
    for (name, family) in [("v4", Family::V4), ("v6", Family::V6)] {
        trials.push(as_root(
            &format!("torture::both_paths_place_alike_{name}"),
            move || in_lab(family, both_paths),
        ));
        trials.push(as_root(
            &format!("torture::backends_get_every_byte_{name}"),
            move || every_byte(family),
        ));
    }
    trials.push(anywhere("torture::mode_proxy_changes_what_it_may", || {
        each("in mode proxy", corpus::all(), |message| {
            by_proxy(message).map(drop)
        })
    }));
    trials.push(as_root("torture::mode_proxy_loses_nothing", through_proxy));
    trials
}

/// Looks at every message, and fails with all that went wrong.
fn each(
    what: &str,
    messages: impl Iterator<Item = &'static Torture>,
    mut look: impl FnMut(&'static Torture) -> Result<()>,
) -> Result<()> {
    let (mut count, mut faults) = (0, Vec::new());
    for message in messages {
        count += 1;
        if let Err(error) = look(message) {
            faults.push(format!("{} {}: {error:#}", message.section, message.name));
        }
    }
    ensure!(count > 0, "there are no messages");
    ensure!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
    Ok(())
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// This backend was given it, unchanged.
    At(SocketAddr, Verdict),
    /// Nobody was.
    Nowhere(Verdict),
}

/// The same messages, in the same order, once through the program (and, where it passes one on, a
/// worker's step) and once through a worker's step alone, each over tables of its own: else `recent`
/// and affinity entries would carry one path's answer over to the other.
fn both_paths(bench: &Bench) -> Result<()> {
    let tables = bench.program.tables()?;
    let other = Program::load(&program_file()?, config(bench.family))?;
    let others_tables = other.tables()?;
    let mut forwarded_fast = 0;
    each("of both paths", corpus::all(), |message| {
        let slow = by_step(message.bytes, bench.client, &others_tables)?;
        let (fast, passed) = by_program(bench, message.bytes, &tables)?;
        forwarded_fast += usize::from(passed.is_none());
        ensure!(
            fast == slow,
            "{fast:?} by the fast path (passed on as {passed:?}), {slow:?} by the slow path"
        );
        ensure!(
            fits(message.in_nat_mode, slow),
            "{slow:?}, not {:?}",
            message.in_nat_mode
        );
        Ok(())
    })?;
    // Else the comparison would be of the slow path with itself.
    ensure!(
        forwarded_fast >= FORWARDED_FAST,
        "the program forwarded only {forwarded_fast} messages itself"
    );
    Ok(())
}

/// Messages that are plain enough for the fast path, at least.
const FORWARDED_FAST: usize = 10;

fn fits(expected: InNatMode, end: End) -> bool {
    match (expected, end) {
        (InNatMode::Forwarded, End::At(..)) => true,
        (InNatMode::NoCallId, End::Nowhere(verdict)) => verdict == Verdict::DroppedNoCallId,
        (InNatMode::NotSip, End::Nowhere(verdict)) => verdict == Verdict::DroppedNotSip,
        _ => false,
    }
}

fn by_step(message: &[u8], client: SocketAddr, tables: &KernelTables) -> Result<End> {
    let (what, verdict) = step(message, client, ServiceId(0), tables);
    Ok(match what {
        Step::Forward { backend, source } => {
            ensure!(source == client, "the backend would see {source}");
            End::At(backend, verdict)
        }
        Step::Absorb => End::Nowhere(verdict),
        Step::Reply(answer) => anyhow::bail!("answered: {}", answer.bytes.escape_ascii()),
    })
}

/// Also tells why the program passed the message on, if it did.
fn by_program(
    bench: &Bench,
    message: &[u8],
    tables: &KernelTables,
) -> Result<(End, Option<Verdict>)> {
    let frame = bench.to_vip(message);
    let frames = if message.len() > WHOLE {
        frame.build_fragments(WHOLE, 1)
    } else {
        vec![frame.build()]
    };
    let mut passed = None;
    for before in &frames {
        let ran = bench.program.run(before)?;
        match ran.action {
            Action::Tx => {
                ensure!(frames.len() == 1, "a fragment was sent on");
                let is = parse(&ran.frame)?;
                let (_, backend, payload) = is.datagram().context("no datagram left")?;
                ensure!(payload == message, "the fast path changed it");
                return Ok((End::At(backend, ran.verdict), None));
            }
            Action::Pass => {
                ensure!(
                    ran.frame == *before,
                    "the fast path changed what it passed on"
                );
                passed = Some(ran.verdict);
            }
            other => anyhow::bail!("{other:?} {:?}", ran.verdict),
        }
    }
    Ok((by_step(message, bench.client, tables)?, passed))
}

/// Through the daemon, over real sockets.
fn every_byte(family: Family) -> Result<()> {
    let (lab, daemon) = forwarding_lab(3, family)?;
    let proxies = proxy_sockets(&lab, family)?;
    let client = socket(&lab, Host::Client, family, CLIENT_PORT)?;
    let forwarded = corpus::all().filter(|m| m.in_nat_mode == InNatMode::Forwarded);
    each("through the daemon", forwarded, |message| {
        client.send_to(message.bytes, vip_socket(family))?;
        let arrived = arrival(&proxies)?;
        ensure!(arrived.payload == message.bytes, "it arrived changed");
        ensure!(
            arrived.from == client.local_addr()?,
            "it came from {}",
            arrived.from
        );
        Ok(())
    })?;
    for (end, name) in [
        (InNatMode::NoCallId, "no-call-id"),
        (InNatMode::NotSip, "not-sip"),
    ] {
        let dropped: Vec<_> = corpus::all().filter(|m| m.in_nat_mode == end).collect();
        for message in &dropped {
            client.send_to(message.bytes, vip_socket(family))?;
        }
        // Behind them in the same queue; once it arrived, they are counted.
        client.send_to(last(), vip_socket(family))?;
        arrival(&proxies)?;
        let (fast, slow) = verdict(&daemon, name)?;
        ensure!(
            (fast, slow) == (0, dropped.len() as u64),
            "{name} is counted {fast} and {slow} times for {} messages",
            dropped.len()
        );
    }
    Ok(())
}

/// A message that takes the slow path and reaches a backend: a folded header.
fn last() -> &'static [u8] {
    corpus::RFC_4475[0].bytes
}

/// What the messages of a client come to in mode `proxy`, as verdicts.
fn by_proxy(message: &Torture) -> Result<Verdict> {
    let mut patch = Patch::default();
    let (what, verdict) = proxied(message.bytes, &mut patch);
    let outcome = verdict.entry().outcome;
    match (message.expected_in_proxy_mode(), what) {
        (InProxyMode::Forwarded | InProxyMode::LeftToBackend(_), ProxyStep::Forward(_)) => {
            ensure!(outcome == Outcome::Forwarded, "{verdict:?}");
            let left =
                patches::checked(message.bytes, &patch, "192.0.2.1").map_err(anyhow::Error::msg)?;
            ensure!(body(&left) == body(message.bytes), "another body");
        }
        (InProxyMode::Answered(code), ProxyStep::Reply(answer)) => {
            let status = format!("SIP/2.0 {code} ");
            ensure!(
                answer.bytes.starts_with(status.as_bytes()),
                "{}",
                answer.bytes.escape_ascii()
            );
            ensure!(verdict == Verdict::AnsweredFault, "{verdict:?}");
        }
        (InProxyMode::Dropped, ProxyStep::Absorb) => {
            let expected = match message.in_nat_mode {
                InNatMode::Forwarded => Verdict::DroppedResponseNotOurs,
                InNatMode::NoCallId => Verdict::DroppedNoCallId,
                InNatMode::NotSip => Verdict::DroppedNotSip,
            };
            ensure!(verdict == expected, "{verdict:?}");
        }
        (expected, what) => anyhow::bail!("{what:?} {verdict:?}, not {expected:?}"),
    }
    Ok(verdict)
}

/// Behind the first empty line.
fn body(message: &[u8]) -> &[u8] {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or(&[], |end| &message[end + 4..])
}

/// Through the daemon: what is to arrive arrives, all else is counted as what it is, and afterwards a good
/// INVITE comes through.
fn through_proxy() -> Result<()> {
    let family = Family::V4;
    let lab = Lab::new(3)?;
    let mut spec = DaemonSpec::of_lab(daemon_file()?, &lab, family);
    spec.userspace = true;
    spec.services[0].extra += "mode = \"proxy\"\n";
    let daemon = Daemon::start(&lab, &spec)?;
    let proxies = proxy_sockets(&lab, family)?;
    let client = socket(&lab, Host::Client, family, CLIENT_PORT)?;
    let (mut sent, mut other) = (0, HashMap::<&str, u64>::new());
    each("through the daemon", corpus::all(), |message| {
        client.send_to(message.bytes, vip_socket(family))?;
        sent += 1;
        let entry = by_proxy(message)?.entry();
        if entry.outcome != Outcome::Forwarded {
            *other.entry(entry.name).or_default() += 1;
            return Ok(());
        }
        let arrived = arrival(&proxies)?;
        ensure!(arrived.from == vip_socket(family), "from {}", arrived.from);
        let own = format!("\r\nVia: SIP/2.0/UDP {}", vip_socket(family));
        let text = arrived.payload.escape_ascii();
        ensure!(
            contains(&arrived.payload, own.as_bytes()),
            "without our Via: {text}"
        );
        ensure!(
            contains(&arrived.payload, call_id(message.bytes)?),
            "another message: {text}"
        );
        ensure!(
            body(&arrived.payload) == body(message.bytes),
            "another body: {text}"
        );
        Ok(())
    })?;
    let invite = Message::invite().call_id("good@client").build();
    client.send_to(&invite, vip_socket(family))?;
    sent += 1;
    let arrived = arrival(&proxies)?;
    ensure!(contains(&arrived.payload, b"good@client"), "not the INVITE");
    let total = || -> Result<u64> {
        let status = daemon.status()?;
        let verdicts = status["verdicts"].as_array().context("no verdicts")?;
        let count = |v: &serde_json::Value, path: &str| v[path].as_u64().unwrap_or(0);
        Ok(verdicts
            .iter()
            .map(|v| count(v, "fast") + count(v, "slow"))
            .sum())
    };
    // A worker counts after it has sent.
    daemon.wait_for("counted every message", ARRIVAL, |_| {
        total().is_ok_and(|total| total >= sent)
    })?;
    ensure!(total()? == sent, "{} counted of {sent}", total()?);
    for (name, count) in other {
        let counted = verdict(&daemon, name)?;
        ensure!(
            counted == (0, count),
            "{name} is counted {counted:?} times, not {count}"
        );
    }
    Ok(())
}

fn call_id(message: &[u8]) -> Result<&[u8]> {
    let line = message
        .split(|&b| b == b'\n')
        .find(|line| {
            let lower = line.to_ascii_lowercase();
            lower.starts_with(b"call-id") || lower.starts_with(b"i:")
        })
        .context("no Call-ID")?;
    Ok(line)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
