//! RFC 4475, section 3: torture messages for SIP.

use super::{
    InNatMode::{Forwarded as ToBackend, NoCallId},
    InProxyMode::{Answered, Dropped, Forwarded, LeftToBackend},
    Torture, Validity, table,
};

/// The 49 messages.
pub static RFC_4475: [Torture; 49] = table! { "rfc4475":
    "wsinv" "3.1.1.1" Valid ToBackend, Forwarded, "A short tortuous INVITE: folding and blanks everywhere, a To-tag, a Route.";
    "intmeth" "3.1.1.2" Valid ToBackend, Forwarded, "Every character that method, URI, Call-ID and names may hold; NUL in a quoted string.";
    "esc01" "3.1.1.3" Valid ToBackend, Forwarded, "Escapes in the user part of the Request-URI.";
    "escnull" "3.1.1.4" Valid ToBackend, Forwarded, "Escaped NULs in URIs.";
    "esc02" "3.1.1.5" Valid ToBackend, Forwarded, "% in the method and in a header's name is no escape.";
    "lwsdisp" "3.1.1.6" Valid ToBackend, Forwarded, "No blank between display name and <.";
    "longreq" "3.1.1.7" Valid ToBackend, Forwarded, "Long values and 34 Vias: more than one Ethernet frame holds.";
    "dblreq" "3.1.1.8" Valid ToBackend, Forwarded, "A second request behind the first one's end in the same datagram, to be ignored.";
    "semiuri" "3.1.1.9" Valid ToBackend, Forwarded, "A semicolon in the user part.";
    "transports" "3.1.1.10" Valid ToBackend, Forwarded, "Vias with other transports, one unknown.";
    "mpart01" "3.1.1.11" Valid ToBackend, Forwarded, "A multipart body with NULs in it; its Route is the loopback.";
    "unreason" "3.1.1.12" Valid ToBackend, Dropped, "A response with a reason phrase in Cyrillic.";
    "noreason" "3.1.1.13" Valid ToBackend, Dropped, "A response with an empty reason phrase.";
    "badinv01" "3.1.2.1" Invalid ToBackend, LeftToBackend(400), "Separators without anything between them in Via and Contact.";
    "clerr" "3.1.2.2" Invalid ToBackend, LeftToBackend(400), "A Content-Length larger than the datagram.";
    "ncl" "3.1.2.3" Invalid ToBackend, LeftToBackend(400), "A negative Content-Length.";
    "scalar02" "3.1.2.4" Invalid ToBackend, LeftToBackend(400), "CSeq, Max-Forwards and Expires larger than allowed, in a request.";
    "scalarlg" "3.1.2.5" Invalid ToBackend, Dropped, "CSeq, Retry-After and Warning larger than allowed, in a response.";
    "quotbal" "3.1.2.6" Invalid ToBackend, LeftToBackend(400), "A quoted string in To that never ends.";
    "ltgtruri" "3.1.2.7" Invalid ToBackend, LeftToBackend(400), "A Request-URI in angle brackets.";
    "lwsruri" "3.1.2.8" Invalid ToBackend, LeftToBackend(400), "A blank within the Request-URI.";
    "lwsstart" "3.1.2.9" Invalid ToBackend, LeftToBackend(400), "Two blanks between the parts of the start line.";
    "trws" "3.1.2.10" Invalid ToBackend, LeftToBackend(400), "Blanks at the end of the start line.";
    "escruri" "3.1.2.11" Invalid ToBackend, LeftToBackend(400), "Headers escaped into the Request-URI.";
    "baddate" "3.1.2.12" Invalid ToBackend, LeftToBackend(400), "A Date that is not in GMT.";
    "regbadct" "3.1.2.13" Invalid ToBackend, LeftToBackend(400), "A Contact with a ? outside angle brackets.";
    "badaspec" "3.1.2.14" Invalid ToBackend, LeftToBackend(400), "Blanks within the angle brackets of To.";
    "baddn" "3.1.2.15" Invalid ToBackend, LeftToBackend(400), "A display name with a comma and without quotes.";
    "badvers" "3.1.2.16" Invalid ToBackend, Answered(505), "SIP/7.0.";
    "mismatch01" "3.1.2.17" Invalid ToBackend, LeftToBackend(400), "Start line and CSeq name different methods.";
    "mismatch02" "3.1.2.18" Invalid ToBackend, LeftToBackend(400), "The same with a method that nobody knows.";
    "bigcode" "3.1.2.19" Invalid ToBackend, Dropped, "A status code larger than 699 and than 32 bits.";
    "badbranch" "3.2.1" Invalid ToBackend, Forwarded, "A branch that is nothing but the magic cookie.";
    "insuf" "3.3.1" Invalid NoCallId, Dropped, "No Call-ID, no From, no To: an answer could not carry what it must.";
    "unkscm" "3.3.2" Valid ToBackend, LeftToBackend(416), "A Request-URI of an unknown scheme.";
    "novelsc" "3.3.3" Valid ToBackend, LeftToBackend(416), "A Request-URI of a known scheme that is not SIP's.";
    "unksm2" "3.3.4" Valid ToBackend, Forwarded, "Unknown schemes in To, From and Contact.";
    "bext01" "3.3.5" Valid ToBackend, LeftToBackend(420), "Require and Proxy-Require of unknown extensions.";
    "invut" "3.3.6" Valid ToBackend, Forwarded, "An unknown Content-Type.";
    "regaut01" "3.3.7" Valid ToBackend, Forwarded, "An unknown Authorization scheme.";
    "multi01" "3.3.8" Invalid ToBackend, Answered(400), "Two of each of CSeq, Call-ID, To, From, Max-Forwards: the first Call-ID counts.";
    "mcl01" "3.3.9" Invalid ToBackend, LeftToBackend(400), "Two Content-Lengths that differ.";
    "bcast" "3.3.10" Valid ToBackend, Dropped, "A response whose second Via is the broadcast address.";
    "zeromf" "3.3.11" Valid ToBackend, Answered(483), "Max-Forwards 0.";
    "cparam01" "3.3.12" Valid ToBackend, Forwarded, "A parameter of the Contact header, not of its URI.";
    "cparam02" "3.3.13" Valid ToBackend, Forwarded, "A parameter of the Contact's URI.";
    "regescrt" "3.3.14" Valid ToBackend, Forwarded, "A Contact with an escaped Route in its URI.";
    "sdp01" "3.3.15" Valid ToBackend, Forwarded, "An Accept without the SDP that comes along.";
    "inv2543" "3.4.1" Valid ToBackend, Forwarded, "An INVITE of RFC 2543: no branch, no Max-Forwards, no From-tag, no Content-Length.";
};
