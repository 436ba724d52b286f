//! A busy proxy must be reported as busy, not be taken for dead because its agent got no CPU.

use std::io;

/// The lowest real-time priority is above every process that has none.
const REAL_TIME: libc::c_int = 1;
/// The best that there is without real time.
const NICE: i32 = -20;

/// Puts this thread before ordinary processes, as far as it may. Says in the log what came of it.
pub(super) fn raise() {
    let Err(error) = real_time() else { return };
    if rustix::process::setpriority_process(None, NICE).is_ok() {
        tracing::info!(%error, "no real-time priority; running at nice {NICE}");
    } else {
        tracing::warn!(
            %error,
            "cannot raise the agent's priority: under full load reports may be late, and the proxy be taken for dead. Give it CAP_SYS_NICE, or CPUSchedulingPolicy=rr in its unit"
        );
    }
}

/// Round robin, and not inherited by what the agent starts.
fn real_time() -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: REAL_TIME,
    };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters live until the call returns; 0 is this thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
