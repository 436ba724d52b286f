//! The baseline of the benches: a program that swaps the MAC addresses and sends the frame back, which no
//! forwarder can do without.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    EbpfLoader,
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};

/// The program's name in its object.
const PROGRAM: &str = "yardstick";

/// The baseline in the kernel, attached to nothing.
pub struct Baseline {
    ebpf: aya::Ebpf,
}

impl Baseline {
    /// Loads the baseline out of an object file. Nothing else of the object is loaded.
    pub fn load(object: &Path) -> Result<Self> {
        let bytes =
            fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
        let mut ebpf = EbpfLoader::new().load(&bytes).with_context(|| {
            format!(
                "cannot load the baseline out of {}; build it anew with `cargo xtask build`",
                object.display()
            )
        })?;
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .with_context(|| format!("{} has no program `{PROGRAM}`", object.display()))?
            .try_into()?;
        program.load().context("the kernel refused the baseline")?;
        Ok(Self { ebpf })
    }

    /// Returns the mean time of `repeat` runs over one frame.
    pub fn time(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let ran = self
            .xdp()?
            .test_run(options)
            .context("BPF_PROG_TEST_RUN of the baseline failed")?;
        Ok(ran.duration)
    }

    /// Returns the program's descriptor, for other programs to call.
    pub fn fd(&self) -> Result<&ProgramFd> {
        Ok(self.xdp()?.fd()?)
    }

    fn xdp(&self) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(PROGRAM)
            .context("the baseline is gone")?
            .try_into()?)
    }
}
