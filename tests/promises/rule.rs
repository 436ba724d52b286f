//! The rule of home and admit, sentence by sentence, by the fast path and by the slow path alike: the
//! same scenes are played once through the XDP program and once through a worker's step, each over
//! tables of its own.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder::{
    config::{Config, Key, Overload, Policy},
    dataplane::KernelTables,
    slowpath::{
        Managed as _, Manners,
        step::{Step, step},
    },
};
use sip_forwarder_ebpf::{
    abi::{BackendId, ServiceId, Slot},
    verdict::Verdict,
};
use sip_forwarder_tests::{
    frames::parse,
    lab::{Family, Host},
    messages::Message,
    program::Action,
};

use crate::{
    packets::{Bench, config, in_lab_with},
    support::{SIP_PORT, as_root},
};

/// Which path a scene is played through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Fast,
    Slow,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Given to this proxy.
    At(u8, Verdict),
    /// Answered by the forwarder.
    Answered(Verdict, String),
    /// Not sent on.
    Nowhere(Verdict),
}

type Play = fn(&Scene<'_>) -> Result<()>;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, path) in [("fast", Path::Fast), ("slow", Path::Slow)] {
        let mut add = |test: &str, change: fn(&mut Config), play: Play| {
            trials.push(as_root(&format!("rule::{test}_{name}"), move || {
                let mut config = config(Family::V4);
                change(&mut config);
                in_lab_with(config.clone(), Family::V4, |bench| {
                    play(&Scene::new(bench, path, &config)?)
                })
            }));
        };
        let plain = |_: &mut Config| {};
        add("a_call_not_at_home_is_remembered", plain, not_at_home);
        add("a_call_at_home_is_not_remembered", plain, at_home);
        add("gates_and_drains_tear_no_call", plain, closing);
        add("a_dead_homes_calls_move_and_stay", plain, dead_home);
        add("a_settling_slot_remembers_its_calls", plain, settling);
        add("what_forms_no_dialog_is_not_remembered", plain, no_dialog);
        add("a_named_backend_comes_before_home", plain, named);
        add("entries_outlive_generations", plain, generations);
        add("nobody_open_refuses_only_what_is_new", plain, nobody_open);
        add("calls_that_are_up_find_somebody_who_lives", plain, anybody);
        add("overload_drop_is_silent", drop_overload, silent_overload);
        add("an_emergency_call_is_never_refused", plain, emergency);
        add("turns_are_taken_one_by_one", round_robin, turns);
    }
    let mut add = |test: &str, key: fn(&mut Config), play: Play| {
        trials.push(as_root(&format!("rule::{test}"), move || {
            let mut config = config(Family::V4);
            key(&mut config);
            in_lab_with(config.clone(), Family::V4, |bench| {
                play(&Scene::new(bench, Path::Slow, &config)?)
            })
        }));
    };
    add("a_key_chooses_the_slot_of_new_calls_only", key_to, key);
    add(
        "a_backends_own_call_is_known_whatever_the_key",
        key_to,
        own_call,
    );
    trials
}

fn drop_overload(config: &mut Config) {
    config.services[0].spread.overload = Overload::Drop;
}

fn round_robin(config: &mut Config) {
    config.services[0].spread.policy = Policy::RoundRobin;
}

fn key_to(config: &mut Config) {
    config.services[0].key = Key::To;
    config.services[0].register_key = Key::To;
}

/// Tables, and a path to them.
struct Scene<'a> {
    bench: &'a Bench,
    path: Path,
    tables: KernelTables,
}

impl<'a> Scene<'a> {
    fn new(bench: &'a Bench, path: Path, config: &Config) -> Result<Self> {
        let tables = bench.program.tables()?;
        let spread = &config.services[0].spread;
        tables.set_manners(HashMap::from([(
            ServiceId(0),
            Manners {
                overload: spread.overload,
                retry_after: spread.retry_after,
                emergency: vec!["112".to_owned()],
                backends: bench.program.backends(),
            },
        )]));
        Ok(Self {
            bench,
            path,
            tables,
        })
    }

    fn id(&self, proxy: u8) -> BackendId {
        self.bench.program.backends()[usize::from(proxy) - 1]
    }

    /// Makes every slot the same.
    fn ring(&self, home: u8, admit: Option<u8>, settling: bool) -> Result<()> {
        let admit = admit.map_or(BackendId::NONE, |proxy| self.id(proxy));
        self.bench
            .program
            .set_ring(Slot::new(self.id(home), admit, settling))
    }

    fn alive(&self, proxy: u8, alive: bool) -> Result<()> {
        self.bench.program.set_alive(self.id(proxy), alive)
    }

    fn send(&self, message: &[u8]) -> Result<End> {
        match self.path {
            Path::Fast => self.send_fast(message),
            Path::Slow => self.send_slow(message),
        }
    }

    /// By the program; what it passes is handed to a worker's step, as the kernel would.
    fn send_fast(&self, message: &[u8]) -> Result<End> {
        let frame = self.bench.to_vip(message);
        let ran = self.bench.run(&frame)?;
        match ran.action {
            Action::Tx => {
                let is = parse(&ran.frame)?;
                let (_, destination, _) = is.datagram().context("no datagram left")?;
                Ok(End::At(proxy_at(destination)?, ran.verdict))
            }
            Action::Pass => self.send_slow(message),
            other => anyhow::bail!("{other:?} {:?}", ran.verdict),
        }
    }

    fn send_slow(&self, message: &[u8]) -> Result<End> {
        let (what, verdict) = step(message, self.bench.client, ServiceId(0), &self.tables);
        Ok(match what {
            Step::Forward { backend, .. } => End::At(proxy_at(backend)?, verdict),
            Step::Reply(answer) => {
                End::Answered(verdict, String::from_utf8_lossy(&answer.bytes).into_owned())
            }
            Step::Absorb => End::Nowhere(verdict),
        })
    }

    /// Sends a message that must reach a proxy.
    fn at(&self, proxy: u8, verdict: Verdict, message: impl AsRef<[u8]>) -> Result<()> {
        let message = message.as_ref();
        let text = String::from_utf8_lossy(message).into_owned();
        let end = self.send(message)?;
        ensure!(
            end == End::At(proxy, verdict),
            "{end:?}, not proxy {proxy} by {verdict:?}:\n{text}"
        );
        Ok(())
    }

    /// Is there an affinity entry for any call?
    fn remembered(&self) -> usize {
        self.bench.program.maps().affinity_census(&[]).entries
    }
}

fn proxy_at(address: std::net::SocketAddr) -> Result<u8> {
    (1..=3)
        .find(|&n| Host::Proxy(n).socket(Family::V4, SIP_PORT) == address)
        .with_context(|| format!("{address} is no proxy"))
}

fn invite(call: &str) -> Vec<u8> {
    Message::invite().call_id(call).build()
}

fn in_dialog(method: &str, call: &str) -> Vec<u8> {
    Message::request(method).to_tag("x").call_id(call).build()
}

/// "An affinity entry whenever the outcome is not home", and "an affinity entry whose backend is alive
/// → that backend".
fn not_at_home(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, Some(2), false)?;
    scene.at(2, Verdict::ForwardedAdmit, invite("a"))?;
    scene.ring(1, Some(1), false)?;
    for method in ["ACK", "BYE", "INVITE", "UPDATE"] {
        scene.at(2, Verdict::ForwardedAffinity, in_dialog(method, "a"))?;
    }
    scene.at(
        2,
        Verdict::ForwardedAffinity,
        Message::request("CANCEL").call_id("a").build(),
    )?;
    ensure!(scene.remembered() == 1);
    Ok(())
}

/// "Stateless for every call at home."
fn at_home(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, Some(1), false)?;
    scene.at(1, Verdict::ForwardedHome, invite("a"))?;
    for method in ["ACK", "BYE", "INVITE"] {
        scene.at(1, Verdict::ForwardedHome, in_dialog(method, "a"))?;
    }
    ensure!(scene.remembered() == 0, "a call at home is remembered");
    Ok(())
}

/// "Whatever gate, drain or overload say now, … a retransmission or a second INVITE with credentials
/// follows the first", and what is up passes.
fn closing(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, Some(1), false)?;
    scene.at(1, Verdict::ForwardedHome, invite("a"))?;
    scene.ring(1, Some(2), false)?;
    scene.at(1, Verdict::ForwardedRecent, invite("a"))?;
    scene.at(1, Verdict::ForwardedHome, in_dialog("ACK", "a"))?;
    scene.at(2, Verdict::ForwardedAdmit, invite("b"))?;
    scene.ring(1, None, false)?;
    scene.at(1, Verdict::ForwardedRecent, invite("a"))?;
    scene.at(1, Verdict::ForwardedHome, in_dialog("BYE", "a"))?;
    scene.at(2, Verdict::ForwardedAffinity, invite("b"))?;
    Ok(())
}

/// "If home is dead → admit", remembered, so that the home's return does not tear the call.
fn dead_home(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, Some(1), false)?;
    scene.at(1, Verdict::ForwardedHome, invite("a"))?;
    scene.ring(1, Some(3), false)?;
    scene.alive(1, false)?;
    scene.at(3, Verdict::ForwardedHomeDead, in_dialog("BYE", "a"))?;
    // The first went to the dead one: `recent` no longer counts.
    scene.at(3, Verdict::ForwardedAffinity, invite("a"))?;
    scene.alive(1, true)?;
    scene.ring(1, Some(1), false)?;
    scene.at(3, Verdict::ForwardedAffinity, in_dialog("BYE", "a"))?;
    scene.at(1, Verdict::ForwardedHome, in_dialog("BYE", "b"))?;
    // An entry of a dead backend is worth nothing.
    scene.alive(3, false)?;
    scene.at(1, Verdict::ForwardedHome, in_dialog("INFO", "a"))?;
    scene.alive(3, true)?;
    scene.at(1, Verdict::ForwardedAffinity, in_dialog("INFO", "a"))?;
    Ok(())
}

/// Every call that speaks while its slot is settling is entered, so that only "one silent for a whole
/// settle" is torn.
fn settling(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, Some(1), true)?;
    scene.at(1, Verdict::ForwardedHome, invite("a"))?;
    scene.at(1, Verdict::ForwardedHome, in_dialog("BYE", "b"))?;
    ensure!(scene.remembered() == 2);
    scene.ring(2, Some(2), false)?;
    scene.at(1, Verdict::ForwardedAffinity, in_dialog("BYE", "a"))?;
    scene.at(1, Verdict::ForwardedAffinity, in_dialog("BYE", "b"))?;
    scene.at(2, Verdict::ForwardedHome, in_dialog("BYE", "c"))?;
    Ok(())
}

/// "REGISTER, OPTIONS, PUBLISH and MESSAGE form no dialog and never write affinity entries."
fn no_dialog(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, Some(2), true)?;
    for method in ["REGISTER", "OPTIONS", "PUBLISH", "MESSAGE"] {
        let message = Message::request(method).call_id(method).build();
        scene.at(2, Verdict::ForwardedAdmit, &message)?;
        scene.ring(1, Some(3), true)?;
        // But they are recent.
        scene.at(2, Verdict::ForwardedRecent, message)?;
        scene.ring(1, Some(2), true)?;
    }
    ensure!(scene.remembered() == 0);
    Ok(())
}

/// "A request inside a dialog whose top Route, or a response whose top Via's sent-by, names a live
/// backend of this service → that backend", remembered where it is not home.
fn named(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, Some(1), false)?;
    let host = Host::Proxy(3).address(Family::V4);
    let bye = |call: &str| {
        Message::bye()
            .call_id(call)
            .route(&format!("<sip:{host}:5060;lr>"))
            .build()
    };
    scene.at(3, Verdict::ForwardedNamed, bye("a"))?;
    scene.at(3, Verdict::ForwardedAffinity, in_dialog("BYE", "a"))?;
    let ok = Message::response(200, "OK", "INVITE")
        .call_id("b")
        .top_via(&format!("SIP/2.0/UDP {host}:5060;branch=z9hG4bKx"))
        .build();
    scene.at(3, Verdict::ForwardedNamed, ok)?;
    scene.at(3, Verdict::ForwardedAffinity, in_dialog("ACK", "b"))?;
    scene.alive(3, false)?;
    scene.at(1, Verdict::ForwardedHome, bye("c"))?;
    Ok(())
}

/// "A byte per Call-ID slot … survives ring generations."
fn generations(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, Some(2), false)?;
    scene.at(2, Verdict::ForwardedAdmit, invite("a"))?;
    for home in [3, 1, 3, 1] {
        scene.ring(home, Some(home), false)?;
        scene.at(2, Verdict::ForwardedAffinity, in_dialog("INFO", "a"))?;
    }
    Ok(())
}

/// "A refusal when nobody is open": 503 with Retry-After, its ACK absorbed; calls that are up pass.
fn nobody_open(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, None, false)?;
    let End::Answered(Verdict::AnsweredRefusal, answer) = scene.send(&invite("a"))? else {
        anyhow::bail!("a new call was not refused");
    };
    ensure!(answer.starts_with("SIP/2.0 503 "), "{answer}");
    ensure!(answer.contains("\r\nRetry-After: 5\r\n"), "{answer}");
    let tag = answer
        .lines()
        .find_map(|line| line.strip_prefix("To: ")?.split(";tag=").nth(1))
        .context("the refusal has no To-tag")?;
    let again = scene.send(&invite("a"))?;
    ensure!(
        matches!(&again, End::Answered(_, text) if text.contains(tag)),
        "another tag for the same request: {again:?}"
    );
    let ack = Message::request("ACK").call_id("a").to_tag(tag).build();
    let end = scene.send(&ack)?;
    ensure!(end == End::Nowhere(Verdict::AnsweredRefusalAck), "{end:?}");
    let forged = Message::request("ACK")
        .call_id("a")
        .to_tag("sfw-503-0123456789abcdef")
        .build();
    scene.at(1, Verdict::ForwardedHome, forged)?;
    scene.at(1, Verdict::ForwardedHome, in_dialog("BYE", "b"))?;
    // The gate opens: the caller's next attempt is a new call.
    scene.ring(1, Some(1), false)?;
    scene.at(1, Verdict::ForwardedHome, invite("a"))
}

/// "Messages of calls that are up always pass", even if their home is dead and nobody takes new calls.
fn anybody(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, None, false)?;
    scene.alive(1, false)?;
    let end = scene.send(&in_dialog("BYE", "a"))?;
    let End::At(proxy @ 2..=3, Verdict::ForwardedHomeDead) = end else {
        anyhow::bail!("{end:?}");
    };
    scene.at(proxy, Verdict::ForwardedAffinity, in_dialog("BYE", "a"))?;
    let end = scene.send(&invite("b"))?;
    ensure!(matches!(end, End::Answered(..)), "{end:?}");
    Ok(())
}

/// "Its requests are seen on the way out and get an entry if the Call-ID's home is another."
fn own_call(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, Some(1), false)?;
    let ran = scene.bench.run(&scene.bench.to_client(3, invite("own")))?;
    // A test run has no way out, so the kernel has the packet.
    ensure!(
        ran.verdict == Verdict::ReturnedByKernel,
        "{:?}",
        ran.verdict
    );
    scene.at(3, Verdict::ForwardedAffinity, in_dialog("BYE", "own"))
}

/// The thesis' way.
fn silent_overload(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, None, false)?;
    let end = scene.send(&invite("a"))?;
    ensure!(end == End::Nowhere(Verdict::DroppedOverload), "{end:?}");
    scene.at(1, Verdict::ForwardedHome, in_dialog("BYE", "b"))
}

/// "Emergency calls are never refused while a backend lives."
fn emergency(scene: &Scene<'_>) -> Result<()> {
    scene.ring(1, None, false)?;
    let call = |uri: &str, call: &str| {
        let text = String::from_utf8_lossy(&invite(call)).into_owned();
        let (_, rest) = text.split_once(" SIP/2.0").unwrap_or_default();
        format!("INVITE {uri} SIP/2.0{rest}").into_bytes()
    };
    scene.at(
        1,
        Verdict::ForwardedEmergency,
        call("urn:service:sos.fire", "a"),
    )?;
    scene.at(
        1,
        Verdict::ForwardedRecent,
        call("urn:service:sos.fire", "a"),
    )?;
    scene.at(
        1,
        Verdict::ForwardedEmergency,
        call("sip:112@example.com", "b"),
    )?;
    scene.alive(1, false)?;
    scene.alive(2, false)?;
    scene.at(3, Verdict::ForwardedEmergency, call("tel:112", "c"))?;
    scene.at(3, Verdict::ForwardedAffinity, in_dialog("ACK", "c"))?;
    scene.alive(3, false)?;
    let end = scene.send(&call("tel:112", "d"))?;
    ensure!(
        matches!(end, End::Answered(Verdict::AnsweredRefusal, _)),
        "{end:?}"
    );
    Ok(())
}

/// Policy `round-robin`: only step 3 differs.
fn turns(scene: &Scene<'_>) -> Result<()> {
    let homes = scene.id(1);
    let slots: Vec<Slot> = (0..sip_forwarder_ebpf::abi::RING_SLOTS)
        .map(|n| Slot::new(homes, scene.id((n % 3) as u8 + 1), false))
        .collect();
    scene.bench.program.set_slots(&slots)?;
    let mut last = None;
    for n in 0..60 {
        let call = format!("turn-{n}");
        let End::At(proxy, verdict) = scene.send(&invite(&call))? else {
            anyhow::bail!("call {n} went nowhere");
        };
        if let Some(last) = last {
            ensure!(proxy == last % 3 + 1, "{proxy} after {last}");
        }
        last = Some(proxy);
        let at_home = proxy == 1;
        let wanted = if at_home {
            Verdict::ForwardedHome
        } else {
            Verdict::ForwardedAdmit
        };
        ensure!(verdict == wanted, "{verdict:?}");
        // Neither a repetition nor the rest of the call takes a turn.
        let again = scene.send(&invite(&call))?;
        ensure!(matches!(again, End::At(p, _) if p == proxy), "{again:?}");
        let bye = scene.send(&in_dialog("BYE", &call))?;
        ensure!(matches!(bye, End::At(p, _) if p == proxy), "{bye:?}");
    }
    Ok(())
}

/// "Home is always looked up by the Call-ID. The service's key only chooses the slot whose admit a new
/// call gets."
fn key(scene: &Scene<'_>) -> Result<()> {
    let slots: Vec<Slot> = (0..sip_forwarder_ebpf::abi::RING_SLOTS)
        .map(|n| Slot::new(scene.id(1), scene.id((n % 3) as u8 + 1), false))
        .collect();
    scene.bench.program.set_slots(&slots)?;
    let to = |user: &str, call: &str| {
        Message::invite()
            .to(&format!("<sip:{user}@example.com>"))
            .call_id(call)
            .build()
    };
    let mut used = std::collections::HashSet::new();
    for user in ["alice", "bob", "carol", "dave", "erin", "frank"] {
        let mut first = None;
        for n in 0..4 {
            let call = format!("{user}-{n}");
            let End::At(proxy, _) = scene.send(&to(user, &call))? else {
                anyhow::bail!("{call} went nowhere");
            };
            ensure!(
                *first.get_or_insert(proxy) == proxy,
                "{user}'s calls were parted"
            );
            let end = scene.send_fast(&in_dialog("BYE", &call))?;
            ensure!(matches!(end, End::At(p, _) if p == proxy), "{end:?}");
            used.insert(proxy);
        }
    }
    ensure!(used.len() > 1, "all users went to one proxy");
    Ok(())
}
