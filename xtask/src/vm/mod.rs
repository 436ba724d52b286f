//! `cargo xtask vm`: the tests that depend on the kernel, on other kernels than this machine's.
//!
//! Each kernel is one of Debian's packages, booted by QEMU with a root file system that holds the tests' own program
//! and what it calls. QEMU emulates the processor, so that this works in a virtual machine, too; everything takes
//! several times as long as here, and the tests are told so.

mod cards;
mod initramfs;
mod kernel;
mod machine;
mod results;
mod sets;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use sip_forwarder_tests::{lab, pace};

use self::{
    cards::Cards,
    initramfs::{Initramfs, megabytes, names_in},
    kernel::Kernel,
    machine::Machine,
    results::KernelReport,
    sets::Set,
};
use crate::{
    Outcome, program, setup,
    shell::{cargo, output, root, say},
    tally::Tally,
};

const SERIES: [&str; 2] = ["6.1", "6.12"];
/// How many times as long as on this machine everything may take.
const SLOWDOWN: u32 = 4;
/// How long one test may take.
const TEST_LIMIT: Duration = Duration::from_mins(4);
/// How long the machine may take to boot, and between two results besides.
const BOOT_LIMIT: Duration = Duration::from_mins(2);
/// Programs that the lab and the tests call.
const PROGRAMS: [&str; 6] = ["bash", "ip", "ethtool", "sipp", "nsenter", "nft"];
/// Modules that the lab and the tests need.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "veth"];
const INIT: &str = include_str!("init.sh");

/// Run the tests that depend on the kernel on Linux 6.1 and 6.12, in a virtual machine.
#[derive(Args)]
pub(crate) struct Vm {
    /// Only on this kernel.
    #[arg(long, value_parser = SERIES)]
    kernel: Option<String>,
    /// Which tests.
    #[arg(long, value_enum, default_value_t)]
    set: Set,
    /// Only tests whose names contain this.
    filter: Option<String>,
    /// Print one JSON object on the last line of stdout.
    #[arg(long)]
    json: bool,
}

impl Vm {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        let reports = self.reports()?;
        let tally = total(&reports);
        println!("{tally}");
        if self.json {
            println!("{}", json!({ "kernels": reports }));
        }
        // A kernel none of whose tests passed tells nothing.
        let good = tally.is_good() && reports.iter().all(|report| report.passed > 0);
        Ok(if good { Outcome::Done } else { Outcome::Failed })
    }

    /// Runs the chosen tests on every chosen kernel.
    fn reports(&self) -> anyhow::Result<Vec<KernelReport>> {
        anyhow::ensure!(
            std::env::consts::ARCH == "x86_64",
            "the virtual machine runs this machine's programs; it is made for x86_64 only"
        );
        setup::vm_programs()?;
        let guest = Guest::build()?;
        let names = names_in(&guest.promises)?;
        let chosen = self.set.choose(&names, self.filter.as_deref())?;
        if chosen.is_empty() {
            say("no test ran; the filter matches none of the set");
            return Ok(Vec::new());
        }
        let wanted = self.kernel.as_deref();
        SERIES
            .iter()
            .filter(|series| wanted.is_none_or(|one| one == **series))
            .map(|series| run_on(series, &guest, &chosen))
            .collect()
    }
}

/// Runs the short set on all kernels, for other commands that run tests.
pub(crate) fn run_short(filter: Option<&str>) -> anyhow::Result<Tally> {
    let vm = Vm {
        kernel: None,
        set: Set::Short,
        filter: filter.map(str::to_owned),
        json: false,
    };
    Ok(total(&vm.reports()?))
}

/// Counts the tests that [`run_short`] would run, on all kernels.
pub(crate) fn count_short(filter: Option<&str>) -> u64 {
    (sets::count_short(filter) * SERIES.len()) as u64
}

fn total(reports: &[KernelReport]) -> Tally {
    let mut tally = Tally::default();
    for report in reports {
        tally.add(report.tally());
    }
    tally
}

/// What is built for the virtual machine.
struct Guest {
    promises: PathBuf,
    daemon: PathBuf,
    /// The XDP program, and what tests compare it with.
    objects: [PathBuf; 2],
}

impl Guest {
    fn build() -> anyhow::Result<Self> {
        let objects = [program::program()?, program::bench_programs()?];
        let daemon = program::daemon()?;
        Ok(Self {
            promises: test_program()?,
            daemon,
            objects,
        })
    }

    /// Writes the root file system of one kernel, and returns its size.
    fn pack(
        &self,
        (kernel, cards): (&Kernel, &Cards),
        chosen: &[String],
        folder: &Path,
        file: &Path,
    ) -> anyhow::Result<u64> {
        let tree = Initramfs::new(folder.join("tree"))?;
        tree.copy(Path::new("/bin/busybox"))?;
        for name in PROGRAMS {
            tree.named_program(name)?;
        }
        tree.program(&self.promises)?;
        tree.program(&self.daemon)?;
        for object in &self.objects {
            tree.copy(object)?;
        }
        for (number, module) in kernel.modules(&MODULES)?.iter().enumerate() {
            let name = module.file_stem().context("a module without a name")?;
            let place = format!("modules/{number:03}-{}", name.to_string_lossy());
            tree.write(&place, kernel::read_module(module)?)?;
        }
        tree.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
        tree.write("etc/group", "root:x:0:\n")?;
        tree.write("etc/hosts", "127.0.0.1 localhost\n")?;
        tree.write("tests", chosen.join("\n") + "\n")?;
        tree.write("settings", self.settings(cards))?;
        tree.script("init", INIT)?;
        tree.pack(file)
    }

    /// Shell variables for `init.sh`.
    fn settings(&self, cards: &Cards) -> String {
        format!(
            "PROGRAM={}\nLIMIT={}\nexport {}={SLOWDOWN}\nexport {}={}\n",
            self.promises.display(),
            TEST_LIMIT.as_secs(),
            pace::SLOWDOWN,
            lab::cards::CARDS,
            cards.kind(),
        )
    }
}

fn run_on(series: &str, guest: &Guest, chosen: &[String]) -> anyhow::Result<KernelReport> {
    let started = Instant::now();
    let kernel = Kernel::newest(series)?;
    let folder = root().join("target/vm").join(series);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let initramfs = folder.join("initramfs");
    let cards = Cards::of_lab();
    let size = guest.pack((&kernel, &cards), chosen, &folder, &initramfs)?;
    say(&format!(
        "Linux {}: {} tests, initramfs of {}",
        kernel.version,
        chosen.len(),
        megabytes(size)
    ));
    let results = Machine {
        kernel: &kernel,
        initramfs: &initramfs,
        cards: &cards,
        console: folder.join("console.log"),
        silence: TEST_LIMIT + BOOT_LIMIT,
    }
    .run()?;
    let report = results.report(chosen, &kernel.version);
    println!(
        "Linux {}: {} ({:.0} s)",
        report.kernel,
        report.tally(),
        started.elapsed().as_secs_f64()
    );
    Ok(report)
}

/// Builds the tests' program, as `cargo test` does, and returns its file.
fn test_program() -> anyhow::Result<PathBuf> {
    say("building the tests");
    let messages = output(cargo().args([
        "test",
        "--quiet",
        "--package",
        "sip-forwarder-tests",
        "--test",
        "promises",
        "--no-run",
        "--message-format=json",
    ]))?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "promises")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .context("cargo names no program of the tests")
}
