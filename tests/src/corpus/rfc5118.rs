//! RFC 5118, section 4: torture messages for IPv6.

use super::{
    InNatMode::Forwarded as ToBackend,
    InProxyMode::{Forwarded, LeftToBackend},
    Torture, Validity, table,
};

/// The 12 messages.
pub static RFC_5118: [Torture; 12] = table! { "rfc5118":
    "ipv6-good" "4.1" Valid ToBackend, Forwarded, "A Request-URI with an IPv6 address.";
    "ipv6-bad" "4.2" Invalid ToBackend, LeftToBackend(400), "The same without brackets.";
    "port-ambiguous" "4.3" Valid ToBackend, Forwarded, "What was meant for a port is part of the address.";
    "port-unambiguous" "4.4" Valid ToBackend, Forwarded, "A port behind the bracket.";
    "via-received-param-with-delim" "4.5" Invalid ToBackend, Forwarded, "Brackets in Via's received; to be tolerated.";
    "via-received-param-no-delim" "4.5" Valid ToBackend, Forwarded, "An OPTIONS without a user part; received without brackets.";
    "ipv6-in-sdp" "4.6" Valid ToBackend, Forwarded, "IPv6 addresses in the body; the RFC prints a wrong Content-Length.";
    "mult-ip-in-header" "4.7" Valid ToBackend, Forwarded, "Vias of both families.";
    "mult-ip-in-sdp" "4.8" Valid ToBackend, Forwarded, "A body with both families; the RFC prints a wrong Content-Length.";
    "ipv4-mapped-ipv6" "4.9" Valid ToBackend, Forwarded, "IPv4-mapped addresses; the RFC prints a wrong Content-Length.";
    "ipv6-bug-abnf-3-colons" "4.10" Invalid ToBackend, LeftToBackend(400), "Three colons, as RFC 3261's grammar has it; to be tolerated.";
    "ipv6-correct-abnf-2-colons" "4.10" Valid ToBackend, Forwarded, "The same address as it should be.";
};
