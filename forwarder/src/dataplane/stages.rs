//! The stages of the XDP program ([`Stage`]): loaded, and joined by an array of programs.
//!
//! The array empties itself when its last descriptor and pin are gone, so it is pinned for as long
//! as its entry program is attached. Every daemon makes an array of its own: a takeover first fills
//! the new array, then switches the links to the new entry, and then forgets the old array. No packet
//! meets stages of two builds.

use std::fs;

use aya::{
    Ebpf,
    maps::{MapData, MapError, ProgramArray},
    programs::{ProgramError, Xdp},
};
use sip_forwarder_ebpf::stage::{ENTRY, Stage};
use thiserror::Error;

use super::{MapsError, maps};
use crate::config::Limits;

/// Name of the array of programs in the object.
const ARRAY: &str = "STAGES";

/// A fault with the stages.
#[derive(Debug, Error)]
pub enum StageError {
    /// The object lacks a program or the array.
    #[error("the XDP object has no {0}; build it anew with `cargo xtask build`")]
    Missing(&'static str),
    /// The verifier or the kernel refused a stage.
    #[error(
        "{kernel} refused the stage {stage} of the XDP program: {source}; it needs Linux 6.1 or later (see README, \"What it needs\"), and dataplane = \"userspace\" does without it"
    )]
    Refused {
        /// The kernel, by name and version.
        kernel: String,
        /// The stage's program.
        stage: &'static str,
        /// The fault.
        source: ProgramError,
    },
    /// The array could not be filled.
    #[error("cannot put the stage {stage} into the array of stages: {source}")]
    Array {
        /// The stage's program.
        stage: &'static str,
        /// The fault.
        source: MapError,
    },
}

/// The array of stages. While nobody has it, and it is not pinned, the program has no stages behind
/// its entry.
pub type Stages = ProgramArray<MapData>;

/// Tells whether this kernel takes the XDP program, by loading it over small maps of its own; nothing
/// is attached and nothing stays. Returns the kernel's name and version.
pub fn probe(object: &[u8]) -> Result<String, ProbeError> {
    let smallest = Limits {
        services: 1,
        backends: 1,
        affinity_entries: 1,
        recent_entries: 1,
    };
    let mut ebpf = maps::load(object, &smallest, None)?;
    load(&mut ebpf)?;
    Ok(kernel())
}

/// Why a kernel does not take the XDP program.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// It refused the maps.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// It refused a stage.
    #[error(transparent)]
    Stage(#[from] StageError),
}

/// Returns the kernel's name and version, as in `Linux 6.1.0-56-cloud-amd64`.
fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

fn refused(stage: &'static str) -> impl FnOnce(ProgramError) -> StageError {
    move |source| StageError::Refused {
        kernel: kernel(),
        stage,
        source,
    }
}

/// Loads the entry and all stages into the kernel, and joins them.
pub fn load(ebpf: &mut Ebpf) -> Result<Stages, StageError> {
    let map = ebpf.take_map(ARRAY).ok_or(StageError::Missing(ARRAY))?;
    let mut stages = Stages::try_from(map).map_err(|source| StageError::Array {
        stage: ENTRY,
        source,
    })?;
    for stage in Stage::ALL {
        let name = stage.program();
        let program = load_one(ebpf, name)?;
        let descriptor = program.fd().map_err(refused(name))?;
        stages
            .set(stage.index(), descriptor, 0)
            .map_err(|source| StageError::Array {
                stage: name,
                source,
            })?;
    }
    load_one(ebpf, ENTRY)?;
    Ok(stages)
}

/// Returns the entry, which is what goes onto interfaces.
pub fn entry(ebpf: &mut Ebpf) -> Result<&mut Xdp, StageError> {
    program(ebpf, ENTRY)
}

fn load_one<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, StageError> {
    let program = program(ebpf, name)?;
    program.load().map_err(refused(name))?;
    Ok(program)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, StageError> {
    ebpf.program_mut(name)
        .ok_or(StageError::Missing(name))?
        .try_into()
        .map_err(refused(name))
}
