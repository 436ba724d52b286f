//! What the XDP program logs: faults only, never a line for an ordinary packet.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

/// Carries the program's lines into our log, for as long as the runtime lives. Without it the daemon
/// does its work all the same.
pub fn follow(ebpf: &mut Ebpf) {
    let logger = EbpfLogger::init(ebpf)
        .map_err(|error| error.to_string())
        .and_then(|logger| {
            // SAFETY: the logger owns its map's descriptor, which stays open and the same until the
            // logger is dropped.
            unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
                .map_err(|error| error.to_string())
        });
    let mut logger = match logger {
        Ok(logger) => logger,
        Err(error) => {
            warn!(
                error,
                "the XDP program's log cannot be read; faults show in its counters only"
            );
            return;
        }
    };
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}
