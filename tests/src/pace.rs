//! How fast the machine is that the tests run on.
//!
//! Time limits and rates of calls are made for a machine that runs its own instructions. Whoever runs the tests in an
//! emulated processor says so with `SIP_FORWARDER_TEST_SLOWDOWN`, a whole number: limits of conditions get so many times
//! as long, and calls begin at a lower rate.

use std::{sync::LazyLock, time::Duration};

/// The environment variable.
pub const SLOWDOWN: &str = "SIP_FORWARDER_TEST_SLOWDOWN";

/// Returns how many times as long things may take: 1 unless the environment says otherwise.
#[must_use]
pub fn slowdown() -> u32 {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let said = std::env::var(SLOWDOWN).ok();
        said.and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
    });
    *FACTOR
}

/// Returns a time limit as this machine needs it.
#[must_use]
pub fn limit(usual: Duration) -> Duration {
    usual.saturating_mul(slowdown())
}

/// Returns a rate, in anything a second, as this machine bears it. Limits are for its worst moments and a rate is for all
/// of them, so it is lowered by the square root only.
#[must_use]
pub fn rate(usual: u32) -> u32 {
    (usual / slowdown().isqrt()).max(1)
}
