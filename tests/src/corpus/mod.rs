//! The torture messages of RFC 4475 (SIP) and RFC 5118 (IPv6), what each is about, and what is to become
//! of it.
//!
//! The files under `tests/corpus` hold the messages byte by byte, the RFCs' notations (`<allOneLine>`,
//! `<hex>`, `<repeat>`) expanded. They were written by hand. Those of RFC 4475 were then compared byte by
//! byte with a published copy of the RFC's archive (its appendix A), those of RFC 5118 by eye with a
//! published transcription. The binary part of `mpart01` is bytes of our own, as many as the RFC's. Where a Content-Length does not fit the body, the
//! RFC prints it so.

mod rfc4475;
mod rfc5118;

pub use rfc4475::RFC_4475;
pub use rfc5118::RFC_5118;

/// One message.
#[derive(Clone, Copy, Debug)]
pub struct Torture {
    /// The RFC's name for it, and its file's.
    pub name: &'static str,
    /// The RFC and the section that gives it.
    pub section: &'static str,
    /// Does the RFC call it well-formed?
    pub validity: Validity,
    /// What mode `nat` makes of it.
    pub in_nat_mode: InNatMode,
    /// What mode `proxy` is to make of it.
    pub in_proxy_mode: InProxyMode,
    /// What it is about.
    pub about: &'static str,
    /// The message.
    pub bytes: &'static [u8],
}

/// Is a message what the grammar and the rules of RFC 3261 allow?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It is, strange as it may look.
    Valid,
    /// It is not.
    Invalid,
}

/// What becomes of a message in mode `nat`, which reads only what tells the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InNatMode {
    /// A backend gets it unchanged, and answers what is to be answered.
    Forwarded,
    /// Dropped and counted: it belongs to no call.
    NoCallId,
    /// Dropped and counted: it is no SIP.
    NotSip,
}

/// What RFC 3261 (sections 16.3, 16.11 and 18) and the torture RFCs let a stateless proxy do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InProxyMode {
    /// Sent on.
    Forwarded,
    /// Answered with this status code.
    Answered(u16),
    /// Sent on, though a server would answer with this status code: what is wrong is nothing that sending
    /// on needs (section 16.3 item 1), and the backends, who are one proxy with the forwarder to everybody
    /// else, answer it.
    LeftToBackend(u16),
    /// Thrown away: a response whose top Via is not the proxy's own, or that must not be answered.
    Dropped,
}

impl Torture {
    /// What mode `proxy` is to make of it.
    #[must_use]
    pub const fn expected_in_proxy_mode(&self) -> InProxyMode {
        self.in_proxy_mode
    }
}

/// All messages of both RFCs.
pub fn all() -> impl Iterator<Item = &'static Torture> {
    RFC_4475.iter().chain(&RFC_5118)
}

/// Makes a table of messages whose files lie in one folder.
macro_rules! table {
    ($folder:literal: $($name:literal $section:literal $validity:ident $nat:expr, $proxy:expr, $about:literal;)*) => {
        [$(Torture {
            name: $name,
            section: concat!($folder, " ", $section),
            validity: Validity::$validity,
            in_nat_mode: $nat,
            in_proxy_mode: $proxy,
            about: $about,
            bytes: include_bytes!(concat!("../../corpus/", $folder, "/", $name, ".sip")),
        }),*]
    };
}
use table;

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_file_has_its_entry() {
        for (folder, table) in [("rfc4475", &RFC_4475[..]), ("rfc5118", &RFC_5118[..])] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("corpus")
                .join(folder);
            let files: HashSet<String> = fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            let entries: HashSet<String> = table
                .iter()
                .map(|entry| format!("{}.sip", entry.name))
                .collect();
            assert_eq!(files, entries, "{folder}");
            assert_eq!(entries.len(), table.len(), "{folder} has a name twice");
        }
    }

    #[test]
    fn no_line_ending_was_changed() {
        for message in all() {
            let head = message.bytes.split(|&byte| byte == b'\n').next().unwrap();
            assert!(
                head.ends_with(b"\r"),
                "{}: the start line lacks its CR",
                message.name
            );
        }
        assert_eq!(
            all().map(|message| message.bytes.len()).sum::<usize>(),
            TOTAL
        );
    }

    /// Bytes of all messages together.
    const TOTAL: usize = 29_214;
}
