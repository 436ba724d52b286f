//! Why a request is not forwarded, and what its sender is told.

/// Why a request is answered rather than forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has no Via.
    #[error("the request has no Via, so no response to it finds its way")]
    NoVia,
    /// The first Via has no sent-by.
    #[error("the sent-by of the request's first Via cannot be read")]
    BadVia,
    /// A header that every request has is not there, or is empty.
    #[error("the request lacks one of From, To, Call-ID and CSeq")]
    MissingHeader,
    /// A header that a request has once is there twice: who reads which is anybody's guess (RFC 4475
    /// section 3.3.8).
    #[error("the request has two of a header of which there must be one")]
    AmbiguousHeader,
    /// Max-Forwards is no number.
    #[error("the request's Max-Forwards is no number")]
    BadMaxForwards,
    /// The next hop of a backend's request cannot be read.
    #[error("the host of the request's next hop cannot be read")]
    BadNextHop,
    /// The next hop of a backend's request is neither SIP nor SIPS.
    #[error("the request's next hop is no SIP URI")]
    UnsupportedScheme,
    /// It is of a version of SIP that nobody here speaks (RFC 4475 section 3.1.2.16).
    #[error("the request is of another version of SIP")]
    UnsupportedVersion,
    /// It came back as it went.
    #[error("the request was here before, with the same destination")]
    Loop,
    /// Max-Forwards is 0, or there are more Vias than it allows.
    #[error("the request has passed too many proxies")]
    TooManyHops,
    /// The headers, or all of it, are longer than what can leave.
    #[error("the request is too long")]
    TooLarge,
    /// The next hop of a backend's request is a name. Names are for the backend to resolve.
    #[error("the request's next hop is a name; the proxy that sent it must resolve it")]
    NextHopIsName,
    /// The next hop of a backend's request wants a transport that this forwarder opens no connections
    /// for.
    #[error("the request's next hop wants a transport that no connection can be opened for")]
    NextHopTransport,
    /// The token in our Route was not made for this, or is too old (RFC 5626 section 5.3).
    #[error("the flow token in the request's Route is forged, of another call, or too old")]
    BadFlowToken,
    /// The connection that the client is reached by is gone (RFC 5626 section 5.3).
    #[error("the connection that the request's next hop was reached by is gone")]
    FlowFailed,
    /// It is longer or shorter than its Content-Length says, and goes on by a stream.
    #[error("the request's Content-Length does not fit its body")]
    BadLength,
    /// No connection to the request's next hop can be opened.
    #[error("no connection to the request's next hop can be opened")]
    NextHopUnreachable,
    /// No connection to any backend can be opened.
    #[error("no connection to a backend can be opened")]
    Unreachable,
}

impl Refusal {
    /// The status code.
    ///
    /// What cannot be reached is 500, not 503: a backend may take 503 for the state of this
    /// forwarder, and send it nothing more (RFC 3261 section 21.5.4).
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::NoVia
            | Self::BadVia
            | Self::MissingHeader
            | Self::AmbiguousHeader
            | Self::BadMaxForwards
            | Self::BadNextHop
            | Self::BadLength => 400,
            Self::BadFlowToken => 403,
            Self::UnsupportedScheme => 416,
            Self::FlowFailed => 430,
            Self::Loop => 482,
            Self::TooManyHops => 483,
            Self::NextHopIsName | Self::NextHopTransport | Self::NextHopUnreachable => 500,
            Self::Unreachable => 503,
            Self::UnsupportedVersion => 505,
            Self::TooLarge => 513,
        }
    }

    /// The reason phrase.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoVia | Self::BadVia => "Bad Via",
            Self::MissingHeader => "Missing Header",
            Self::AmbiguousHeader => "Ambiguous Header",
            Self::BadMaxForwards => "Bad Max-Forwards",
            Self::BadNextHop => "Bad Next Hop",
            Self::UnsupportedScheme => "Unsupported URI Scheme",
            Self::Loop => "Loop Detected",
            Self::TooManyHops => "Too Many Hops",
            Self::NextHopIsName => "Next Hop Is Not an Address",
            Self::NextHopTransport => "Next Hop Transport Not Available",
            Self::NextHopUnreachable => "Next Hop Unreachable",
            Self::Unreachable => "Service Unavailable",
            Self::BadLength => "Bad Content-Length",
            Self::BadFlowToken => "Bad Flow Token",
            Self::FlowFailed => "Flow Failed",
            Self::UnsupportedVersion => "Version Not Supported",
            Self::TooLarge => "Message Too Large",
        }
    }
}

/// Why a request comes to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// It is a response.
    #[error("the message is no request")]
    NotARequest,
    /// It is an ACK, which nobody answers (RFC 3261 section 8.2.6), and would be refused.
    #[error("the ACK cannot be forwarded: {0}")]
    Ack(Refusal),
}
