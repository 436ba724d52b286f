//! The baseline of times per packet: a program that swaps the MAC addresses and sends the frame back,
//! which no forwarder can do without.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{ProgramFd, Xdp},
};

use crate::program::time;

const PROGRAM: &str = "baseline";

/// The program in the kernel.
pub struct Baseline {
    ebpf: Ebpf,
}

impl Baseline {
    /// Loads it out of the object file of the lab's and benches' programs.
    pub fn load(object: &Path) -> Result<Self> {
        let bytes =
            fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
        let mut ebpf = Ebpf::load(&bytes).context("cannot load the benches' XDP object")?;
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .with_context(|| format!("the object holds no program {PROGRAM}"))?
            .try_into()?;
        program.load()?;
        Ok(Self { ebpf })
    }

    /// Returns the mean time of `repeat` runs over one packet.
    pub fn time(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        time(self.program()?, frame, repeat)
    }

    /// Returns the program, for others to call.
    pub fn fd(&self) -> Result<&ProgramFd> {
        Ok(self.program()?.fd()?)
    }

    fn program(&self) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(PROGRAM)
            .with_context(|| format!("the object holds no program {PROGRAM}"))?
            .try_into()?)
    }
}
