//! TCP, TLS, WebSocket, and calls to phones behind connections.
//!
//! - [`without`]: the peers understand each other without the forwarder; if that fails, nothing below tells anything.
//! - [`calls`]: `SIPp` and our own callers, over each transport, towards backends over each.
//! - [`phones`]: phones register, call and are called, over each transport and from behind a NAT.
//! - [`flows`]: what a flow token opens, and what it does not.
//! - [`stream_torture`]: the torture messages over TCP.
//! - [`hostile`]: attackers, and the traffic beside them.
//! - [`asked`]: backends that are dead by one transport and well by another.
//! - [`life`]: certificates reloaded, the daemon restarted, a backend killed, with calls up.

mod asked;
mod calls;
mod flows;
mod hostile;
mod life;
mod phones;
mod room;
mod stream_torture;
mod without;

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [
        without::trials(),
        calls::trials(),
        phones::trials(),
        flows::trials(),
        stream_torture::trials(),
        hostile::trials(),
        life::trials(),
        asked::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
