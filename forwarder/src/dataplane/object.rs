//! The compiled XDP program, embedded when this binary was built.

use thiserror::Error;

/// The program is not in this binary.
#[derive(Clone, Copy, Debug, Error)]
#[error("this sip-forwarder was built without the XDP program; build it with `cargo xtask build`")]
pub struct BuiltWithoutProgram;

#[cfg(xdp_object)]
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SIP_FORWARDER_XDP"));

/// The object file of the XDP program.
#[cfg(xdp_object)]
pub const fn embedded() -> Result<&'static [u8], BuiltWithoutProgram> {
    Ok(OBJECT)
}

/// The object file of the XDP program.
#[cfg(not(xdp_object))]
pub const fn embedded() -> Result<&'static [u8], BuiltWithoutProgram> {
    Err(BuiltWithoutProgram)
}
