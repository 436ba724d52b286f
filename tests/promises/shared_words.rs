//! What the XDP program and the workers both write: no write is lost, and both sides agree, with both
//! at it on CPUs of their own.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::Trial;
use sip_forwarder::{
    config::{Config, Policy},
    dataplane::KernelTables,
    slowpath::placement::{Message as Asked, Placed, Starting, Tables as _},
};
use sip_forwarder_ebpf::{abi::ServiceId, rule::Role, verdict::Verdict};
use sip_forwarder_tests::{
    frames::{UdpChecksum, UdpFrame},
    lab::{Family, Host, Lab},
    messages::Message,
    pace,
    program::{Action, Program, config_of, nat_service},
};

use crate::support::{CLIENT_PORT, SIP_PORT, as_root, program_file, vip_socket};

const BACKENDS: u8 = 8;
/// Calls of the great test, and how many of them are repeated before the next are made.
const MANY: u32 = 250_000;
const BLOCK: u32 = 50_000;
/// Calls of the others: fewer than half a ring, at whose end a round of turns is cut short.
const SOME: u32 = 30_000;
/// What stands for a call's number in the template.
const NUMBER: &str = "00000000";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        as_root(
            "shared_words::repeated_requests_are_not_split_by_two_cpus",
            || in_namespace(repeated_by_two_cpus),
        ),
        as_root(
            "shared_words::the_program_and_a_worker_agree_on_new_requests",
            || in_namespace(program_and_worker_agree),
        ),
        as_root("shared_words::no_entry_and_no_hint_is_lost", || {
            in_namespace(no_hint_is_lost)
        }),
        as_root("shared_words::no_turn_is_lost", || {
            in_namespace(no_turn_is_lost)
        }),
        as_root(
            "shared_words::a_packet_that_interrupts_a_test_run_goes_to_the_workers",
            || in_namespace(nested),
        ),
    ]
}

/// Runs a test with the program and eight backends, in turn.
fn in_namespace(test: fn(&Program) -> Result<()>) -> Result<()> {
    let lab = Lab::new(1)?;
    let object = program_file()?;
    lab.enter(Host::Forwarder, || {
        // The workers' socket, without which what the program leaves to them is dropped.
        let _socket = UdpSocket::bind(vip_socket(Family::V4)).context("cannot bind the VIP")?;
        test(&Program::load(&object, config())?)
    })?
}

fn config() -> Config {
    let backends = (1..=BACKENDS).map(|n| (format!("p{n}"), backend(n)));
    let mut service = nat_service("lab", vip_socket(Family::V4), backends);
    service.spread.policy = Policy::RoundRobin;
    config_of(vec![service])
}

fn backend(number: u8) -> SocketAddr {
    (Ipv4Addr::new(198, 51, 100, number), SIP_PORT).into()
}

/// A request of which each call has its own, by its number.
struct Template {
    frame: Vec<u8>,
    number: usize,
}

/// Offsets in the template's frame.
const DESTINATION: usize = 14 + 16;
const SOURCE_PORT: usize = 14 + 20;

impl Template {
    fn new(method: &str) -> Result<Self> {
        let payload = Message::request(method)
            .without_to_tag()
            .call_id(&format!("{NUMBER}@shared.example"))
            .build();
        let client = Host::Client.socket(Family::V4, CLIENT_PORT);
        let frame = UdpFrame::new(client, vip_socket(Family::V4), payload)
            .checksum(UdpChecksum::Zero)
            .build();
        let number = frame
            .windows(NUMBER.len())
            .position(|window| window == NUMBER.as_bytes())
            .context("the template has no number")?;
        Ok(Self { frame, number })
    }

    /// The request of a call, from a port of its own.
    fn of(&self, call: u32, port: u16) -> Vec<u8> {
        let mut frame = self.frame.clone();
        frame[self.number..self.number + NUMBER.len()].copy_from_slice(&digits(call));
        frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port.to_be_bytes());
        frame
    }
}

fn digits(call: u32) -> [u8; 8] {
    let mut digits = [0; 8];
    digits.copy_from_slice(format!("{call:08}").as_bytes());
    digits
}

fn call_id(call: u32) -> String {
    format!("{call:08}@shared.example")
}

/// One side, which places messages.
struct Side<'a> {
    program: &'a Program,
    worker: KernelTables,
    template: Template,
    role: Role,
    /// Messages that the program left to the workers, because another CPU had the line.
    contended: &'a AtomicU64,
}

impl<'a> Side<'a> {
    fn new(program: &'a Program, role: Role, contended: &'a AtomicU64) -> Result<Self> {
        let method = match role {
            Role::StartsNothing => "MESSAGE",
            _ => "INVITE",
        };
        Ok(Self {
            program,
            worker: program.tables()?,
            template: Template::new(method)?,
            role,
            contended,
        })
    }

    /// The number of the backend that the XDP program gives a call, or the worker if the program
    /// leaves it to that.
    fn by_program(&self, call: u32, port: u16) -> Result<u8> {
        let mut out = vec![0; 2_048];
        match self.program.pass(&self.template.of(call, port), &mut out)? {
            Action::Tx => Ok(out[DESTINATION + 3]),
            Action::Pass => {
                self.contended.fetch_add(1, Ordering::Relaxed);
                self.by_worker(call)
            }
            other => Err(anyhow!("call {call}: {other:?}")),
        }
    }

    /// The number of the backend that a worker gives a call.
    fn by_worker(&self, call: u32) -> Result<u8> {
        self.ask(call, self.role).map(|(backend, _)| backend)
    }

    fn ask(&self, call: u32, role: Role) -> Result<(u8, Verdict)> {
        let call_id = call_id(call);
        let start = role.starts().then_some(Starting {
            method: b"INVITE",
            uri: b"sip:bob@example.com",
            to: b"<sip:bob@example.com>",
            from: b"<sip:alice@example.com>;tag=1",
        });
        let asked = Asked {
            role,
            call_id: call_id.as_bytes(),
            host: None,
            start,
        };
        match self.worker.place(ServiceId(0), &asked) {
            Placed::To(to) => match to.backend {
                SocketAddr::V4(v4) => Ok((v4.ip().octets()[3], to.verdict)),
                SocketAddr::V6(v6) => Err(anyhow!("call {call} went to {v6}")),
            },
            other => Err(anyhow!("call {call}: {other:?}")),
        }
    }
}

/// Runs two jobs at once, each on a CPU of its own (if there are two), and returns what they return.
fn on_two_cpus<T: Send>(jobs: [Box<dyn FnOnce() -> Result<T> + Send + '_>; 2]) -> Result<[T; 2]> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let start = Barrier::new(2);
    let results = thread::scope(|scope| {
        let threads = jobs.map(|job| (job, &start));
        let mut number = 0;
        let threads = threads.map(|(job, start)| {
            let core = cores.get(number % cores.len().max(1)).copied();
            number += 1;
            scope.spawn(move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                start.wait();
                job()
            })
        });
        threads.map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a side panicked")))
        })
    });
    let [first, second] = results;
    Ok([first?, second?])
}

/// Four copies of each of 250,000 requests that form no dialog, from four ports: two at once on two
/// CPUs, and two more when all others of their block were made, which takes less than four seconds.
fn repeated_by_two_cpus(program: &Program) -> Result<()> {
    let contended = AtomicU64::new(0);
    let mut split = Vec::new();
    for block in 0..MANY / BLOCK {
        let calls = block * BLOCK..(block + 1) * BLOCK;
        let begun = std::time::Instant::now();
        let mut first: Vec<u8> = Vec::new();
        for copies in 0..2_u16 {
            let copy = |side: u16| -> Box<dyn FnOnce() -> Result<Vec<u8>> + Send + '_> {
                let calls = calls.clone();
                let contended = &contended;
                Box::new(move || {
                    let place = Side::new(program, Role::StartsNothing, contended)?;
                    let port = 20_000 + copies * 2 + side;
                    calls.map(|call| place.by_program(call, port)).collect()
                })
            };
            for placed in on_two_cpus([copy(0), copy(1)])? {
                if first.is_empty() {
                    first = placed;
                    continue;
                }
                let others = calls.clone().zip(first.iter().zip(&placed));
                split.extend(others.filter(|(_, (a, b))| a != b).map(|(call, _)| call));
            }
        }
        ensure!(
            begun.elapsed() < pace::limit(Duration::from_secs(8)),
            "copies were more than four seconds apart: {:?} for two rounds",
            begun.elapsed()
        );
    }
    ensure!(
        split.is_empty(),
        "{} of {} repeated requests went to another backend",
        split.len(),
        3 * MANY
    );
    let left = contended.load(Ordering::Relaxed);
    ensure!(
        left < u64::from(MANY) / 100,
        "{left} of {} requests were left to the workers",
        4 * MANY
    );
    Ok(())
}

/// The same new request at once at the program and at a worker: one backend.
fn program_and_worker_agree(program: &Program) -> Result<()> {
    let contended = AtomicU64::new(0);
    for role in [Role::StartsNothing, Role::StartsDialog] {
        // A number of its own for each call.
        let first = match role {
            Role::StartsNothing => 0,
            _ => SOME,
        };
        let calls = first..first + SOME;
        let (a, b) = (calls.clone(), calls.clone());
        let sides = [
            Side::new(program, role, &contended)?,
            Side::new(program, role, &contended)?,
        ];
        let [ours, theirs] = on_two_cpus([
            Box::new(|| a.map(|call| sides[0].by_program(call, 20_000)).collect()),
            Box::new(|| {
                b.map(|call| sides[1].by_worker(call))
                    .collect::<Result<Vec<_>>>()
            }),
        ])?;
        let split = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        ensure!(split == 0, "{split} of {SOME} ({role:?}) are split");
    }
    Ok(())
}

/// New calls at the program and at a worker, in the same lines of hints: later messages find each.
fn no_hint_is_lost(program: &Program) -> Result<()> {
    let contended = AtomicU64::new(0);
    let sides = [
        Side::new(program, Role::StartsDialog, &contended)?,
        Side::new(program, Role::StartsDialog, &contended)?,
    ];
    let even = || (0..SOME).step_by(2);
    let odd = || (1..SOME).step_by(2);
    let [ours, theirs] = on_two_cpus([
        Box::new(|| {
            even()
                .map(|call| sides[0].by_program(call, 20_000))
                .collect()
        }),
        Box::new(|| {
            odd()
                .map(|call| sides[1].by_worker(call))
                .collect::<Result<Vec<_>>>()
        }),
    ])?;
    let placed: HashMap<u32, u8> = even().zip(ours).chain(odd().zip(theirs)).collect();
    let mut lost = 0;
    let mut entries = 0;
    for (call, backend) in placed {
        let (found, verdict) = sides[0].ask(call, Role::InDialog)?;
        entries += u32::from(verdict == Verdict::ForwardedAffinity);
        lost += u32::from(found != backend);
    }
    ensure!(lost == 0, "{lost} of {SOME} calls are not found again");
    // One in eight is at its home by chance, and needs no entry.
    ensure!(
        entries > SOME * 3 / 4,
        "only {entries} of {SOME} calls had an entry: the test tests nothing"
    );
    Ok(())
}

/// Every new request takes one turn, whoever places it.
fn no_turn_is_lost(program: &Program) -> Result<()> {
    let contended = AtomicU64::new(0);
    let role = Role::StartsNothing;
    let sides = [
        Side::new(program, role, &contended)?,
        Side::new(program, role, &contended)?,
    ];
    let [ours, theirs] = on_two_cpus([
        Box::new(|| {
            (0..SOME)
                .map(|call| sides[0].by_program(call, 20_000))
                .collect()
        }),
        Box::new(|| {
            (SOME..2 * SOME)
                .map(|call| sides[1].by_worker(call))
                .collect::<Result<Vec<_>>>()
        }),
    ])?;
    let turns = program.maps().turns.get(0).context("there are no turns")?;
    let taken = turns.turns.load(Ordering::Relaxed);
    // Who finds the line taken by another gives the request to a worker, which takes a turn of its own.
    let wanted = u64::from(2 * SOME) + contended.load(Ordering::Relaxed);
    ensure!(taken == wanted, "{taken} turns for {wanted} requests");
    let mut shares = [0_u32; BACKENDS as usize + 1];
    for backend in ours.into_iter().chain(theirs) {
        shares[usize::from(backend)] += 1;
    }
    let (least, most) = (
        shares[1..].iter().min().copied().unwrap_or(0),
        shares[1..].iter().max().copied().unwrap_or(0),
    );
    ensure!(
        most - least <= 1 + contended.load(Ordering::Relaxed) as u32,
        "turns were not even: {shares:?}"
    );
    Ok(())
}

/// While a packet has the CPU's memory, another one is left alone, and nothing of the first is lost.
fn nested(program: &Program) -> Result<()> {
    let frame = Template::new("INVITE")?.of(1, 20_000);
    program.set_busy(true)?;
    let ran = program.run(&frame)?;
    ensure!(
        (ran.action, ran.verdict) == (Action::Pass, Verdict::PassedNested),
        "{:?} {:?}",
        ran.action,
        ran.verdict
    );
    ensure!(ran.frame == frame, "the packet was changed");
    ensure!(
        program.run(&frame)?.verdict == Verdict::PassedNested,
        "the interrupting packet freed the memory"
    );
    program.set_busy(false)?;
    for _ in 0..2 {
        let ran = program.run(&frame)?;
        ensure!(
            ran.action == Action::Tx,
            "{:?} {:?}",
            ran.action,
            ran.verdict
        );
    }
    Ok(())
}
