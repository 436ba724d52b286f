//! Frames made in the kernel: to be timed one by one, or sent as fast as a core can.
//!
//! The programs stand in an object of their own (`forwarder-ebpf/src/bench`); each
//! [`FrameSource`] has its own copy of them and of their maps.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, ProgramArray},
    programs::{
        ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode, xdp::XdpLinkId,
    },
};
use sip_forwarder_ebpf::generator::{HEAD, Held, NUMBER_LENGTH, Template};

use crate::lab::Family;

/// What stands in a Call-ID where the number of the frame goes.
pub const NUMBER: &str = "aaaaaaaa";

/// A program of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Makes a frame and sends it out.
    Generate,
    /// Makes a frame and gives it to the program under test.
    MakeAndGive,
    /// Gives the next frame of the rotation to the program under test.
    RotateAndGive,
    /// Sends on what comes: the least a forwarder can do.
    Redirect,
    /// Counts what comes, and drops it.
    Arrive,
}

impl Kernel {
    const fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::MakeAndGive => "make_and_give",
            Self::RotateAndGive => "rotate_and_give",
            Self::Redirect => "redirect",
            Self::Arrive => "arrive",
        }
    }
}

/// The programs and their maps.
pub struct FrameSource {
    ebpf: Ebpf,
    /// A frame as long as those it makes.
    frame: Vec<u8>,
}

impl FrameSource {
    /// Loads some of the object's programs; frames are made of `frame`, which has [`NUMBER`] in its Call-ID.
    pub fn of_template(
        object: &Path,
        programs: &[Kernel],
        frame: &[u8],
        (family, numbers): (Family, Numbers),
    ) -> Result<Self> {
        let mut source = Self::load(object, programs, 1)?;
        frame.clone_into(&mut source.frame);
        source.set_template(template(frame, family, numbers)?)?;
        Ok(source)
    }

    /// The same with frames that go round; a power of two of them.
    pub fn of_rotation(object: &Path, frames: &[Vec<u8>]) -> Result<Self> {
        ensure!(
            frames.len().is_power_of_two(),
            "{} frames are no power of two",
            frames.len()
        );
        let count = u32::try_from(frames.len())?;
        let mut source = Self::load(object, &[Kernel::RotateAndGive], count)?;
        let mut rotation: Array<&mut MapData, Held> =
            Array::try_from(source.ebpf.map_mut("ROTATION").context("no ROTATION")?)?;
        for (index, frame) in (0..).zip(frames) {
            let held = Held::new(frame)
                .with_context(|| format!("a frame of {} bytes does not fit", frame.len()))?;
            rotation.set(index, held, 0)?;
        }
        source.set("ROTATION_MASK", count - 1)?;
        source.frame = frames
            .iter()
            .max_by_key(|f| f.len())
            .cloned()
            .unwrap_or_default();
        Ok(source)
    }

    fn load(object: &Path, programs: &[Kernel], rotation: u32) -> Result<Self> {
        let bytes =
            fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("ROTATION", rotation)
            .load(&bytes)
            .context("cannot load the benches' XDP object")?;
        for program in programs {
            xdp_mut(&mut ebpf, *program)?.load()?;
        }
        Ok(Self {
            ebpf,
            frame: Vec::new(),
        })
    }

    fn set_template(&mut self, template: Template) -> Result<()> {
        self.set("TEMPLATE", template)
    }

    fn set<V: aya::Pod>(&mut self, map: &str, value: V) -> Result<()> {
        let map = self
            .ebpf
            .map_mut(map)
            .with_context(|| format!("no {map}"))?;
        let mut array: Array<&mut MapData, V> = Array::try_from(map)?;
        Ok(array.set(0, value, 0)?)
    }

    /// Frames that are generated leave by this interface.
    pub fn send_by(&mut self, interface: u32) -> Result<()> {
        let map = self.ebpf.map_mut("TEMPLATE").context("no TEMPLATE")?;
        let mut array: Array<&mut MapData, Template> = Array::try_from(map)?;
        let there = array.get(&0, 0)?;
        Ok(array.set(0, Template { interface, ..there }, 0)?)
    }

    /// The bare redirect sends by this interface.
    pub fn redirect_to(&mut self, interface: u32) -> Result<()> {
        self.set("ONWARD", interface)
    }

    /// The program under test.
    pub fn give_to(&mut self, program: &ProgramFd) -> Result<()> {
        let map = self.ebpf.map_mut("NEXT").context("no NEXT")?;
        let mut next: ProgramArray<&mut MapData> = ProgramArray::try_from(map)?;
        Ok(next.set(0, program, 0)?)
    }

    /// Mean time of `repeat` frames, making them included.
    pub fn time(&self, program: Kernel, repeat: u32) -> Result<Duration> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        options.repeat = repeat;
        let ran = xdp(&self.ebpf, program)?
            .test_run(options)
            .context("BPF_PROG_TEST_RUN failed")?;
        ensure!(
            ran.return_value != 0,
            "{} could not make its frame",
            program.name()
        );
        Ok(ran.duration)
    }

    /// What the program under test says to the next frame: the XDP action, as a number.
    pub fn action(&self, program: Kernel) -> Result<u32> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        Ok(xdp(&self.ebpf, program)?
            .test_run(options)
            .context("BPF_PROG_TEST_RUN failed")?
            .return_value)
    }

    /// Sends `count` frames from this core, `batch` at a time. Runs in the namespace of the interface.
    pub fn send(&self, count: u32, batch: u32) -> Result<()> {
        // The size of `xdp_md`; data from 0 to the frame's end, and nothing else said.
        let mut context = [0; 24];
        let length = u32::try_from(self.frame.len())?;
        context[4..8].copy_from_slice(&length.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        options.ctx_in = Some(&context);
        options.repeat = count;
        options.attrs = TestRunAttrs::new().xdp_live_frames(batch);
        xdp(&self.ebpf, Kernel::Generate)?
            .test_run(options)
            .context("live frames (BPF_F_TEST_XDP_LIVE_FRAMES) failed")?;
        Ok(())
    }

    /// Frames that [`Kernel::Arrive`] counted, on each core.
    pub fn arrived(&self) -> Result<Vec<u64>> {
        let map = self.ebpf.map("ARRIVED").context("no ARRIVED")?;
        let counters: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map)?;
        Ok(counters.get(&0, 0)?.to_vec())
    }

    /// Puts a program on an interface of this namespace, natively.
    pub fn attach(&mut self, program: Kernel, interface: &str) -> Result<XdpLinkId> {
        xdp_mut(&mut self.ebpf, program)?
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("cannot attach {} to {interface}", program.name()))
    }

    /// Takes it off again.
    pub fn detach(&mut self, program: Kernel, link: XdpLinkId) -> Result<()> {
        Ok(xdp_mut(&mut self.ebpf, program)?.detach(link)?)
    }
}

/// Returns the kernel's number of this thread.
#[must_use]
pub fn this_thread() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

fn xdp(ebpf: &Ebpf, program: Kernel) -> Result<&Xdp> {
    let name = program.name();
    Ok(ebpf
        .program(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}

fn xdp_mut(ebpf: &mut Ebpf, program: Kernel) -> Result<&mut Xdp> {
    let name = program.name();
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}

/// How frames of a template differ.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Number of the first call.
    pub first: u32,
    /// Call-IDs; a power of two.
    pub calls: u32,
    /// Destination ports from that of the template on; a power of two.
    pub ports: u32,
}

/// A template of a frame without VLAN tags that has [`NUMBER`] in its Call-ID.
fn template(frame: &[u8], family: Family, numbers: Numbers) -> Result<Template> {
    const ETHERNET: usize = 14;
    let udp = ETHERNET
        + match family {
            Family::V4 => 20,
            Family::V6 => 40,
        };
    let number_at = frame
        .windows(NUMBER_LENGTH)
        .position(|bytes| bytes == NUMBER.as_bytes())
        .with_context(|| format!("no {NUMBER} in the frame"))?;
    ensure!(
        number_at >= HEAD && (number_at - udp).is_multiple_of(2),
        "the number stands at {number_at}: behind the head and at an even offset is wanted"
    );
    ensure!(
        numbers.calls.is_power_of_two() && numbers.ports.is_power_of_two(),
        "{numbers:?} are no powers of two"
    );
    let mut head = [0; HEAD / 8];
    for (word, bytes) in head.iter_mut().zip(frame.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into()?);
    }
    let half = |at: usize| -> Result<[u8; 2]> { Ok(frame[at..at + 2].try_into()?) };
    let port_at = udp + 2;
    Ok(Template {
        head,
        number_at: u32::try_from(number_at)?,
        port_at: u32::try_from(port_at)?,
        first_number: numbers.first,
        number_mask: numbers.calls - 1,
        port_mask: numbers.ports - 1,
        first_port: u16::from_be_bytes(half(port_at)?),
        checksum: u16::from_ne_bytes(half(port_at + 4)?),
        interface: 0,
        zero: 0,
    })
}
