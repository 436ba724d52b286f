//! `cargo xtask bench fastpath`: nanoseconds per packet, by `BPF_PROG_TEST_RUN`.
//!
//! The yardstick is a program that swaps the MAC addresses and sends the frame back, timed in the
//! same rounds. A packet is seen again as the program left it, so backends listen on the VIP itself:
//! the rewrite is done in full and changes nothing but the time to live, which lasts for a round.

use std::net::{IpAddr, SocketAddr};

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use sip_forwarder::config::Config;
use sip_forwarder_tests::{
    frames::UdpFrame,
    lab::{Family, Host, Lab, vip},
    messages,
    program::{Program, config_of, nat_service},
};

use crate::{
    Outcome, program, setup,
    shell::{is_root, say},
};

const YARDSTICK: &str = "yardstick";
const FORWARDER: &str = "sip_forwarder";
/// Runs in a row: fewer than a packet's hop limit.
const REPEAT: u32 = 200;
const SIP_PORT: u16 = 5060;
const CLIENT_PORT: u16 = 5061;
/// Proxies in the tables.
const BACKENDS: u8 = 3;

/// Nanoseconds per packet in the XDP program, and what the verifier made of it.
#[derive(Args)]
pub(crate) struct Fastpath {
    /// One JSON object on the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 301, value_parser = clap::value_parser!(u32).range(7..=100_000))]
    rounds: u32,
}

#[derive(Serialize)]
struct Report {
    yardstick_ns: f64,
    cases: Vec<Case>,
    verified_insns: u32,
    jitted_bytes: u32,
}

#[derive(Serialize)]
struct Case {
    name: String,
    ns: f64,
    ratio: f64,
    /// Half of the rounds lie within this many nanoseconds.
    spread_ns: f64,
}

/// A packet to be timed.
struct Packet {
    name: String,
    frame: Vec<u8>,
    /// Its rounds.
    nanoseconds: Vec<f64>,
}

impl Fastpath {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        if !is_root() {
            bail!("BPF_PROG_TEST_RUN needs root: sudo cargo xtask bench fastpath");
        }
        setup::lab_programs()?;
        let object = program::program()?;
        // The way back asks the kernel's routing table: that of the lab's forwarder.
        let lab = Lab::new(1)?;
        say(&format!(
            "{} rounds of {REPEAT} runs each, interleaved",
            self.rounds
        ));
        let report = lab.enter(Host::Forwarder, || self.measure(&object))??;
        self.show(&report)?;
        Ok(Outcome::Done)
    }

    fn measure(&self, object: &std::path::Path) -> anyhow::Result<Report> {
        let mut program = Program::load(object, config())?;
        program.load_other(YARDSTICK)?;
        let mut packets: Vec<Packet> = [Family::V4, Family::V6]
            .into_iter()
            .flat_map(packets)
            .collect();
        for packet in &packets {
            let ran = program.run(&packet.frame)?;
            if ran.action != sip_forwarder_tests::program::Action::Tx && packet.is_to_vip() {
                bail!(
                    "{}: the fast path did not take it ({:?})",
                    packet.name,
                    ran.verdict
                );
            }
        }
        let mut yardstick = Vec::new();
        for _ in 0..self.rounds {
            yardstick.push(nanoseconds(&program, YARDSTICK, &packets[0].frame)?);
            for packet in &mut packets {
                let time = nanoseconds(&program, FORWARDER, &packet.frame)?;
                packet.nanoseconds.push(time);
            }
        }
        let yardstick_ns = quantile(&mut yardstick, 0.5);
        let (verified_insns, jitted_bytes) = program.size()?;
        let cases = packets
            .into_iter()
            .map(|packet| packet.into_case(yardstick_ns))
            .collect();
        Ok(Report {
            yardstick_ns,
            cases,
            verified_insns,
            jitted_bytes,
        })
    }

    fn show(&self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(report)?);
            return Ok(());
        }
        println!(
            "yardstick (swap MAC addresses, send back): {:.0} ns",
            report.yardstick_ns
        );
        println!(
            "{:<16} {:>8} {:>8} {:>12}",
            "packet", "ns", "ratio", "spread ns"
        );
        for case in &report.cases {
            println!(
                "{:<16} {:>8.0} {:>8.1} {:>12.1}",
                case.name, case.ns, case.ratio, case.spread_ns
            );
        }
        println!(
            "verified instructions {}, machine code {} bytes",
            report.verified_insns, report.jitted_bytes
        );
        Ok(())
    }
}

impl Packet {
    fn is_to_vip(&self) -> bool {
        !self.name.starts_with("return")
    }

    fn into_case(mut self, yardstick_ns: f64) -> Case {
        let ns = quantile(&mut self.nanoseconds, 0.5);
        let spread_ns =
            quantile(&mut self.nanoseconds, 0.75) - quantile(&mut self.nanoseconds, 0.25);
        Case {
            name: self.name,
            ns,
            ratio: ns / yardstick_ns,
            spread_ns,
        }
    }
}

fn nanoseconds(program: &Program, name: &str, frame: &[u8]) -> anyhow::Result<f64> {
    Ok(program.time(name, frame, REPEAT)?.as_nanos() as f64)
}

fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

/// A service of each family whose backends listen on the VIP.
fn config() -> Config {
    let service = |name: &str, family| {
        let address = SocketAddr::new(vip(family), SIP_PORT);
        let backends = (1..=BACKENDS).map(|n| (format!("p{n}"), address));
        nat_service(name, address, backends)
    };
    config_of(vec![
        service("four", Family::V4),
        service("six", Family::V6),
    ])
}

fn packets(family: Family) -> Vec<Packet> {
    let client = Host::Client.socket(family, CLIENT_PORT);
    let vip = SocketAddr::new(vip(family), SIP_PORT);
    let suffix = if matches!(vip.ip(), IpAddr::V4(_)) {
        ""
    } else {
        "-v6"
    };
    let packet = |name: &str, from, to, message: Vec<u8>| Packet {
        name: format!("{name}{suffix}"),
        frame: UdpFrame::new(from, to, message).hop_limit(255).build(),
        nanoseconds: Vec::new(),
    };
    vec![
        packet("invite", client, vip, messages::sipp_invite()),
        packet("bye", client, vip, messages::sipp_bye()),
        packet("ok", client, vip, messages::sipp_ok()),
        packet("invite-long", client, vip, messages::Message::long_invite()),
        packet("return", vip, client, messages::sipp_ok()),
    ]
}
