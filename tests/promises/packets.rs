//! The fast path on single packets: packet in → verdict, action, bytes out.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder::{config::Config, dataplane::publish};
use sip_forwarder_ebpf::{
    abi::{BackendFlags, VlanTags},
    stage::Stage,
    verdict::Verdict,
};
use sip_forwarder_tests::{
    frames::{Fragment, UdpChecksum, UdpFrame, parse},
    lab::{Family, Host, Lab},
    messages::Message,
    program::{Action, NEXT_HOP, OWN_MAC, Program, Ran, config_of, nat_service},
};

use crate::support::{CLIENT_PORT, SIP_PORT, as_root, program_file, vip_socket};

const HOPS: u8 = 64;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![as_root(
        "packets::the_verifier_stays_within_its_budget",
        || in_lab(Family::V4, verifier_budget),
    )];
    for (name, family) in [("v4", Family::V4), ("v6", Family::V6)] {
        let mut add = |test: &str, run: fn(&Bench) -> Result<()>| {
            trials.push(as_root(&format!("packets::{test}_{name}"), move || {
                in_lab(family, run)
            }));
        };
        add("requests_are_rewritten", requests_are_rewritten);
        add("a_call_keeps_its_backend", a_call_keeps_its_backend);
        add("odd_messages_are_passed_with_their_reason", odd_messages);
        add("odd_packets_are_passed_with_their_reason", odd_packets);
        add("responses_return_from_the_vip", responses_return);
        add("ways_to_clients_are_kept_until_they_change", kept_ways);
        add("requests_of_backends_are_remembered", backends_requests);
        add("named_backends_get_the_message", named_backends);
        add("dead_backends_get_nothing", dead_backends);
        add("without_a_daemon_odd_messages_are_dropped", without_daemon);
        add("others_packets_pass_untouched", others_packets);
        add("a_missing_stage_costs_no_message", missing_stage);
    }
    trials
}

/// A program with three backends, in the namespace of a lab's forwarder.
pub(crate) struct Bench {
    pub(crate) family: Family,
    pub(crate) program: Program,
    pub(crate) client: SocketAddr,
    vip: SocketAddr,
    /// The slow path's socket, without which odd messages are dropped.
    slow_path: Option<UdpSocket>,
}

pub(crate) fn in_lab(family: Family, test: fn(&Bench) -> Result<()>) -> Result<()> {
    in_lab_with(config(family), family, test)
}

/// The same, with a configuration of the test's own.
pub(crate) fn in_lab_with(
    config: Config,
    family: Family,
    test: impl FnOnce(&Bench) -> Result<()> + Send,
) -> Result<()> {
    let object = program_file()?;
    let lab = Lab::new(3)?;
    lab.enter(Host::Forwarder, || {
        // Turns are counted by CPU, and a test run is on the thread's.
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        if let Some(core) = cores.first() {
            core_affinity::set_for_current(*core);
        }
        let vip = vip_socket(family);
        let bench = Bench {
            family,
            program: Program::load(&object, config)?,
            client: Host::Client.socket(family, CLIENT_PORT),
            vip,
            slow_path: Some(UdpSocket::bind(vip).context("cannot bind the VIP")?),
        };
        // Without a socket: only that test closes it.
        test(&bench)
    })?
}

pub(crate) fn config(family: Family) -> Config {
    let proxies = (1..=3).map(|n| {
        let host = Host::Proxy(n);
        (host.to_string(), host.socket(family, SIP_PORT))
    });
    config_of(vec![nat_service("lab", vip_socket(family), proxies)])
}

impl Bench {
    /// A frame from the client to the VIP.
    pub(crate) fn to_vip(&self, payload: impl Into<Vec<u8>>) -> UdpFrame {
        UdpFrame::new(self.client, self.vip, payload).hop_limit(HOPS)
    }

    /// A frame from a backend to the client.
    pub(crate) fn to_client(&self, proxy: u8, payload: impl Into<Vec<u8>>) -> UdpFrame {
        UdpFrame::new(
            Host::Proxy(proxy).socket(self.family, SIP_PORT),
            self.client,
            payload,
        )
        .hop_limit(HOPS)
    }

    pub(crate) fn run(&self, frame: &UdpFrame) -> Result<Ran> {
        self.program.run(&frame.build())
    }

    /// Runs a frame that must leave for a backend, and checks every byte of it.
    fn forwarded(&self, frame: &UdpFrame) -> Result<(u8, Verdict)> {
        let before = frame.build();
        let ran = self.program.run(&before)?;
        ensure!(
            ran.action == Action::Tx,
            "{:?} {:?}",
            ran.action,
            ran.verdict
        );
        let (was, is) = (
            parse(&before)?,
            parse(&ran.frame).context("the packet that left is not well")?,
        );
        ensure!(
            is.destination_mac == NEXT_HOP && is.source_mac == OWN_MAC,
            "wrong MAC addresses: {is:?}"
        );
        ensure!(is.packet.hop_limit == HOPS - 1, "the hop was not counted");
        ensure!(is.vlans == was.vlans, "the VLAN tags changed");
        let (source, destination, payload) = is.datagram().context("no datagram left")?;
        let (_, _, sent) = was.datagram().context("no datagram came")?;
        ensure!(source == self.client, "the source is {source}");
        ensure!(payload == sent, "the payload changed");
        let proxy = (1..=3).find(|&n| Host::Proxy(n).socket(self.family, SIP_PORT) == destination);
        Ok((
            proxy.with_context(|| format!("it left for {destination}"))?,
            ran.verdict,
        ))
    }

    /// Runs a frame that must be left to the slow path untouched.
    fn passed(&self, frame: &UdpFrame, verdict: Verdict) -> Result<()> {
        self.untouched(frame, Action::Pass, verdict)
    }

    fn untouched(&self, frame: &UdpFrame, action: Action, verdict: Verdict) -> Result<()> {
        let before = frame.build();
        let ran = self.program.run(&before)?;
        ensure!(
            (ran.action, ran.verdict) == (action, verdict),
            "{:?} {:?}, not {action:?} {verdict:?}",
            ran.action,
            ran.verdict
        );
        ensure!(
            ran.frame == before,
            "a packet that was {action:?} is changed"
        );
        Ok(())
    }
}

fn requests_are_rewritten(bench: &Bench) -> Result<()> {
    let mut seen = [0; 3];
    for n in 0..60 {
        let message = Message::invite().call_id(&format!("{n}@client")).build();
        let (proxy, verdict) = bench.forwarded(&bench.to_vip(message))?;
        ensure!(verdict == Verdict::ForwardedHome, "{verdict:?}");
        seen[usize::from(proxy) - 1] += 1;
    }
    ensure!(seen.iter().all(|&n| n > 5), "60 calls went {seen:?}");
    if bench.family == Family::V4 {
        let frame = bench
            .to_vip(Message::invite().call_id("zero@client").build())
            .checksum(UdpChecksum::Zero);
        let ran = bench.run(&frame)?;
        let is = parse(&ran.frame)?;
        let sip_forwarder_tests::frames::Content::Udp { checksum, .. } = is.packet.content else {
            anyhow::bail!("no datagram left")
        };
        ensure!(
            checksum == 0,
            "an absent UDP checksum became {checksum:04x}"
        );
    }
    Ok(())
}

fn a_call_keeps_its_backend(bench: &Bench) -> Result<()> {
    for n in 0..20 {
        let call_id = format!("keep-{n}@client");
        let (home, _) =
            bench.forwarded(&bench.to_vip(Message::invite().call_id(&call_id).build()))?;
        let others = [
            Message::invite().call_id(&call_id).build(),
            Message::request("CANCEL").call_id(&call_id).build(),
            Message::request("ACK")
                .to_tag("x")
                .call_id(&call_id)
                .build(),
            Message::bye().call_id(&call_id).build(),
            Message::bye().call_id(&call_id).compact().build(),
            Message::invite().to_tag("x").call_id(&call_id).build(),
            Message::response(200, "OK", "INVITE")
                .call_id(&call_id)
                .build(),
        ];
        for message in others {
            let (proxy, _) = bench.forwarded(&bench.to_vip(message.clone()))?;
            ensure!(
                proxy == home,
                "proxy {proxy}, not {home}:\n{}",
                String::from_utf8_lossy(&message)
            );
        }
    }
    let recent = Message::invite().call_id("again@client").build();
    bench.forwarded(&bench.to_vip(recent.clone()))?;
    let (_, verdict) = bench.forwarded(&bench.to_vip(recent))?;
    ensure!(
        verdict == Verdict::ForwardedRecent,
        "a repeated INVITE was {verdict:?}"
    );
    Ok(())
}

fn odd_messages(bench: &Bench) -> Result<()> {
    let text = String::from_utf8(Message::invite().build())?;
    let bye = String::from_utf8(Message::bye().build())?;
    let cases = [
        ("\r\n\r\n".to_owned(), Verdict::PassedShort),
        (text.replace("INVITE ", "FROB "), Verdict::PassedStartLine),
        (text.replace("From: ", "From:\r\n "), Verdict::PassedFolded),
        (text.replace("\r\n", "\n"), Verdict::PassedLineEnding),
        (
            text.replace("Call-ID:", "X-Call-ID:"),
            Verdict::PassedHeaderEnd,
        ),
        (
            text.replace("Call-ID: ", "Call-ID: a b"),
            Verdict::PassedCallId,
        ),
        (
            text.replace("INVITE sip:service@", "OPTIONS sip:"),
            Verdict::PassedForwarder,
        ),
        (
            bye.replace("BYE sip", &format!("BYE {}sip", "x".repeat(1_480))),
            Verdict::PassedScanLimit,
        ),
    ];
    for (message, verdict) in cases {
        bench
            .passed(&bench.to_vip(message.clone()), verdict)
            .with_context(|| format!("{verdict:?}:\n{message}"))?;
    }
    Ok(())
}

fn odd_packets(bench: &Bench) -> Result<()> {
    let invite = Message::invite().build();
    bench.passed(
        &bench.to_vip(invite.clone()).hop_limit(1),
        Verdict::PassedTimeToLive,
    )?;
    let fragment = |offset, more| {
        bench.to_vip(vec![b'x'; 800]).fragment(Fragment {
            offset,
            more,
            id: 77,
        })
    };
    bench.passed(&fragment(0, true), Verdict::PassedFragment)?;
    bench.passed(&fragment(800, false), Verdict::PassedFragment)?;
    match bench.family {
        Family::V4 => {
            bench.forwarded(&bench.to_vip(invite.clone()).ipv4_options(&[1, 1, 1, 1]))?;
            bench.forwarded(&bench.to_vip(invite.clone()).ipv4_options(&[0x94, 4, 0, 0]))?;
            bench.passed(
                &bench
                    .to_vip(invite.clone())
                    .ipv4_options(&[7, 7, 4, 0, 0, 0, 0]),
                Verdict::PassedIpOptions,
            )?;
        }
        Family::V6 => {
            bench.passed(
                &bench.to_vip(invite.clone()).ipv6_extension(60, &[]),
                Verdict::PassedIpv6Extension,
            )?;
        }
    }
    vlan_tags(bench, &invite)?;
    several_buffers(bench)?;
    let mut padded = bench.to_vip(invite.clone()).build();
    padded.extend_from_slice(&[0; 6]);
    let ran = bench.program.run(&padded)?;
    ensure!(
        (ran.action, ran.verdict) == (Action::Pass, Verdict::PassedTrailingBytes),
        "{:?}",
        ran.verdict
    );
    for id in bench.program.backends() {
        bench.program.change_backend(id, |b| b.mtu = 400)?;
    }
    bench.passed(&bench.to_vip(invite.clone()), Verdict::PassedTooLarge)?;
    for id in bench.program.backends() {
        bench
            .program
            .change_backend(id, |b| b.flags.0 &= !BackendFlags::RESOLVED)?;
    }
    bench.passed(&bench.to_vip(invite), Verdict::PassedNextHop)
}

/// Messages whose next stage is not there go to the workers, unchanged; a backend's packet must not leave with the
/// backend's address, and is dropped.
fn missing_stage(bench: &Bench) -> Result<()> {
    let invite = bench.to_vip(Message::invite().build());
    for stage in [Stage::SendNat, Stage::Place] {
        bench.program.remove_stage(stage)?;
        let ran = bench.run(&invite)?;
        ensure!(
            (ran.action, ran.verdict) == (Action::Pass, Verdict::PassedStage),
            "without {stage:?}: {:?} {:?}",
            ran.action,
            ran.verdict
        );
        ensure!(
            ran.frame == invite.build(),
            "without {stage:?} it was changed"
        );
    }
    bench.program.remove_stage(Stage::Return)?;
    let ran = bench.run(&bench.to_client(1, Message::ok().build()))?;
    ensure!(
        (ran.action, ran.verdict) == (Action::Drop, Verdict::DroppedTableFault),
        "{:?} {:?}",
        ran.action,
        ran.verdict
    );
    Ok(())
}

/// What the kernel's verifier may go through in one stage: a quarter of what it allows.
const VERIFIER_BUDGET: u32 = 250_000;

fn verifier_budget(bench: &Bench) -> Result<()> {
    let sizes = bench.program.sizes()?;
    for size in sizes {
        ensure!(
            size.verified <= VERIFIER_BUDGET,
            "{}: {} instructions verified, more than {VERIFIER_BUDGET}",
            size.stage,
            size.verified
        );
    }
    Ok(())
}

/// Tagged frames are forwarded where the way to the backend bears the same tags.
fn vlan_tags(bench: &Bench, invite: &[u8]) -> Result<()> {
    let one = bench.to_vip(invite).vlan(100);
    let two = bench.to_vip(invite).vlan(200).vlan(100);
    let set = |tags: VlanTags| -> Result<()> {
        let backends = bench.program.backends();
        backends
            .into_iter()
            .try_for_each(|id| bench.program.change_backend(id, |b| b.tags = tags))
    };
    bench.passed(&one, Verdict::PassedVlan)?;
    set(VlanTags::default().with_inner(100))?;
    bench.forwarded(&one)?;
    bench.passed(&two, Verdict::PassedVlan)?;
    set(VlanTags::default().with_inner(200).with_inner(100))?;
    bench.forwarded(&two)?;
    bench.passed(&bench.to_vip(invite), Verdict::PassedVlan)?;
    set(VlanTags::default())
}

/// A jumbo frame lies in several buffers, of which the program reads the first.
fn several_buffers(bench: &Bench) -> Result<()> {
    let jumbo = Message::invite().build_sized(8_000);
    let ran = bench.run(&bench.to_vip(jumbo.clone()))?;
    ensure!(
        (ran.action, ran.verdict) == (Action::Pass, Verdict::PassedTrailingBytes),
        "a jumbo frame to the VIP: {:?} {:?}",
        ran.action,
        ran.verdict
    );
    // Too large for the client's link and not to be fragmented: the kernel must tell the backend.
    let frame = bench.to_client(1, jumbo);
    bench.untouched(&frame, Action::Pass, Verdict::IgnoredLocal)?;
    Ok(())
}

/// Runs a backend's frame to the client and checks that it leaves with the VIP as its source.
fn returned(bench: &Bench, frame: &UdpFrame, verdict: Verdict) -> Result<()> {
    let ran = bench.run(frame)?;
    ensure!(ran.verdict == verdict, "{:?} {:?}", ran.action, ran.verdict);
    let is = parse(&ran.frame).context("the packet that left is not well")?;
    let (source, destination, _) = is.datagram().context("no datagram left")?;
    ensure!(
        source == bench.vip && destination == bench.client,
        "{source} → {destination}"
    );
    Ok(())
}

fn responses_return(bench: &Bench) -> Result<()> {
    let ok = Message::ok().build();
    // The client's interface cannot be redirected to until the daemon allows it.
    returned(
        bench,
        &bench.to_client(1, ok.clone()),
        Verdict::ReturnedByKernel,
    )?;
    let interface = sip_forwarder::dataplane::environment::interface_index("to-client")
        .context("no to-client")?;
    bench.program.maps().allow_interface(interface)?;
    returned(
        bench,
        &bench.to_client(1, ok.clone()),
        Verdict::ReturnedResponse,
    )?;
    let ran = bench.run(&bench.to_client(2, ok.clone()))?;
    let is = parse(&ran.frame)?;
    ensure!(ran.action == Action::Redirect, "{:?}", ran.action);
    ensure!(
        is.destination_mac == Host::Client.mac() && is.source_mac == Host::Client.forwarder_mac(),
        "{is:?}"
    );
    ensure!(is.packet.hop_limit == HOPS - 1, "the hop was not counted");
    // Fragments: the first tells the later ones where to come from.
    let fragment = |offset, more| {
        bench.to_client(1, ok[..400].to_vec()).fragment(Fragment {
            offset,
            more,
            id: 99,
        })
    };
    bench.untouched(
        &fragment(408, false),
        Action::Pass,
        Verdict::IgnoredFragment,
    )?;
    let first = bench.run(&fragment(0, true))?;
    ensure!(
        first.verdict == Verdict::ReturnedResponse,
        "{:?}",
        first.verdict
    );
    let later = bench.run(&fragment(408, false))?;
    ensure!(
        later.verdict == Verdict::ReturnedFragment,
        "{:?}",
        later.verdict
    );
    let is = parse(&later.frame).context("the later fragment is not well")?;
    ensure!(
        is.packet.source == bench.vip.ip() && is.packet.fragment.is_some(),
        "{is:?}"
    );
    returned(
        bench,
        &bench.to_client(1, "garbage of a backend"),
        Verdict::ReturnedUnread,
    )
}

/// The kernel is asked once for a client; again when something changed, for another client, and for
/// whatever a kept way says nothing about.
fn kept_ways(bench: &Bench) -> Result<()> {
    let ok = Message::ok().build();
    let frame = bench.to_client(1, ok.clone());
    let interface = sip_forwarder::dataplane::environment::interface_index("to-client")
        .context("no to-client")?;
    bench.program.maps().allow_interface(interface)?;
    returned(bench, &frame, Verdict::ReturnedResponse)?;
    let address = bench.client.ip().to_string();
    let neighbour = |arguments: &[&str]| -> Result<()> {
        let status = std::process::Command::new("ip")
            .args(["neigh", arguments[0], &address, "dev", "to-client"])
            .args(&arguments[1..])
            .status()?;
        ensure!(status.success(), "ip neigh {} failed", arguments.join(" "));
        Ok(())
    };
    neighbour(&["del"])?;
    returned(bench, &frame, Verdict::ReturnedResponse)?;
    let elsewhere = UdpFrame::new(
        Host::Proxy(1).socket(bench.family, SIP_PORT),
        SocketAddr::new(bench.client.ip(), CLIENT_PORT + 1),
        ok.clone(),
    );
    let asked = bench.run(&elsewhere.hop_limit(HOPS))?;
    ensure!(
        asked.verdict == Verdict::ReturnedByKernel,
        "another port: {:?}",
        asked.verdict
    );
    publish::forget_ways(bench.program.maps())?;
    returned(bench, &frame, Verdict::ReturnedByKernel)?;
    neighbour(&["replace", "lladdr", "02:00:00:00:77:01", "nud", "permanent"])?;
    returned(bench, &frame, Verdict::ReturnedResponse)?;
    let ran = bench.run(&frame)?;
    ensure!(
        parse(&ran.frame)?.destination_mac == [2, 0, 0, 0, 0x77, 1],
        "the next hop is not the new one"
    );
    // A hop limit that ends here, and a packet too large for the way.
    let ended = bench.to_client(1, ok.clone()).hop_limit(1);
    bench.untouched(&ended, Action::Pass, Verdict::IgnoredLocal)?;
    let large = Message::invite().build_sized(2_000);
    bench.untouched(
        &bench.to_client(1, large),
        Action::Pass,
        Verdict::IgnoredLocal,
    )
}

fn backends_requests(bench: &Bench) -> Result<()> {
    for n in 0..12 {
        let call_id = format!("from-backend-{n}");
        let invite = Message::invite().call_id(&call_id).build();
        let (home, _) = bench.forwarded(&bench.to_vip(Message::bye().call_id(&call_id).build()))?;
        let other = home % 3 + 1;
        for proxy in [home, other] {
            let ran = bench.run(&bench.to_client(proxy, invite.clone()))?;
            ensure!(
                ran.verdict == Verdict::ReturnedByKernel,
                "{:?}",
                ran.verdict
            );
        }
        let (now, verdict) =
            bench.forwarded(&bench.to_vip(Message::bye().call_id(&call_id).build()))?;
        ensure!(
            (now, verdict) == (other, Verdict::ForwardedAffinity),
            "proxy {now} {verdict:?}, not {other}"
        );
    }
    Ok(())
}

fn named_backends(bench: &Bench) -> Result<()> {
    for proxy in 1..=3 {
        let name = Host::Proxy(proxy).socket(bench.family, SIP_PORT);
        for n in 0..6 {
            let by_via = Message::response(200, "OK", "INVITE")
                .call_id(&format!("via-{proxy}-{n}"))
                .top_via(&format!("SIP/2.0/UDP {name};branch=z9hG4bK77"))
                .build();
            let by_route = Message::bye()
                .call_id(&format!("route-{proxy}-{n}"))
                .route(&format!("<sip:{name};lr>"))
                .build();
            for message in [by_via, by_route] {
                let (got, _) = bench.forwarded(&bench.to_vip(message.clone()))?;
                ensure!(
                    got == proxy,
                    "proxy {got}, not {proxy}:\n{}",
                    String::from_utf8_lossy(&message)
                );
            }
        }
    }
    // The VIP in Route names nobody.
    let own = Message::bye()
        .route(&format!("<sip:{};lr>", bench.vip))
        .build();
    let (_, verdict) = bench.forwarded(&bench.to_vip(own))?;
    ensure!(verdict == Verdict::ForwardedHome, "{verdict:?}");
    // A backend's response may carry a name that is nobody's.
    let stranger = Message::bye().route("<sip:proxy.example.com;lr>").build();
    bench.forwarded(&bench.to_vip(stranger))?;
    Ok(())
}

fn dead_backends(bench: &Bench) -> Result<()> {
    let kill = |index: usize| {
        bench
            .program
            .change_backend(bench.program.backends()[index], |b| {
                b.flags.0 &= !BackendFlags::ALIVE;
            })
    };
    kill(0)?;
    for n in 0..40 {
        let frame = bench.to_vip(Message::bye().call_id(&format!("dead-{n}")).build());
        let ran = bench.run(&frame)?;
        let left_for = parse(&ran.frame)?.datagram().map(|(_, to, _)| to);
        ensure!(
            left_for != Some(Host::Proxy(1).socket(bench.family, SIP_PORT)),
            "a dead backend got a message"
        );
    }
    kill(1)?;
    kill(2)?;
    bench.passed(
        &bench.to_vip(Message::bye().build()),
        Verdict::PassedNoBackend,
    )
}

fn without_daemon(bench: &Bench) -> Result<()> {
    ensure!(bench.slow_path.is_some(), "the socket is there at first");
    let odd = String::from_utf8(Message::invite().build())?.replace("\r\n", "\n");
    bench.passed(&bench.to_vip(odd.clone()), Verdict::PassedLineEnding)?;
    // To a port that is a service's, but at which nobody listens.
    let mut config = config(bench.family);
    config.services[0].vip.set_port(5_099);
    let other = Program::load(&program_file()?, config)?;
    let frame = UdpFrame::new(bench.client, SocketAddr::new(bench.vip.ip(), 5_099), odd).build();
    let ran = other.run(&frame)?;
    ensure!(
        (ran.action, ran.verdict) == (Action::Drop, Verdict::DroppedNoDaemon),
        "{:?}",
        ran.verdict
    );
    let invite = UdpFrame::new(
        bench.client,
        SocketAddr::new(bench.vip.ip(), 5_099),
        Message::invite().build(),
    )
    .build();
    ensure!(
        other.run(&invite)?.action == Action::Tx,
        "the fast path stopped with the slow path"
    );
    Ok(())
}

fn others_packets(bench: &Bench) -> Result<()> {
    let elsewhere = SocketAddr::new(bench.vip.ip(), 53);
    let frame = UdpFrame::new(bench.client, elsewhere, Message::invite().build());
    bench.untouched(&frame, Action::Pass, Verdict::IgnoredOther)?;
    // A backend that speaks to the forwarder's own address, not as SIP to the VIP.
    let own = Host::Forwarder.socket(bench.family, 5_060);
    let frame = UdpFrame::new(
        Host::Proxy(1).socket(bench.family, SIP_PORT),
        own,
        Message::ok().build(),
    );
    bench.untouched(&frame, Action::Pass, Verdict::IgnoredLocal)?;
    let mut arp = bench.to_vip(Message::invite().build()).build();
    arp[12..14].copy_from_slice(&[8, 6]);
    let ran = bench.program.run(&arp)?;
    ensure!(
        (ran.action, ran.verdict) == (Action::Pass, Verdict::IgnoredNotIp),
        "{:?}",
        ran.verdict
    );
    let ran = bench.program.run(&{
        let mut tcp = bench.to_vip(Message::invite().build()).build();
        tcp[if bench.family == Family::V4 { 23 } else { 20 }] = 6;
        tcp
    })?;
    ensure!(
        (ran.action, ran.verdict) == (Action::Pass, Verdict::IgnoredNotUdp),
        "{:?}",
        ran.verdict
    );
    Ok(())
}
