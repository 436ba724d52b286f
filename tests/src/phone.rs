//! A phone that does as a test says, over any transport: it registers, calls, is called, and hangs up. It is written
//! for the tests; none of it is the forwarder's code.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{Host, Lab};
use crate::messages::{header, headers};
use crate::sipp::unique;
use crate::stream::Target;
use crate::stream::link::Link;

/// How long anything may take; what is sent again would be sent again sooner.
const WAIT: Duration = Duration::from_secs(5);

/// A phone with one line.
#[derive(Debug)]
pub struct Phone {
    link: Link,
    user: String,
    /// Host and port of the registrar's address.
    domain: String,
    /// How it calls itself in Via and Contact.
    own: String,
}

/// A call that is up, as one of its ends sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its Call-ID.
    pub call_id: String,
    local: String,
    remote: String,
    /// The other's Contact.
    pub target: String,
    /// The Routes of its requests, from the top.
    pub routes: Vec<String>,
    cseq: u32,
}

impl Phone {
    /// Connects a phone of a host to its registrar's address.
    pub fn new(lab: &Lab, host: Host, user: &str, target: &Target) -> Result<Self> {
        let link = Link::open(lab, host, target)?;
        let own = if target.transport.is_web() {
            // A browser has no address of its own (RFC 7118 section 5.2).
            format!("{user}-{}.invalid", unique())
        } else if target.transport == crate::stream::Transport::Udp {
            // It may be behind a translator of addresses, and does not know.
            format!(
                "{}:{}",
                lab.address(host, crate::lab::Family::V4),
                link.local().port()
            )
        } else {
            link.local().to_string()
        };
        Ok(Self {
            link,
            user: user.to_owned(),
            domain: target.address.ip().to_string(),
            own,
        })
    }

    /// Its connection.
    #[must_use]
    pub const fn link(&self) -> &Link {
        &self.link
    }

    /// Its user's address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("sip:{}@{}", self.user, self.domain)
    }

    /// Where it wants to be reached.
    #[must_use]
    pub fn contact(&self) -> String {
        let transport = match self.link.transport().name() {
            "wss" => "ws",
            name => name,
        };
        format!("sip:{}@{};transport={transport}", self.user, self.own)
    }

    /// Registers, and gives the answer; fails unless that is 200.
    pub fn register(&self) -> Result<String> {
        let call_id = format!("register-{}@{}", unique(), self.user);
        let request = self.request(
            "REGISTER",
            &format!("sip:{}", self.domain),
            &call_id,
            1,
            &format!(
                "From: <{aor}>;tag=r{call_id}\r\nTo: <{aor}>\r\nContact: <{contact}>\r\n\
                 Expires: 600\r\nSupported: path\r\n",
                aor = self.address(),
                contact = self.contact()
            ),
            "",
        );
        self.link.send(request.as_bytes())?;
        self.final_answer(&call_id, "200")
    }

    /// Calls somebody, and acknowledges the answer; fails unless that is 200.
    pub fn call(&self, user: &str) -> Result<Call> {
        let call_id = format!("call-{}@{}", unique(), self.user);
        let to = format!("<sip:{user}@{}>", self.domain);
        let from = format!("<{}>;tag=f{}", self.address(), unique());
        let uri = format!("sip:{user}@{}", self.domain);
        let more = format!(
            "From: {from}\r\nTo: {to}\r\nContact: <{}>\r\n",
            self.contact()
        );
        let invite = self.request("INVITE", &uri, &call_id, 1, &more, SDP);
        self.link.send(invite.as_bytes())?;
        let ok = self.final_answer(&call_id, "200")?;
        let routes = headers(&ok, "Record-Route");
        let call = Call {
            call_id,
            local: from,
            remote: header(&ok, "To").context("a 200 without To")?.to_owned(),
            target: contact_of(&ok)?,
            routes: routes.iter().rev().map(|&route| route.to_owned()).collect(),
            cseq: 1,
        };
        self.link.send(self.in_dialog(&call, "ACK", 1).as_bytes())?;
        Ok(call)
    }

    /// Waits for a request of this method; gives it.
    pub fn expect(&self, method: &str) -> Result<String> {
        let text = self.receive()?;
        ensure!(
            text.starts_with(&format!("{method} ")),
            "{} expected {method} and got\n{text}",
            self.user
        );
        Ok(text)
    }

    /// Waits for a call and takes it: 180, 200, and waits for the ACK.
    pub fn answer(&self) -> Result<Call> {
        let invite = self.expect("INVITE")?;
        let tag = format!("t{}", unique());
        let contact = format!("Contact: <{}>\r\n", self.contact());
        for (status, body) in [("180 Ringing", ""), ("200 OK", SDP)] {
            let answer = response(&invite, status, &tag, &contact, body);
            self.link.send(answer.as_bytes())?;
        }
        let ack = self.expect("ACK")?;
        ensure!(
            header(&ack, "Call-ID") == header(&invite, "Call-ID"),
            "the ACK is another call's:\n{ack}"
        );
        let name = |name: &str| -> Result<String> {
            let value = header(&invite, name);
            Ok(value
                .with_context(|| format!("no {name} in\n{invite}"))?
                .to_owned())
        };
        Ok(Call {
            call_id: name("Call-ID")?,
            local: format!("{};tag={tag}", name("To")?),
            remote: name("From")?,
            target: contact_of(&invite)?,
            routes: headers(&invite, "Record-Route")
                .iter()
                .map(|&route| route.to_owned())
                .collect(),
            cseq: 1,
        })
    }

    /// Ends a call, and waits for the answer.
    pub fn hang_up(&self, call: &Call) -> Result<()> {
        let bye = self.in_dialog(call, "BYE", call.cseq + 1);
        self.link.send(bye.as_bytes())?;
        self.final_answer(&call.call_id, "200").map(drop)
    }

    /// Waits until the other ends a call, and says that it is well.
    pub fn expect_hang_up(&self, call: &Call) -> Result<()> {
        let bye = self.expect("BYE")?;
        ensure!(
            header(&bye, "Call-ID") == Some(call.call_id.as_str()),
            "the BYE is another call's:\n{bye}"
        );
        self.link
            .send(response(&bye, "200 OK", "", "", "").as_bytes())
    }

    fn receive(&self) -> Result<String> {
        let message = self
            .link
            .receive(WAIT)
            .with_context(|| format!("{} waits", self.user))?;
        Ok(String::from_utf8_lossy(&message).into_owned())
    }

    /// Passes over what is provisional.
    fn final_answer(&self, call_id: &str, status: &str) -> Result<String> {
        loop {
            let text = self.receive()?;
            if header(&text, "Call-ID") != Some(call_id) || !text.starts_with("SIP/2.0 ") {
                bail!("{} expected an answer and got\n{text}", self.user);
            }
            if !text.starts_with("SIP/2.0 1") {
                ensure!(
                    text.starts_with(&format!("SIP/2.0 {status} ")),
                    "{} expected {status} and got\n{text}",
                    self.user
                );
                return Ok(text);
            }
        }
    }

    /// A request with a new branch.
    fn request(
        &self,
        method: &str,
        uri: &str,
        call_id: &str,
        cseq: u32,
        more: &str,
        body: &str,
    ) -> String {
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        format!(
            "{method} {uri} SIP/2.0\r\n\
             Via: SIP/2.0/{transport} {own};branch=z9hG4bK-{user}-{branch};rport\r\n\
             Max-Forwards: 70\r\n\
             {more}\
             Call-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\n\
             {kind}Content-Length: {length}\r\n\r\n{body}",
            transport = self.link.transport().in_via(),
            own = self.own,
            user = self.user,
            branch = unique(),
            length = body.len(),
        )
    }

    fn in_dialog(&self, call: &Call, method: &str, cseq: u32) -> String {
        let mut more = String::new();
        for route in &call.routes {
            // Writing to a String cannot fail.
            let _ = write!(more, "Route: {route}\r\n");
        }
        let _ = write!(more, "From: {}\r\nTo: {}\r\n", call.local, call.remote);
        self.request(method, &call.target, &call.call_id, cseq, &more, "")
    }
}

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
                   m=audio 6000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";

fn contact_of(message: &str) -> Result<String> {
    let contact =
        header(message, "Contact").with_context(|| format!("no Contact in\n{message}"))?;
    let uri = contact
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map_or(contact, |(uri, _)| uri);
    Ok(uri.to_owned())
}

/// An answer to a request; what has a To-tag already keeps it.
#[must_use]
pub fn response(request: &str, status: &str, tag: &str, more: &str, body: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
        for value in headers(request, name) {
            let tag = if name == "To" && !value.contains(";tag=") && !tag.is_empty() {
                format!(";tag={tag}")
            } else {
                String::new()
            };
            // Writing to a String cannot fail.
            let _ = write!(text, "{name}: {value}{tag}\r\n");
        }
    }
    let kind = if body.is_empty() {
        ""
    } else {
        "Content-Type: application/sdp\r\n"
    };
    let _ = write!(
        text,
        "{more}{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    text
}
