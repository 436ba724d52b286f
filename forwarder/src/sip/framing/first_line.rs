//! The first line of a message, looked at as it arrives, so that what is no SIP is known by its first
//! bytes: a TLS handshake, HTTP, noise.

use crate::sip::headers::{is_blank, is_token_byte, trim};

/// How much of it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FirstLine {
    /// So many bytes were looked at.
    looked: usize,
    /// What they belong to.
    part: Part,
}

#[derive(Clone, Copy, Debug, Default)]
enum Part {
    /// The method, or the version of a status line.
    #[default]
    Word,
    /// The version of a status line, behind its slash.
    Version,
    /// The blanks behind a method.
    Blanks,
    /// All that follows.
    Rest,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is no first line of SIP.
    NotSip,
    /// It may become one.
    Incomplete,
    /// It is one, and ends before this offset.
    Ends(usize),
}

impl FirstLine {
    /// Was nothing of it looked at?
    pub(super) const fn is_new(&self) -> bool {
        self.looked == 0
    }

    /// Looks at what is new in `pending`, which begins with the line. The line may have `longest` bytes
    /// with its ending.
    pub(super) fn advance(&mut self, pending: &[u8], longest: usize) -> Progress {
        let within = &pending[..pending.len().min(longest)];
        while let Some(&byte) = within.get(self.looked) {
            let before = &within[..self.looked];
            if byte == b'\n' {
                return if is_first_line(before.strip_suffix(b"\r").unwrap_or(before)) {
                    Progress::Ends(self.looked + 1)
                } else {
                    Progress::NotSip
                };
            }
            match self.part.next(byte, before) {
                Some(part) => self.part = part,
                None => return Progress::NotSip,
            }
            self.looked += 1;
        }
        if within.len() < longest {
            Progress::Incomplete
        } else {
            Progress::NotSip
        }
    }
}

impl Part {
    /// The part that goes on, or begins, with `byte` behind `before`; `None` if no part may.
    fn next(self, byte: u8, before: &[u8]) -> Option<Self> {
        // Nothing but the line feed may follow a carriage return.
        if before.last() == Some(&b'\r')
            || (byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r'))
        {
            return None;
        }
        match self {
            Self::Word if is_token_byte(byte) => Some(Self::Word),
            Self::Word if byte == b'/' && before.eq_ignore_ascii_case(b"SIP") => {
                Some(Self::Version)
            }
            Self::Word if is_blank(byte) && !before.is_empty() => Some(Self::Blanks),
            Self::Version if byte.is_ascii_digit() || byte == b'.' => Some(Self::Version),
            Self::Version if is_blank(byte) && is_version(before) => Some(Self::Rest),
            Self::Word | Self::Version => None,
            Self::Blanks if is_blank(byte) => Some(Self::Blanks),
            // So do HTTP's targets begin, and no URI of SIP.
            Self::Blanks if matches!(byte, b'/' | b'*') => None,
            Self::Blanks | Self::Rest => Some(Self::Rest),
        }
    }
}

/// Is this whole line the first of a message? Which version it is of is for the reader to judge.
fn is_first_line(line: &[u8]) -> bool {
    let word = line
        .split(|&byte| is_blank(byte))
        .next()
        .unwrap_or_default();
    if is_version(word) {
        return word.len() < line.len();
    }
    let line = trim(line);
    let last = line
        .rsplit(|&byte| is_blank(byte))
        .next()
        .unwrap_or_default();
    // Between method and version there is something.
    is_version(last) && word.len() + last.len() + 2 < line.len()
}

/// Is this `SIP/`, a number, a dot and a number?
fn is_version(word: &[u8]) -> bool {
    let Some((name, numbers)) = word.split_at_checked(4) else {
        return false;
    };
    let mut parts = numbers.split(|&byte| byte == b'.');
    let number = |part: Option<&[u8]>| {
        part.is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit))
    };
    name.eq_ignore_ascii_case(b"SIP/")
        && number(parts.next())
        && number(parts.next())
        && parts.next().is_none()
}
