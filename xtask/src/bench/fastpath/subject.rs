//! A program under test: the present one, or that of an older revision.

use std::{collections::HashSet, path::Path, time::Duration};

use anyhow::{bail, ensure};
use sip_forwarder::config::Config;
use sip_forwarder_ebpf::abi::ABI_VERSION;
use sip_forwarder_tests::{
    frame_source::FrameSource,
    old_program::{self, OldProgram},
    program::{Action, Program},
};

use super::packets::Packet;
use crate::{revision::Revision, shell::say};

/// `XDP_TX` and `XDP_REDIRECT`.
const TX: u32 = 3;
const REDIRECT: u32 = 4;

/// A program under test, with tables of its own.
pub(super) enum Subject {
    /// The present program, or one of the same map layout.
    Present(Program),
    /// A program of an older map layout.
    Old(OldProgram),
}

impl Subject {
    /// Loads the present program.
    pub(super) fn present(object: &Path, config: Config) -> anyhow::Result<Self> {
        Ok(Self::Present(Program::load(object, config)?))
    }

    /// Builds and loads the program of a revision, by its map layout.
    pub(super) fn of_revision(revision: &Revision, config: Config) -> anyhow::Result<Self> {
        let object = revision.object()?;
        say(&format!("loading the program of {}", revision.short()));
        let layout = revision.map_layout()?;
        if layout == old_program::LAYOUT {
            Ok(Self::Old(OldProgram::load(&object, config)?))
        } else if layout == ABI_VERSION {
            Self::present(&object, config)
        } else {
            bail!(
                "the program of {} has map layout {layout}; known are {} and {ABI_VERSION}: compare with another revision",
                revision.short(),
                old_program::LAYOUT
            )
        }
    }

    /// Lets packets be redirected to an interface, and fills the affinity map with other calls.
    pub(super) fn prepare(
        &mut self,
        interface: u32,
        entries: u32,
        spared: &HashSet<u32>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Present(program) => {
                program.maps().allow_interface(interface)?;
                program.fill_affinity(entries, spared)
            }
            Self::Old(program) => {
                program.allow_interface(interface)?;
                program.fill_affinity(entries, spared)
            }
        }
    }

    /// Fails if the fast path does not take a packet as expected. Of an old program the verdict is not asked.
    pub(super) fn check(&self, packet: &Packet) -> anyhow::Result<()> {
        match self {
            Self::Present(program) => packet.check(program),
            Self::Old(program) => {
                let wanted = if packet.is_returned() { REDIRECT } else { TX };
                let action = program.action(&packet.frame)?;
                ensure!(
                    action == wanted,
                    "{}: the old program did not take it (action {action})",
                    packet.name
                );
                Ok(())
            }
        }
    }

    /// Tells whether the fast path sends a frame back by the interface it came in by.
    pub(super) fn forwards(&self, frame: &[u8]) -> anyhow::Result<bool> {
        Ok(match self {
            Self::Present(program) => program.run(frame)?.action == Action::Tx,
            Self::Old(program) => program.action(frame)? == TX,
        })
    }

    /// Returns the mean time of `repeat` runs over one frame, in nanoseconds.
    pub(super) fn time(&self, frame: &[u8], repeat: u32) -> anyhow::Result<f64> {
        let time: Duration = match self {
            Self::Present(program) => program.time(frame, repeat)?,
            Self::Old(program) => program.time(frame, repeat)?,
        };
        Ok(time.as_nanos() as f64)
    }

    /// Puts the program on an interface of this namespace. The kernel calls programs that are attached by a table; one
    /// that is not is put into the table for each test run, which waits for all CPUs twice: milliseconds, which are
    /// not timed, for microseconds that are.
    pub(super) fn attach(&mut self, interface: &str) -> anyhow::Result<()> {
        match self {
            Self::Present(program) => program.attach(interface).map(drop),
            Self::Old(program) => program.attach(interface),
        }
    }

    /// Has a source of frames give them to this program.
    pub(super) fn take_from(&self, source: &mut FrameSource) -> anyhow::Result<()> {
        source.give_to(match self {
            Self::Present(program) => program.fd()?,
            Self::Old(program) => program.fd()?,
        })
    }

    /// Returns the instructions that the verifier went through in the largest stage, and the bytes of machine code
    /// of all stages, of the present program.
    pub(super) fn size(&self) -> anyhow::Result<(u32, u32)> {
        match self {
            Self::Present(program) => {
                let stages = program.sizes()?;
                let largest = stages.iter().map(|stage| stage.verified).max();
                let all = stages.iter().map(|stage| stage.jitted).sum();
                Ok((largest.unwrap_or(0), all))
            }
            Self::Old(_) => bail!("the size of an old program is not asked for"),
        }
    }
}
