//! Putting the program on interfaces, and taking over from one that is there already.

use std::{fs, io, path::Path};

use aya::programs::{
    ProgramError, Xdp, XdpMode as AyaMode,
    links::{FdLink, LinkError, PinnedLink},
    xdp::XdpLink,
};
use serde::Serialize;
use thiserror::Error;
use tracing::{info, warn};

use super::pins::Pins;
use crate::config::XdpMode;

/// A fault with attaching.
#[derive(Debug, Error)]
pub enum AttachError {
    /// There is no such interface.
    #[error("there is no interface `{0}`; `ip link` lists those there are")]
    NoInterface(String),
    /// Another XDP program sits there.
    #[error(
        "interface {0} already has an XDP program; if it is a forgotten forwarder's, take it off with `sip-forwarder unload`, else with `ip link set dev {0} xdp off`"
    )]
    Busy(String),
    /// The driver cannot run it.
    #[error(
        "interface {interface} does not take the XDP program in native mode: {source}; set forwarder.xdp = \"auto\" or \"generic\""
    )]
    NotNative {
        /// The interface.
        interface: String,
        /// The fault.
        source: io::Error,
    },
    /// Another fault.
    #[error("cannot attach the XDP program to {interface}: {source}")]
    Other {
        /// The interface.
        interface: String,
        /// The fault.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Which hook a program runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// The driver's.
    Native,
    /// The kernel's generic one.
    Generic,
}

/// The program on one interface.
#[derive(Clone, Debug, Serialize)]
pub struct Attachment {
    /// The interface.
    pub interface: String,
    /// The hook.
    pub mode: Hook,
}

/// Puts the program on an interface. Where one of ours is pinned it is replaced in place, and no
/// packet is lost.
pub fn attach(
    program: &mut Xdp,
    interface: &str,
    mode: XdpMode,
    pins: &Pins,
) -> Result<Attachment, AttachError> {
    let pin = pins.link(interface);
    if pin.exists() {
        match take_over(program, &pin) {
            Ok(()) => {
                let mode = current_hook(interface);
                info!(interface, ?mode, "took over the program that was attached");
                return Ok(Attachment {
                    interface: interface.to_owned(),
                    mode,
                });
            }
            Err(error) => {
                // The interface was made anew under its old name: the link leads nowhere.
                warn!(interface, %error, "the pinned link is dead; attaching anew");
                fs::remove_file(&pin).map_err(|source| other(interface, source))?;
            }
        }
    }
    let hook = attach_anew(program, interface, mode, &pin)?;
    info!(interface, mode = ?hook, "attached the XDP program");
    Ok(Attachment {
        interface: interface.to_owned(),
        mode: hook,
    })
}

fn other(interface: &str, source: impl std::error::Error + Send + Sync + 'static) -> AttachError {
    AttachError::Other {
        interface: interface.to_owned(),
        source: Box::new(source),
    }
}

fn take_over(program: &mut Xdp, pin: &Path) -> Result<(), ProgramError> {
    let link = PinnedLink::from_pin(pin).map_err(link_error)?;
    let link: FdLink = link.into();
    let id = program.attach_to_link(link.try_into().map_err(link_error)?)?;
    // The pin holds the link; ours may go.
    drop(program.take_link(id)?);
    Ok(())
}

fn link_error(error: LinkError) -> ProgramError {
    ProgramError::IOError(io::Error::other(error))
}

fn attach_anew(
    program: &mut Xdp,
    interface: &str,
    mode: XdpMode,
    pin: &Path,
) -> Result<Hook, AttachError> {
    let native = || (AyaMode::Driver, Hook::Native);
    let generic = || (AyaMode::Skb, Hook::Generic);
    let (first, fallback) = match mode {
        XdpMode::Auto => (native(), Some(generic())),
        XdpMode::Native => (native(), None),
        XdpMode::Generic => (generic(), None),
    };
    match try_attach(program, interface, first.0, pin) {
        Ok(()) => Ok(first.1),
        Err(AttachError::NotNative {
            interface: name,
            source,
        }) => {
            let Some((mode, hook)) = fallback else {
                return Err(AttachError::NotNative {
                    interface: name,
                    source,
                });
            };
            warn!(interface, %source, "no native XDP here; falling back to the slow generic mode");
            try_attach(program, interface, mode, pin).map(|()| hook)
        }
        Err(error) => Err(error),
    }
}

fn try_attach(
    program: &mut Xdp,
    interface: &str,
    mode: AyaMode,
    pin: &Path,
) -> Result<(), AttachError> {
    let id = program
        .attach(interface, mode)
        .map_err(|error| explain(interface, error))?;
    let link = program
        .take_link(id)
        .map_err(|error| other(interface, error))?;
    let link =
        <XdpLink as TryInto<FdLink>>::try_into(link).map_err(|error| other(interface, error))?;
    link.pin(pin).map_err(|error| other(interface, error))?;
    Ok(())
}

fn explain(interface: &str, error: ProgramError) -> AttachError {
    let errno = match &error {
        ProgramError::UnknownInterface { .. } => {
            return AttachError::NoInterface(interface.to_owned());
        }
        ProgramError::SyscallError(syscall) => syscall.io_error.raw_os_error(),
        _ => None,
    };
    match errno {
        Some(libc::EBUSY | libc::EEXIST) => AttachError::Busy(interface.to_owned()),
        Some(code @ (libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE)) => AttachError::NotNative {
            interface: interface.to_owned(),
            source: io::Error::from_raw_os_error(code),
        },
        _ => other(interface, error),
    }
}

/// Tells the hook of an attached program by what `ip link` reports of the interface.
fn current_hook(interface: &str) -> Hook {
    let output = std::process::Command::new("ip")
        .args(["-o", "link", "show", "dev", interface])
        .output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    if text.contains("xdpgeneric") {
        Hook::Generic
    } else {
        Hook::Native
    }
}
