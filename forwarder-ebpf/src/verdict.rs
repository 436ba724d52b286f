//! What became of a packet: every verdict once, with its number, name and help text.
//!
//! Numbers and names are stable: counters, `status`, logs and `docs/VERDICTS.md` use them, and a
//! test holds the document against this table.

/// Number of counters the program keeps: one more than the largest number a verdict may have.
pub const VERDICT_LIMIT: u32 = 96;

/// What kind of end a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Sent on to a backend.
    Forwarded,
    /// A backend's packet, sent on to where it goes with the VIP as its source.
    Returned,
    /// Not the forwarder's business: left to the kernel untouched.
    Ignored,
    /// Left by the fast path to the slow path.
    Passed,
    /// Answered or absorbed by the forwarder itself.
    Answered,
    /// Thrown away.
    Dropped,
}

impl Outcome {
    /// The word for it in documents and in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Returned => "returned",
            Self::Ignored => "ignored",
            Self::Passed => "passed",
            Self::Answered => "answered",
            Self::Dropped => "dropped",
        }
    }
}

/// What became of a packet or a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(
    missing_docs,
    reason = "each variant is documented by its line in TABLE"
)]
pub enum Verdict {
    ForwardedHome = 1,
    ForwardedAdmit = 2,
    ForwardedAffinity = 3,
    ForwardedNamed = 4,
    ForwardedRecent = 5,
    ForwardedHomeDead = 6,
    ForwardedEmergency = 7,

    ReturnedResponse = 10,
    ReturnedRequest = 11,
    ReturnedUnread = 12,
    ReturnedFragment = 13,
    ReturnedByKernel = 14,

    IgnoredNotIp = 20,
    IgnoredNotUdp = 21,
    IgnoredMalformed = 22,
    IgnoredOther = 23,
    IgnoredLocal = 24,
    IgnoredFragment = 25,

    PassedFragment = 30,
    PassedIpOptions = 31,
    PassedIpv6Extension = 32,
    PassedTrailingBytes = 33,
    PassedShort = 34,
    PassedStartLine = 35,
    PassedFolded = 36,
    PassedLineEnding = 37,
    PassedHeaderEnd = 38,
    PassedScanLimit = 39,
    PassedCallId = 40,
    PassedTo = 41,
    PassedVia = 42,
    PassedRoute = 43,
    PassedRouteHost = 44,
    PassedForwarder = 45,
    PassedNextHop = 46,
    PassedTooLarge = 47,
    PassedTimeToLive = 48,
    PassedNoBackend = 49,
    PassedKey = 50,
    PassedVlan = 51,
    PassedRefusalAck = 52,
    PassedContended = 53,
    PassedStage = 54,
    PassedNested = 55,

    DroppedNoDaemon = 60,
    DroppedNoBackend = 61,
    DroppedNotSip = 62,
    DroppedNoCallId = 63,
    DroppedSend = 64,
    DroppedTableFault = 65,
    DroppedOverload = 66,
    DroppedResponseNotOurs = 67,
    DroppedResponseForged = 68,
    DroppedResponseExpired = 69,
    DroppedResponseSender = 70,
    DroppedResponseUnreadable = 71,
    DroppedRequest = 72,
    DroppedFlowGone = 73,
    DroppedBacklog = 74,
    DroppedMalformed = 75,

    AnsweredKeepAlive = 80,
    AnsweredStun = 81,
    AnsweredOptions = 82,
    AnsweredRefusal = 83,
    AnsweredRefusalAck = 84,
    AnsweredFault = 85,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The verdict.
    pub verdict: Verdict,
    /// What kind of end it is.
    pub outcome: Outcome,
    /// Its stable name.
    pub name: &'static str,
    /// What it means and, where someone should act, what to do.
    pub help: &'static str,
}

const fn entry(
    verdict: Verdict,
    outcome: Outcome,
    name: &'static str,
    help: &'static str,
) -> Entry {
    Entry {
        verdict,
        outcome,
        name,
        help,
    }
}

/// Every verdict, in the order of their numbers.
pub const TABLE: &[Entry] = &[
    entry(
        Verdict::ForwardedHome,
        Outcome::Forwarded,
        "home",
        "The call is at its home, or a new call was admitted there.",
    ),
    entry(
        Verdict::ForwardedAdmit,
        Outcome::Forwarded,
        "admit",
        "A new call was given to another backend than its home; an affinity entry remembers it.",
    ),
    entry(
        Verdict::ForwardedAffinity,
        Outcome::Forwarded,
        "affinity",
        "An affinity entry knew where the call is.",
    ),
    entry(
        Verdict::ForwardedNamed,
        Outcome::Forwarded,
        "named",
        "The top Route of a request, or the top Via of a response, named the backend.",
    ),
    entry(
        Verdict::ForwardedRecent,
        Outcome::Forwarded,
        "recent",
        "The same request, or one of its Call-ID, started in the last 32 seconds: it follows the first.",
    ),
    entry(
        Verdict::ForwardedHomeDead,
        Outcome::Forwarded,
        "home-dead",
        "The call's home is dead; it was given to the slot's next choice.",
    ),
    entry(
        Verdict::ForwardedEmergency,
        Outcome::Forwarded,
        "emergency",
        "A new emergency call while no backend takes any: given to one that lives all the same.",
    ),
    entry(
        Verdict::ReturnedResponse,
        Outcome::Returned,
        "returned-response",
        "A backend's response; its source is the VIP now.",
    ),
    entry(
        Verdict::ReturnedRequest,
        Outcome::Returned,
        "returned-request",
        "A backend's own request; its source is the VIP now, and an affinity entry was written if the call's home is another.",
    ),
    entry(
        Verdict::ReturnedUnread,
        Outcome::Returned,
        "returned-unread",
        "A backend's packet that could not be read as SIP; its source is the VIP now. The response to it will name the backend.",
    ),
    entry(
        Verdict::ReturnedFragment,
        Outcome::Returned,
        "returned-fragment",
        "A later fragment of a backend's packet; its source is the VIP now.",
    ),
    entry(
        Verdict::ReturnedByKernel,
        Outcome::Returned,
        "returned-by-kernel",
        "A backend's packet whose source is the VIP now and that the kernel routes, because it needs fragmenting or its way out has no XDP. Needs net.ipv4.ip_forward or net.ipv6.conf.all.forwarding.",
    ),
    entry(
        Verdict::IgnoredNotIp,
        Outcome::Ignored,
        "not-ip",
        "Neither IPv4 nor IPv6 (ARP, say).",
    ),
    entry(
        Verdict::IgnoredNotUdp,
        Outcome::Ignored,
        "not-udp",
        "Not UDP.",
    ),
    entry(
        Verdict::IgnoredMalformed,
        Outcome::Ignored,
        "malformed-packet",
        "Truncated, or its lengths contradict each other; the kernel will refuse it.",
    ),
    entry(
        Verdict::IgnoredOther,
        Outcome::Ignored,
        "not-for-a-service",
        "UDP that neither goes to a service nor comes from a backend.",
    ),
    entry(
        Verdict::IgnoredLocal,
        Outcome::Ignored,
        "backend-to-host",
        "A backend's packet to an address of this host, to where there is no route, or too large for the way and not to be fragmented; the kernel answers it.",
    ),
    entry(
        Verdict::IgnoredFragment,
        Outcome::Ignored,
        "backend-fragment",
        "A fragment from a backend's address whose first fragment was not SIP of a service, or was not seen.",
    ),
    entry(
        Verdict::PassedFragment,
        Outcome::Passed,
        "fragment",
        "A fragment to a VIP; the kernel puts it together for the slow path.",
    ),
    entry(
        Verdict::PassedIpOptions,
        Outcome::Passed,
        "ip-options",
        "IPv4 options other than padding and router alert.",
    ),
    entry(
        Verdict::PassedIpv6Extension,
        Outcome::Passed,
        "ipv6-extension",
        "An IPv6 extension header other than a fragment header.",
    ),
    entry(
        Verdict::PassedTrailingBytes,
        Outcome::Passed,
        "trailing-bytes",
        "The frame goes on after the datagram, or has more than one buffer.",
    ),
    entry(
        Verdict::PassedShort,
        Outcome::Passed,
        "short",
        "Too short for a SIP message: a keep-alive, say.",
    ),
    entry(
        Verdict::PassedStartLine,
        Outcome::Passed,
        "start-line",
        "Not a start line of SIP/2.0 with a method the fast path knows.",
    ),
    entry(
        Verdict::PassedFolded,
        Outcome::Passed,
        "folded",
        "A folded header.",
    ),
    entry(
        Verdict::PassedLineEnding,
        Outcome::Passed,
        "line-ending",
        "A line that ends without carriage return.",
    ),
    entry(
        Verdict::PassedHeaderEnd,
        Outcome::Passed,
        "header-missing",
        "The headers ended before all that decides was found: no Call-ID, To or Via.",
    ),
    entry(
        Verdict::PassedScanLimit,
        Outcome::Passed,
        "scan-limit",
        "What decides lies beyond what the fast path reads, or the message ends inside its headers.",
    ),
    entry(
        Verdict::PassedCallId,
        Outcome::Passed,
        "odd-call-id",
        "A Call-ID that is empty, long or has blanks inside.",
    ),
    entry(
        Verdict::PassedTo,
        Outcome::Passed,
        "odd-to",
        "A To header in which a tag could not be told for sure.",
    ),
    entry(
        Verdict::PassedVia,
        Outcome::Passed,
        "odd-via",
        "A top Via that is not of the usual form.",
    ),
    entry(
        Verdict::PassedRoute,
        Outcome::Passed,
        "odd-route",
        "A top Route that is not of the usual form.",
    ),
    entry(
        Verdict::PassedRouteHost,
        Outcome::Passed,
        "unknown-ipv6-text",
        "An IPv6 address in Via or Route, written in a way the fast path does not know.",
    ),
    entry(
        Verdict::PassedForwarder,
        Outcome::Passed,
        "for-forwarder",
        "An OPTIONS without a user: meant for the forwarder itself.",
    ),
    entry(
        Verdict::PassedNextHop,
        Outcome::Passed,
        "no-next-hop",
        "The backend's next hop is not resolved. If it stays so, look for the backend in `ip neigh`.",
    ),
    entry(
        Verdict::PassedTooLarge,
        Outcome::Passed,
        "too-large",
        "Larger than the way to the backend carries; the slow path fragments it.",
    ),
    entry(
        Verdict::PassedTimeToLive,
        Outcome::Passed,
        "time-to-live",
        "Its time to live ends here.",
    ),
    entry(
        Verdict::PassedNoBackend,
        Outcome::Passed,
        "no-backend",
        "No backend of the service may take it; the slow path decides how to refuse it.",
    ),
    entry(
        Verdict::PassedKey,
        Outcome::Passed,
        "odd-key",
        "The header by which the service's calls are spread could not be read for sure.",
    ),
    entry(
        Verdict::PassedVlan,
        Outcome::Passed,
        "other-vlan",
        "It came with other VLAN tags than frames to the backend bear; the slow path crosses over.",
    ),
    entry(
        Verdict::PassedRefusalAck,
        Outcome::Passed,
        "refusal-ack",
        "The ACK of what looks like a refusal by the forwarder; the slow path knows for sure.",
    ),
    entry(
        Verdict::PassedContended,
        Outcome::Passed,
        "contended",
        "Another CPU was adding to the same line of the recent table; the slow path waits for it.",
    ),
    entry(
        Verdict::PassedStage,
        Outcome::Passed,
        "stage-missing",
        "A stage of the XDP program is not there. Restart the daemon, which loads all of them; if it happens again, it is a bug: please report it.",
    ),
    entry(
        Verdict::PassedNested,
        Outcome::Passed,
        "nested",
        "The packet interrupted a test run of the XDP program on its CPU, whose memory it must not touch.",
    ),
    entry(
        Verdict::DroppedNoDaemon,
        Outcome::Dropped,
        "no-daemon",
        "The slow path should have had it, but no daemon has the VIP's port open. Dropped, so that the sender repeats it instead of failing on an ICMP error. Start the daemon.",
    ),
    entry(
        Verdict::DroppedNoBackend,
        Outcome::Dropped,
        "dropped-no-backend",
        "No backend of the service may take it.",
    ),
    entry(
        Verdict::DroppedNotSip,
        Outcome::Dropped,
        "not-sip",
        "Came to a VIP and is no SIP message, no keep-alive and no STUN.",
    ),
    entry(
        Verdict::DroppedNoCallId,
        Outcome::Dropped,
        "no-call-id",
        "A SIP message without a Call-ID belongs to no call and cannot be answered.",
    ),
    entry(
        Verdict::DroppedSend,
        Outcome::Dropped,
        "send-failed",
        "The kernel would not send it on; the log says why.",
    ),
    entry(
        Verdict::DroppedTableFault,
        Outcome::Dropped,
        "table-fault",
        "A map lacked what another map promised. Report it: this is a bug.",
    ),
    entry(
        Verdict::DroppedOverload,
        Outcome::Dropped,
        "dropped-overload",
        "A new call while no backend takes any, dropped because of `overload = \"drop\"`. Look why in `status`.",
    ),
    entry(
        Verdict::DroppedResponseNotOurs,
        Outcome::Dropped,
        "response-not-ours",
        "Mode proxy: a response whose first Via is somebody else's (RFC 3261 section 18.1.2).",
    ),
    entry(
        Verdict::DroppedResponseForged,
        Outcome::Dropped,
        "response-forged",
        "Mode proxy: a response whose first Via has our name, but no cookie that we made for this call.",
    ),
    entry(
        Verdict::DroppedResponseExpired,
        Outcome::Dropped,
        "response-expired",
        "Mode proxy: a response to a request too long ago.",
    ),
    entry(
        Verdict::DroppedResponseSender,
        Outcome::Dropped,
        "response-sender",
        "Mode proxy: a response from somewhere else than its request was sent to.",
    ),
    entry(
        Verdict::DroppedResponseUnreadable,
        Outcome::Dropped,
        "response-unreadable",
        "Mode proxy: a response without a Via that can be read, or one for nobody but the forwarder.",
    ),
    entry(
        Verdict::DroppedRequest,
        Outcome::Dropped,
        "dropped-request",
        "Mode proxy: a request that cannot be sent on, and cannot be answered: an ACK, or one without Via.",
    ),
    entry(
        Verdict::DroppedFlowGone,
        Outcome::Dropped,
        "flow-gone",
        "Mode proxy: a message for a client whose connection is gone.",
    ),
    entry(
        Verdict::DroppedBacklog,
        Outcome::Dropped,
        "backlog",
        "Mode proxy: a message for a peer that does not read what waits for it. Its connection is closed.",
    ),
    entry(
        Verdict::DroppedMalformed,
        Outcome::Dropped,
        "malformed",
        "Mode proxy: bytes on a connection that are no SIP, or a message whose end cannot be known. The connection is closed.",
    ),
    entry(
        Verdict::AnsweredKeepAlive,
        Outcome::Answered,
        "keep-alive",
        "A CRLF or one-byte keep-alive, absorbed.",
    ),
    entry(
        Verdict::AnsweredStun,
        Outcome::Answered,
        "stun",
        "A STUN Binding request (RFC 5626 section 4.4.2), answered.",
    ),
    entry(
        Verdict::AnsweredOptions,
        Outcome::Answered,
        "options",
        "An OPTIONS to the forwarder itself, answered.",
    ),
    entry(
        Verdict::AnsweredRefusal,
        Outcome::Answered,
        "refused",
        "A new call, or another request that starts something, while no backend takes any: answered 503 with Retry-After. Look why in `status`.",
    ),
    entry(
        Verdict::AnsweredRefusalAck,
        Outcome::Answered,
        "refused-ack",
        "The ACK of such a 503, absorbed.",
    ),
    entry(
        Verdict::AnsweredFault,
        Outcome::Answered,
        "answered-fault",
        "Mode proxy: a request that may not be sent on, answered with what RFC 3261 section 16.3 names.",
    ),
];

impl Verdict {
    /// Its line in the table.
    ///
    /// # Panics
    /// Never: a test holds that every verdict has a line.
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        TABLE
            .iter()
            .find(|e| e.verdict == self)
            .expect("every verdict has a line in the table")
    }

    /// Its number: the index of its counter.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_names_are_unique() {
        for pair in TABLE.windows(2) {
            assert!(
                pair[0].verdict.number() < pair[1].verdict.number(),
                "{}",
                pair[1].name
            );
        }
        let mut names: Vec<_> = TABLE.iter().map(|e| e.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
        assert!(TABLE.last().unwrap().verdict.number() < VERDICT_LIMIT);
    }
}
