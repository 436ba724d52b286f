//! `cargo xtask build`: the XDP program, and the daemon with it inside.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    digest,
    setup::{self, Core, Toolchain},
    shell::{cargo, root, run, say},
};

const TARGET: &str = "bpfel-unknown-none";
const PROGRAM: &str = "sip-forwarder-xdp";
const BENCH: &str = "sip-forwarder-bench";

/// BTF needs debug information; `v3` has 32-bit operations and atomics; without misaligned loads
/// every word of a packet would be put together from bytes.
pub(crate) const FLAGS: &str =
    "-Cdebuginfo=2 -Clink-arg=--btf -Ctarget-cpu=v3 -Ctarget-feature=+allows-misaligned-mem-access";

/// Builds the XDP program unless it is there already, and returns its file.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    object(PROGRAM)
}

/// Builds what the benches need in the kernel beside the XDP program, unless it is there already, and
/// returns its file.
pub(crate) fn bench_programs() -> anyhow::Result<PathBuf> {
    object(BENCH)
}

fn object(name: &str) -> anyhow::Result<PathBuf> {
    let folder = root().join("target/bpf");
    let (object, stamp) = (
        folder.join(name),
        folder.join(name).with_extension("digest"),
    );
    let sources = root().join("forwarder-ebpf");
    let wanted = digest::of(&sources);
    let there = fs::read_to_string(&stamp).unwrap_or_default();
    if object.is_file() && there == wanted {
        return Ok(object);
    }
    let toolchain = setup::toolchain()?;
    say(&format!("building {name}"));
    let built = compile(&toolchain, name, (&root(), &folder))?;
    fs::copy(&built, &object)
        .with_context(|| format!("cannot copy {} to {}", built.display(), object.display()))?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(object)
}

/// Compiles an object of the workspace in `sources` into the folder `target`, and returns its file.
pub(crate) fn compile(
    toolchain: &Toolchain,
    name: &str,
    (sources, target): (&Path, &Path),
) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command
        .current_dir(sources)
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "sip-forwarder-ebpf",
            "--bin",
            name,
        ])
        .args([
            "--no-default-features",
            "--features",
            "program",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(target)
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", FLAGS)
        // aya-ebpf and the program use unstable features, of a compiler that need not be nightly.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER");
    if toolchain.core == Core::Built {
        command.args(["-Z", "build-std=core"]);
    }
    run(&mut command)?;
    Ok(target.join(TARGET).join("release").join(name))
}

/// Builds the daemon with the XDP program inside, and returns its file.
pub(crate) fn daemon() -> anyhow::Result<PathBuf> {
    program()?;
    userspace_daemon()
}

/// Builds the daemon with the XDP program inside if that is built already, and returns its file.
pub(crate) fn userspace_daemon() -> anyhow::Result<PathBuf> {
    say("building sip-forwarder");
    run(cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "sip-forwarder",
    ]))?;
    let file = root().join("target/release/sip-forwarder");
    say(&format!("built {}", file.display()));
    Ok(file)
}

/// Builds this program as fast as the daemon is built, for what is measured in it, and returns its file.
pub(crate) fn optimized_xtask() -> anyhow::Result<PathBuf> {
    say("building xtask with optimizations");
    run(cargo().args(["build", "--quiet", "--release", "--package", "xtask"]))?;
    Ok(root().join("target/release/xtask"))
}

/// The daemon that was named, else one that is built now.
pub(crate) fn daemon_or(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let Some(file) = named else {
        return daemon();
    };
    // What runs in the lab is started from elsewhere.
    file.canonicalize()
        .with_context(|| format!("there is no {}", file.display()))
}
