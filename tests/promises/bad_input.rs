//! Bad input: one line that says what to do, exit status 2, nothing left attached or pinned.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::lab::{Daemon, DaemonSpec, Family, Host, Lab, process::poll};

use crate::support::{ARRIVAL, as_root, daemon_file, forwarding_lab};

pub(crate) fn trials() -> Vec<Trial> {
    let case = |name: &'static str, change: fn(String) -> String, says: &'static [&'static str]| {
        as_root(&format!("bad_input::{name}"), move || refused(change, says))
    };
    vec![
        case(
            "no_such_interface",
            |c| c.replace("\"to-p1\"", "\"eth77\""),
            &["eth77", "ip link"],
        ),
        case(
            "vip_not_here",
            |c| c.replace("10.210.255.1", "10.210.255.9"),
            &["10.210.255.9", "ip address add"],
        ),
        case(
            "weight_zero",
            |c| c.replace("weight = 1", "weight = 0"),
            &["weight 0", "1 to"],
        ),
        case(
            "weight_70000",
            |c| c.replace("weight = 1", "weight = 70000"),
            &["weight 70000", "1 to"],
        ),
        case(
            "unknown_key",
            |c| c.replace("weight = 1", "wait = 1"),
            &["wait", "weight"],
        ),
        case(
            "no_route_to_backend",
            |c| c.replace("10.210.1.2", "203.0.113.7"),
            &["203.0.113.7", "route"],
        ),
        case(
            "two_services_on_one_vip",
            two_services,
            &["10.210.255.1:5060", "`lab`", "`other`"],
        ),
        as_root(
            "bad_input::kernel_refuses_own_source",
            kernel_refuses_own_source,
        ),
        as_root("bad_input::missing_capability", missing_capability),
        as_root("bad_input::second_daemon", second_daemon),
        as_root("bad_input::anothers_pinned_maps", anothers_pinned_maps),
        as_root(
            "bad_input::another_xdp_program",
            another_folder_same_interface,
        ),
    ]
}

fn two_services(config: String) -> String {
    config
        + "\n[[service]]\nname = \"other\"\naddress = \"10.210.255.1\"\nport = 5060\n\
           [[service.backend]]\nname = \"x\"\naddress = \"10.210.1.2\"\nport = 5066\n"
}

/// Runs `run` in a lab with a configuration that was changed, and checks how it is refused.
fn refused(change: fn(String) -> String, says: &[&str]) -> Result<()> {
    let lab = Lab::new(1)?;
    let good = config_text(&lab)?;
    let bad = change(good.clone());
    ensure!(bad != good, "the change must change something");
    let file = lab.dir().join("bad.toml");
    fs::write(&file, bad)?;
    for verb in ["check", "run"] {
        let mut command = lab.command(Host::Forwarder, daemon_file()?)?;
        expect_refusal(command.args([verb, "--config"]).arg(&file), says)?;
    }
    nothing_left(&lab)
}

/// The configuration the lab's daemon would have, as a running one has it.
fn config_text(lab: &Lab) -> Result<String> {
    let daemon = Daemon::start(lab, &DaemonSpec::of_lab(daemon_file()?, lab, Family::V4))?;
    let text = fs::read_to_string(daemon.config())?;
    drop(daemon);
    nothing_left(lab)?;
    Ok(text)
}

fn expect_refusal(command: &mut Command, says: &[&str]) -> Result<()> {
    let output = command.output().context("cannot start sip-forwarder")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(2),
        "exit status {:?}, not 2: {text}",
        output.status.code()
    );
    let faults: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("sip-forwarder: "))
        .collect();
    ensure!(faults.len() == 1, "not one line: {text}");
    for word in says {
        ensure!(
            faults[0].contains(word),
            "`{word}` is not in: {}",
            faults[0]
        );
    }
    Ok(())
}

fn nothing_left(lab: &Lab) -> Result<()> {
    ensure!(
        !lab.bpf_dir().exists(),
        "{} is left",
        lab.bpf_dir().display()
    );
    // The kernel takes a program off a moment after its last pin is gone.
    let mut links = String::new();
    let bare = poll(ARRIVAL, || {
        let output = lab
            .command(Host::Forwarder, "ip")?
            .args(["-o", "link"])
            .output()?;
        links = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((!links.contains("xdp")).then_some(()))
    })?;
    ensure!(bare.is_some(), "a program is left attached: {links}");
    Ok(())
}

fn missing_capability() -> Result<()> {
    let lab = Lab::new(1)?;
    let file = lab.dir().join("good.toml");
    fs::write(&file, config_text(&lab)?)?;
    let mut command = lab.command(Host::Forwarder, "setpriv")?;
    command
        .args([
            "--bounding-set",
            "-bpf,-sys_admin",
            "--inh-caps",
            "-bpf,-sys_admin",
        ])
        .arg(daemon_file()?);
    expect_refusal(command.args(["run", "--config"]).arg(&file), &["CAP_BPF"])?;
    nothing_left(&lab)
}

fn second_daemon() -> Result<()> {
    let (lab, daemon) = forwarding_lab(1, Family::V4)?;
    let mut command = lab.command(Host::Forwarder, daemon_file()?)?;
    expect_refusal(
        command.args(["run", "--config"]).arg(daemon.config()),
        &["another sip-forwarder", "stop it"],
    )?;
    ensure!(
        daemon.status()?["xdp_mode"] == "native",
        "the first daemon suffered"
    );
    Ok(())
}

/// The configuration with "-second" behind the values of these keys, in a file of its own.
fn second_config(lab: &Lab, daemon: &Daemon, keys: &[&str]) -> Result<std::path::PathBuf> {
    let text: String = fs::read_to_string(daemon.config())?
        .lines()
        .map(|line| match line.strip_suffix('"') {
            Some(start) if keys.iter().any(|key| line.starts_with(key)) => {
                format!("{start}-second\"\n")
            }
            _ => format!("{line}\n"),
        })
        .collect::<Vec<_>>()
        .concat();
    let file = lab.dir().join("second.toml");
    fs::write(&file, text)?;
    Ok(file)
}

/// A daemon that would take over maps of which it knows nothing.
fn anothers_pinned_maps() -> Result<()> {
    let (lab, daemon) = forwarding_lab(1, Family::V4)?;
    let file = second_config(&lab, &daemon, &["state_dir", "api_socket"])?;
    let mut command = lab.command(Host::Forwarder, daemon_file()?)?;
    expect_refusal(
        command.args(["run", "--config"]).arg(&file),
        &["state_dir", "unload"],
    )?;
    ensure!(lab.bpf_dir().exists(), "the first daemon's maps are gone");
    ensure!(
        daemon.status()?["xdp_mode"] == "native",
        "the first daemon suffered"
    );
    Ok(())
}

/// Another daemon with folders of its own, on the same interfaces.
fn another_folder_same_interface() -> Result<()> {
    let (lab, daemon) = forwarding_lab(1, Family::V4)?;
    let file = second_config(&lab, &daemon, &["bpf_dir", "state_dir", "api_socket"])?;
    let mut command = lab.command(Host::Forwarder, daemon_file()?)?;
    expect_refusal(
        command.args(["run", "--config"]).arg(&file),
        &["to-client", "already has an XDP program"],
    )?;
    let left = format!("{}-second", lab.bpf_dir().display());
    ensure!(!std::path::Path::new(&left).exists(), "{left} is left");
    ensure!(
        daemon.status()?["xdp_mode"] == "native",
        "the first daemon suffered"
    );
    Ok(())
}

fn kernel_refuses_own_source() -> Result<()> {
    let lab = Lab::new(1)?;
    let file = lab.dir().join("good.toml");
    fs::write(&file, config_text(&lab)?)?;
    lab.enter(Host::Forwarder, || {
        fs::write("/proc/sys/net/ipv4/conf/all/accept_local", "0")
    })??;
    let mut command = lab.command(Host::Forwarder, daemon_file()?)?;
    let says = [
        "accept_local",
        "sysctl -w net.ipv4.conf.to-p1.accept_local=1",
    ];
    expect_refusal(command.args(["run", "--config"]).arg(&file), &says)?;
    nothing_left(&lab)
}
