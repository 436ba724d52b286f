//! `cargo xtask setup`: finds or installs a Rust compiler for BPF, the BPF linker, and what the lab
//! needs. Safe to repeat; says what it does.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::shell::{cargo, is_root, output, root, run, say};

/// Debian and Ubuntu packages with a Rust compiler that has `core` for BPF.
const COMPILER_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// Programs the lab and the tests call, and the packages they come in.
const PROGRAMS: [(&str, &str); 8] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("sipp", "sip-tester"),
    ("kamailio", "kamailio"),
    ("baresip", "baresip-core"),
    ("sipsak", "sipsak"),
    ("nft", "nftables"),
    ("stunnel4", "stunnel4"),
];
/// Libraries and modules for such programs, and the packages they come in.
const MODULES: [(&str, &str); 2] = [
    ("kamailio/modules/tls.so", "kamailio-tls-modules"),
    ("faketime/libfaketimeMT.so.1", "libfaketime"),
];
/// What boots other kernels, and what the virtual machine's tests call.
const VM_PROGRAMS: [(&str, &str); 14] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("strip", "binutils"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("sysctl", "procps"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("sipp", "sip-tester"),
    ("nft", "nftables"),
];
const LINKER_VERSION: &str = "0.13.0";
const TARGET: &str = "bpfel-unknown-none";

/// What builds the XDP program.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) rustc: PathBuf,
    /// Where `core` comes from.
    pub(crate) core: Core,
    /// The linker.
    pub(crate) linker: PathBuf,
}

/// Where `core` for BPF comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// The compiler brings it.
    Prebuilt,
    /// Cargo builds it from the nightly compiler's sources.
    Built,
}

/// Makes sure of everything.
pub(crate) fn setup() -> anyhow::Result<Toolchain> {
    let toolchain = toolchain()?;
    lab_programs()?;
    say(&format!(
        "compiler {}, linker {}",
        toolchain.rustc.display(),
        toolchain.linker.display()
    ));
    Ok(toolchain)
}

/// Makes sure of what building needs.
pub(crate) fn toolchain() -> anyhow::Result<Toolchain> {
    let (rustc, core) = if let Some(found) = find_compiler()? {
        found
    } else {
        install(&COMPILER_PACKAGES, "to compile the XDP program")?;
        find_compiler()?.context("the packages rustc-web and libstd-rust-web-dev-bpf are installed, but bring no compiler with `core` for BPF; name one with EBPF_RUSTC")?
    };
    let linker = linker(&rustc)?;
    Ok(Toolchain {
        rustc,
        core,
        linker,
    })
}

/// The first compiler that can build for BPF.
pub(crate) fn find_compiler() -> anyhow::Result<Option<(PathBuf, Core)>> {
    if let Some(named) = env::var_os("EBPF_RUSTC").map(PathBuf::from) {
        let core = core_of(&named).with_context(|| {
            format!(
                "EBPF_RUSTC is {}, which has neither `core` for BPF nor its sources",
                named.display()
            )
        })?;
        return Ok(Some((named, core)));
    }
    let candidates = [
        Some(PathBuf::from("rustc")),
        Some("/usr/bin/rustc".into()),
        nightly(),
    ];
    let able = candidates
        .into_iter()
        .flatten()
        .filter_map(|rustc| core_of(&rustc).map(|core| (rustc, core)));
    Ok(able.min_by_key(|(_, core)| *core == Core::Built))
}

/// The nightly compiler of rustup, if it is there.
fn nightly() -> Option<PathBuf> {
    let path =
        output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"])).ok()?;
    Some(PathBuf::from(path.trim())).filter(|path| path.is_file())
}

/// Where a compiler's `core` for BPF would come from.
fn core_of(rustc: &Path) -> Option<Core> {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    let rustlib = Path::new(sysroot.trim()).join("lib/rustlib");
    let prebuilt = fs::read_dir(rustlib.join(TARGET).join("lib"))
        .into_iter()
        .flatten()
        .flatten();
    if prebuilt
        .map(|entry| entry.file_name())
        .any(|name| name.to_string_lossy().starts_with("libcore-"))
    {
        return Some(Core::Prebuilt);
    }
    let is_nightly =
        output(Command::new(rustc).arg("-V")).is_ok_and(|version| version.contains("nightly"));
    let sources = rustlib.join("src/rust/library/Cargo.lock").is_file();
    (is_nightly && sources).then_some(Core::Built)
}

/// The BPF linker: named, installed by us, or on the path.
fn linker(rustc: &Path) -> anyhow::Result<PathBuf> {
    if let Some(named) = env::var_os("BPF_LINKER").map(PathBuf::from) {
        if !named.is_file() {
            bail!("BPF_LINKER is {}, which is no file", named.display());
        }
        return Ok(named);
    }
    let llvm = llvm_of(rustc)?;
    let folder = cache()?.join(format!("bpf-linker-{LINKER_VERSION}-llvm-{llvm}"));
    let ours = folder.join("bin/bpf-linker");
    if runs(&ours) {
        return Ok(ours);
    }
    install_linker(rustc, llvm, &folder)?;
    if !runs(&ours) {
        bail!(
            "{} was built but does not run; name another with BPF_LINKER",
            ours.display()
        );
    }
    Ok(ours)
}

fn runs(program: &Path) -> bool {
    output(Command::new(program).arg("--version")).is_ok()
}

/// The major version of a compiler's LLVM, which the linker's must not be older than.
fn llvm_of(rustc: &Path) -> anyhow::Result<u32> {
    let version = output(Command::new(rustc).arg("-vV"))?;
    version
        .lines()
        .find_map(|line| {
            line.strip_prefix("LLVM version: ")?
                .split('.')
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("{} does not tell its LLVM version", rustc.display()))
}

/// Where tools are kept between clones.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(base.join("sip-forwarder"))
}

/// Builds the linker against the LLVM library that the compiler uses. The library alone will do, in
/// a folder under the name that its development package would give it; the folder is kept, because
/// it becomes the linker's library path.
fn install_linker(rustc: &Path, llvm: u32, folder: &Path) -> anyhow::Result<()> {
    let library = llvm_library(llvm).with_context(|| {
        format!("no libLLVM of version {llvm}, which {} uses; install libllvm{llvm}, or name a linker with BPF_LINKER", rustc.display())
    })?;
    say(&format!(
        "building bpf-linker {LINKER_VERSION} against {} (a minute)",
        library.display()
    ));
    let prefix = folder.join("llvm");
    fs::create_dir_all(prefix.join("lib"))
        .with_context(|| format!("cannot create {}", prefix.display()))?;
    let link = prefix.join("lib/libLLVM.so");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&library, &link)
        .with_context(|| format!("cannot create {}", link.display()))?;
    let feature = format!("llvm-{llvm}");
    run(cargo()
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--quiet",
        ])
        .args(["--no-default-features", "--features", &feature, "--root"])
        .arg(folder)
        .arg("--target-dir")
        .arg(root().join("target/bpf/linker"))
        .env("LLVM_PREFIX", &prefix))
}

/// The shared library of LLVM of this major version.
fn llvm_library(llvm: u32) -> Option<PathBuf> {
    let wanted = format!("libLLVM.so.{llvm}");
    let folders = fs::read_dir("/usr/lib")
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    folders
        .chain([PathBuf::from("/usr/lib")])
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&wanted))
        })
}

/// Makes sure of the programs that the lab calls.
pub(crate) fn lab_programs() -> anyhow::Result<()> {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !on_path(program))
        .chain(MODULES.iter().filter(|(module, _)| !is_library(module)))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        install(&missing, "for the lab")
    }
}

/// Makes sure of SIPp, all that the loopback needs.
pub(crate) fn sipp() -> anyhow::Result<()> {
    program("sipp", &["sip-tester"], "to make calls")
}

/// Makes sure of stunnel, which does TLS for SIPp.
pub(crate) fn stunnel() -> anyhow::Result<()> {
    program("stunnel4", &["stunnel4"], "to make calls over TLS")
}

/// Makes sure of nginx with its stream module, which benchmarks measure.
pub(crate) fn nginx() -> anyhow::Result<()> {
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    if on_path("nginx") && module.is_file() {
        Ok(())
    } else {
        install(
            &["nginx-light", "libnginx-mod-stream"],
            "to be compared with (the service that comes with it is not needed)",
        )
    }
}

/// Makes sure of valgrind, which counts instructions.
pub(crate) fn valgrind() -> anyhow::Result<()> {
    program("valgrind", &["valgrind"], "to count instructions")
}

/// Makes sure of nftables, which benchmarks measure.
pub(crate) fn nft() -> anyhow::Result<()> {
    program("nft", &["nftables"], "to be compared with")
}

/// Makes sure of the C++ compiler, which builds libFuzzer.
pub(crate) fn fuzz_programs() -> anyhow::Result<()> {
    program("c++", &["g++", "libc6-dev"], "to build libFuzzer")
}

/// Makes sure of what runs other kernels in a virtual machine, and of what is put into it.
pub(crate) fn vm_programs() -> anyhow::Result<()> {
    install_missing(&VM_PROGRAMS, "to run other kernels in a virtual machine")
}

/// Fetches anew what apt knows of packages.
pub(crate) fn refresh_package_lists() -> anyhow::Result<()> {
    if !is_root() {
        bail!("apt must learn of new packages; as root: apt-get update");
    }
    run(Command::new("apt-get").args(["update", "-qq"]))
}

/// Installs the packages of programs that are not there.
fn install_missing(programs: &[(&str, &'static str)], why: &str) -> anyhow::Result<()> {
    let missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| !on_path(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        install(&missing, why)
    }
}

/// Makes sure of one program.
fn program(name: &str, packages: &[&str], why: &str) -> anyhow::Result<()> {
    if on_path(name) {
        Ok(())
    } else {
        install(packages, why)
    }
}

/// Is a program on the path, or where root's programs are?
fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(program))
        .any(|file| file.is_file())
}

/// Is a file among the libraries of this machine's architecture?
fn is_library(file: &str) -> bool {
    let folder = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    Path::new(&folder).join(file).is_file()
}

/// Installs packages, or says how.
fn install(packages: &[&str], why: &str) -> anyhow::Result<()> {
    let list = packages.join(" ");
    let line = format!("apt-get install -y --no-install-recommends {list}");
    if !is_root() || !on_path("apt-get") {
        bail!("{list} must be installed {why}; as root on Debian or Ubuntu: {line}");
    }
    say(&format!("installing {list} {why}"));
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}
