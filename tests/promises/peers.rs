//! Programs that others wrote, on both sides: Kamailio as registrar on every proxy, sipsak and baresip
//! as clients. A registrar knows its own users alone, so with `key = "to"` and `register_key = "to"` a
//! call for a user must come to the proxy where that user registered; in every mode.

use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    baresip::{Baresip, Line},
    kamailio::{Kamailio, RecordRoute},
    lab::{Daemon, DaemonSpec, Family, Host, Lab, vip},
    sipsak,
};

use crate::{
    cluster::NOTICE,
    support::{as_root, daemon_file, lab_programs_file, socket},
};

/// That all of them hash to one of two proxies happens once in 2048 runs.
const USERS: u16 = 12;
const FIRST_PORT: u16 = 5080;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root("peers::sipsak_finds_users_in_nat", || sipsak(Mode::Nat)),
        as_root("peers::sipsak_finds_users_in_proxy", || sipsak(Mode::Proxy)),
        as_root("peers::baresip_calls_end_alike", calls_end_alike),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Nat,
    Proxy,
}

/// The lab with a registrar on each of two proxies. What is last goes last.
struct Registrars {
    proxies: Vec<Kamailio>,
    _daemon: Daemon,
    lab: Lab,
}

impl Registrars {
    fn start(mode: Mode) -> Result<Self> {
        let lab = Lab::new(2)?;
        let mut spec = DaemonSpec::of_lab(daemon_file()?, &lab, Family::V4);
        spec.services[0].extra += "key = \"to\"\nregister_key = \"to\"\n";
        let record_route = match mode {
            Mode::Nat => {
                lab.accept_xdp(&lab_programs_file()?)?;
                RecordRoute::Vip
            }
            Mode::Proxy => {
                spec.services[0].extra += "mode = \"proxy\"\n";
                spec.userspace = true;
                RecordRoute::Own
            }
        };
        let daemon = Daemon::start(&lab, &spec)?;
        if matches!(mode, Mode::Nat) {
            daemon.wait_resolved(NOTICE)?;
        }
        let proxies = (1..=lab.proxies())
            .map(|n| Kamailio::registrar(&lab, Host::Proxy(n), Family::V4, record_route))
            .collect::<Result<_>>()?;
        Ok(Self {
            proxies,
            _daemon: daemon,
            lab,
        })
    }

    /// How many Call-IDs each proxy saw.
    fn seen(&self) -> Result<Vec<usize>> {
        let count = |proxy: &Kamailio| Ok(proxy.call_log().read()?.touched.len());
        self.proxies.iter().map(count).collect()
    }

    /// There were so many calls, and of each one proxy saw all requests. (The phones cannot tell: each
    /// proxy takes the VIP in Route for itself and would relay a BYE that is another's.)
    fn saw_whole_calls(&self, calls: usize) -> Result<()> {
        let mut seen = Vec::new();
        for proxy in &self.proxies {
            let methods = proxy.call_log().methods()?.into_values();
            seen.extend(methods.filter(|of_call| !of_call.contains("REGISTER")));
        }
        let whole = ["INVITE", "ACK", "BYE"].map(str::to_owned).into();
        ensure!(
            seen.len() == calls && seen.iter().all(|of_call| *of_call == whole),
            "{calls} calls were seen as {seen:?}"
        );
        Ok(())
    }
}

/// Every user is registered, and found by a request that is of no call yet.
fn sipsak(mode: Mode) -> Result<()> {
    let registrars = Registrars::start(mode)?;
    let lab = &registrars.lab;
    let mut phones = Vec::new();
    for port in FIRST_PORT..FIRST_PORT + USERS {
        let phone = socket(lab, Host::Client, Family::V4, port)?;
        sipsak::register(lab, &user(port), phone.local_addr()?, Family::V4)?;
        phones.push(phone);
    }
    let registered = registrars.seen()?;
    ensure!(
        registered.iter().all(|n| *n > 0),
        "the users are not spread: {registered:?}"
    );
    for (phone, port) in phones.iter().zip(FIRST_PORT..) {
        options_arrive(lab, phone, &user(port))
            .with_context(|| format!("{} in mode {mode:?}", user(port)))?;
    }
    Ok(())
}

fn user(port: u16) -> String {
    format!("user{port}")
}

/// sipsak waits for the answer, so the phone answers on a thread of its own.
fn options_arrive(lab: &Lab, phone: &UdpSocket, user: &str) -> Result<()> {
    let (sent, got) = std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(phone));
        let sent = sipsak::options(lab, user, Family::V4);
        (sent, answering.join())
    });
    let got = got.map_err(|_| anyhow::anyhow!("the phone panicked"))?;
    sent?;
    let got = got?;
    let beginning = format!("OPTIONS sip:{user}@{}", phone.local_addr()?);
    ensure!(got.starts_with(&beginning), "it got\n{got}");
    Ok(())
}

/// Waits for a request and answers 200; gives the request.
fn answer(phone: &UdpSocket) -> Result<String> {
    let mut buffer = vec![0; 65_536];
    let (length, from) = phone
        .recv_from(&mut buffer)
        .context("nothing came to the phone")?;
    let request = &buffer[..length];
    phone.send_to(
        &sip_forwarder_tests::messages::answer_to(request, "200 OK", ""),
        from,
    )?;
    Ok(String::from_utf8_lossy(request).into_owned())
}

/// Alice calls Bob twice, and each hangs up once; the phones tell the same whatever the forwarder's
/// mode.
fn calls_end_alike() -> Result<()> {
    let by_nat = calls(Mode::Nat).context("in mode nat")?;
    let by_proxy = calls(Mode::Proxy).context("in mode proxy")?;
    ensure!(
        by_nat == by_proxy,
        "in mode nat {by_nat:#?}, in mode proxy {by_proxy:#?}"
    );
    Ok(())
}

/// Who ends a call.
#[derive(Clone, Copy, Debug)]
enum End {
    Caller,
    Called,
}

fn calls(mode: Mode) -> Result<Vec<Outcome>> {
    let registrars = Registrars::start(mode)?;
    let outcomes = [End::Caller, End::Called]
        .into_iter()
        .map(|end| call(&registrars.lab, end).with_context(|| format!("{end:?} hangs up")))
        .collect::<Result<Vec<_>>>()?;
    registrars.saw_whole_calls(outcomes.len())?;
    Ok(outcomes)
}

/// What became of a call, as the phones say.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    alice: Vec<String>,
    bob: Vec<String>,
}

fn call(lab: &Lab, end: End) -> Result<Outcome> {
    let mut bob = Baresip::start(
        lab,
        &Line {
            user: "bob",
            port: 5072,
            ..Line::default()
        },
    )?;
    let mut alice = Baresip::start(
        lab,
        &Line {
            user: "alice",
            port: 5075,
            calls: Some("bob"),
            ..Line::default()
        },
    )?;
    alice.wait_established()?;
    bob.wait_established()?;
    let (first, second) = match end {
        End::Caller => (&mut alice, &mut bob),
        End::Called => (&mut bob, &mut alice),
    };
    first.hang_up()?;
    second.wait_closed()?;
    second.hang_up()?;
    let outcome = Outcome {
        alice: alice.outcome()?,
        bob: bob.outcome()?,
    };
    ensure!(
        outcome.alice[0] == format!("Call established: sip:bob@{}", vip(Family::V4)),
        "Alice's call is not with Bob: {outcome:#?}"
    );
    Ok(outcome)
}
