//! The token that allows changes over TCP.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// Shortest token, in characters: less can be guessed over a network.
const SHORTEST: usize = 16;
/// Largest file that is read, in bytes: a token is a line.
const FILE_LIMIT: u64 = 4_096;

/// Why a token file is no good.
#[derive(Debug, Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("cannot read the token file {path}: {source}; correct forwarder.api_token_file")]
    Read {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// Others could read it too.
    #[error(
        "the token file {path} has mode {mode:04o}, so others than its owner may use it; make it private: chmod 0600 {path}"
    )]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds something else than a token.
    #[error(
        "the token file {path} must hold one line of at least {SHORTEST} visible ASCII characters; make one with `openssl rand -hex 32`"
    )]
    NoToken {
        /// The file.
        path: PathBuf,
    },
}

/// A token that is long enough.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Reads it from a file that only its owner may use (mode 0600 or 0400). White space around it
    /// does not count.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let fault = |source| TokenError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(fault)?;
        let mode = file.metadata().map_err(fault)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenError::NotPrivate {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = String::new();
        file.take(FILE_LIMIT)
            .read_to_string(&mut text)
            .map_err(fault)?;
        Self::new(&text).ok_or_else(|| TokenError::NoToken {
            path: path.to_owned(),
        })
    }

    /// `None` if it is too short, or cannot stand in a header.
    fn new(text: &str) -> Option<Self> {
        let token = text.trim();
        let good = token.len() >= SHORTEST && token.bytes().all(|b| b.is_ascii_graphic());
        good.then(|| Self(token.to_owned()))
    }

    /// Is `presented` this token? The time it takes tells nothing about its characters.
    pub(super) fn is(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(text: &str, mode: u32) -> Result<Token, TokenError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Token::read(&path)
    }

    #[test]
    fn a_private_file_with_a_long_token_is_read() {
        let token = file(" 0123456789abcdef\n", 0o600).unwrap();
        assert!(token.is(b"0123456789abcdef"));
        assert!(!token.is(b"0123456789abcdeF"));
        assert!(!token.is(b"0123456789abcdef "));
        assert!(!token.is(b""));
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(file("0123456789abcdef", 0o400).is_ok());
    }

    #[test]
    fn what_others_may_read_is_no_secret() {
        for mode in [0o644, 0o640, 0o602, 0o604] {
            let error = file("0123456789abcdef", mode).unwrap_err();
            assert!(matches!(error, TokenError::NotPrivate { mode: m, .. } if m == mode));
            assert!(error.to_string().contains(&format!("mode 0{mode:o}")));
        }
    }

    #[test]
    fn short_and_odd_tokens_are_refused() {
        for text in [
            "0123456789abcde",
            "",
            "two words, long enough",
            "0123456789abcdé…",
        ] {
            assert!(
                matches!(file(text, 0o600), Err(TokenError::NoToken { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Token::read(Path::new("/nowhere/token")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/token"), "{error}");
    }
}
