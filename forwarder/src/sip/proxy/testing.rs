//! Flows of all kinds, for property tests.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
};

use proptest::prelude::*;

use crate::sip::transport::{ConnectionId, Flow, Transport};

/// Any flow; one without connections has no connection's id.
pub(super) fn flows() -> impl Strategy<Value = Flow> {
    let transport = proptest::sample::select(Transport::ALL.to_vec());
    (transport, any::<(IpAddr, u16, u64)>()).prop_map(|(transport, (ip, port, id))| Flow {
        transport,
        peer: SocketAddr::new(ip, port),
        connection: NonZeroU64::new(id)
            .filter(|_| transport.has_connections())
            .map(ConnectionId),
    })
}
