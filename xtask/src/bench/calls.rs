//! Frames of many calls, made in the kernel.

use std::{net::SocketAddr, path::Path};

use anyhow::Context as _;
use sip_forwarder_tests::{
    frame_source::{FrameSource, Kernel, NUMBER, Numbers},
    frames::UdpFrame,
    lab::Family,
    messages::Message,
};

/// Where frames of many calls go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// IP version of both.
    pub(super) family: Family,
    /// The sender.
    pub(super) from: SocketAddr,
    /// The receiver; with more ports, the first of its ports.
    pub(super) to: SocketAddr,
}

/// Frames of a message, each of a call of its own.
pub(super) fn source(
    object: &Path,
    programs: &[Kernel],
    message: &Message,
    (ends, numbers): (Ends, Numbers),
) -> anyhow::Result<FrameSource> {
    let frame = call_ids()
        .map(|call_id| message.clone().call_id(&call_id).build())
        .map(|message| UdpFrame::new(ends.from, ends.to, message).build())
        .find(|frame| number_at(frame).is_some_and(|at| at % 2 == 0))
        .context("no Call-ID puts the number at an even offset")?;
    FrameSource::of_template(object, programs, &frame, (ends.family, numbers))
}

/// Call-IDs that hold the place of a number, at even and odd offsets.
pub(super) fn call_ids() -> impl Iterator<Item = String> {
    ["", "-"]
        .into_iter()
        .map(|before| format!("{before}{NUMBER}@10.210.0.2"))
}

fn number_at(frame: &[u8]) -> Option<usize> {
    frame
        .windows(NUMBER.len())
        .position(|bytes| bytes == NUMBER.as_bytes())
}
