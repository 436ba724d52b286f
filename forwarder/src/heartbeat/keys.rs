//! Keys: one master key for all forwarders, and from it a key of its own for each agent, so that a
//! proxy that was broken into can speak for itself only.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of a key, and of a signature.
pub const LENGTH: usize = 32;
/// What the derivation of an agent's key begins with, so that no other use of the master key can meet
/// it.
const DERIVATION: &[u8] = b"sip-forwarder agent key 1\0";
/// Access of group and others.
const FOREIGN_ACCESS: u32 = 0o077;

/// A fault with a key file.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Reading or writing failed.
    #[error("cannot {what} the key file {path}: {source}; {advice}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The fault.
        source: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// Somebody else than the owner may read or write it.
    #[error(
        "the key file {path} has mode {mode:04o}: others than its owner have access; chmod 0600 {path}"
    )]
    Access {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no key.
    #[error(
        "the key file {0} must hold 64 hexadecimal digits on one line; make it anew with `sip-forwarder key new` or `key derive`"
    )]
    Form(PathBuf),
    /// The system gives no random bytes.
    #[error("cannot draw random bytes: {0}; look at the kernel's log")]
    Random(getrandom::Error),
}

/// 32 secret bytes, wiped when dropped.
#[derive(Clone)]
struct Secret(Zeroizing<[u8; LENGTH]>);

impl Secret {
    fn random() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        getrandom::fill(&mut *bytes).map_err(KeyError::Random)?;
        Ok(Self(bytes))
    }

    fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io {
            what: "read",
            path: path.to_owned(),
            source,
            advice: "give the right path, and make this user its owner",
        };
        let file = File::open(path).map_err(io)?;
        // Of the open file: the path may name another one by now.
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
        if mode & FOREIGN_ACCESS != 0 {
            return Err(KeyError::Access {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = Zeroizing::new(Vec::with_capacity(2 * LENGTH + 2));
        file.take(2 * LENGTH as u64 + 2)
            .read_to_end(&mut text)
            .map_err(io)?;
        Self::from_hex(&text).ok_or_else(|| KeyError::Form(path.to_owned()))
    }

    fn from_hex(text: &[u8]) -> Option<Self> {
        let digits = text.strip_suffix(b"\n").unwrap_or(text);
        if digits.len() != 2 * LENGTH {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let mut bytes = Zeroizing::new([0; LENGTH]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Some(Self(bytes))
    }

    fn to_hex(&self) -> Zeroizing<String> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // All the room at once: growing would leave parts of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(2 * LENGTH + 1));
        for byte in *self.0 {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 0xf)]));
        }
        text.push('\n');
        text
    }

    fn save(&self, path: &Path) -> Result<(), KeyError> {
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(self.to_hex().as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| KeyError::Io {
            what: "write",
            path: path.to_owned(),
            advice: match source.kind() {
                io::ErrorKind::AlreadyExists => {
                    "a key is never overwritten: move the old one away, or give another name"
                }
                _ => "name a file in a folder this user may write",
            },
            source,
        })
    }
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Secret);

        impl $name {
            /// Reads a key file; only its owner may have access to it.
            pub fn load(path: &Path) -> Result<Self, KeyError> {
                Secret::load(path).map(Self)
            }

            /// Writes a new file, readable by its owner alone. A file that is there is left alone.
            pub fn save(&self, path: &Path) -> Result<(), KeyError> {
                self.0.save(path)
            }

            /// What the file holds: 64 hexadecimal digits and a newline.
            #[must_use]
            pub fn to_hex(&self) -> Zeroizing<String> {
                self.0.to_hex()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }
    };
}

key! {
    /// The key all forwarders share, from which those of agents are derived.
    MasterKey
}
key! {
    /// The key of one agent.
    AgentKey
}

impl MasterKey {
    /// Draws a new one.
    pub fn random() -> Result<Self, KeyError> {
        Secret::random().map(Self)
    }

    /// The key of the agent beside `backend` of `service`. Names hold no `/`, so that no two agents
    /// have the same key.
    #[must_use]
    pub fn agent_key(&self, service: &str, backend: &str) -> AgentKey {
        let label = [service.as_bytes(), b"/", backend.as_bytes()];
        let key = Signer::new(&self.0).sign([DERIVATION].into_iter().chain(label));
        AgentKey(Secret(Zeroizing::new(key)))
    }
}

/// HMAC-SHA256 (RFC 2104, FIPS 180-4) under one key, whose first blocks are computed already.
#[derive(Clone)]
pub(super) struct Signer(Hmac<Sha256>);

impl Signer {
    fn new(secret: &Secret) -> Self {
        // RFC 2104 fills a shorter key up to a block with zeros.
        let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
        block[..LENGTH].copy_from_slice(&*secret.0);
        let signer = Self(Hmac::new(&block));
        block.zeroize();
        signer
    }

    pub(super) fn of(key: &AgentKey) -> Self {
        Self::new(&key.0)
    }

    /// One under a key that nobody knows, and that ends with this process.
    pub(super) fn random() -> Result<Self, KeyError> {
        Ok(Self::new(&Secret::random()?))
    }

    /// The signature over `parts`, one after the other.
    pub(super) fn sign<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; LENGTH] {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Is `signature` the one over `bytes`? The time it takes does not tell where they differ.
    pub(super) fn verify(&self, bytes: &[u8], signature: &[u8; LENGTH]) -> bool {
        let mut mac = self.0.clone();
        mac.update(bytes);
        mac.verify_slice(signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_survives_its_file_which_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let key = MasterKey::random().unwrap();
        key.save(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(*MasterKey::load(&path).unwrap().to_hex(), *key.to_hex());
        let fault = MasterKey::random().unwrap().save(&path).unwrap_err();
        assert!(fault.to_string().contains("never overwritten"), "{fault}");
        assert_eq!(*MasterKey::load(&path).unwrap().to_hex(), *key.to_hex());
    }

    #[test]
    fn a_file_others_can_read_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        MasterKey::random().unwrap().save(&path).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let fault = MasterKey::load(&path).unwrap_err().to_string();
            assert!(
                fault.contains(&format!("chmod 0600 {}", path.display())),
                "{fault}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        MasterKey::load(&path).unwrap();
    }

    #[test]
    fn anything_but_64_digits_is_no_key() {
        let good = "ab".repeat(32);
        assert!(Secret::from_hex(good.as_bytes()).is_some());
        assert!(Secret::from_hex(format!("{good}\n").as_bytes()).is_some());
        for bad in [
            "",
            &good[1..],
            &format!("{good}0"),
            &format!("{good}\n\n"),
            &"xy".repeat(32),
        ] {
            assert!(Secret::from_hex(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn derivation_is_pinned_and_differs_by_name() {
        // python3 -c 'import hmac; print(hmac.new(bytes([0xab])*32,
        //   b"sip-forwarder agent key 1\0carrier/p1", "sha256").hexdigest())'
        let master = MasterKey(Secret::from_hex("ab".repeat(32).as_bytes()).unwrap());
        let p1 = master.agent_key("carrier", "p1").to_hex();
        assert_eq!(
            p1.trim(),
            "35efdbb6c856b2599816c2a387ae063202785707c7e584135dd8ab9a29d0c290"
        );
        assert_ne!(*p1, *master.agent_key("carrier", "p2").to_hex());
        assert_eq!(format!("{master:?}"), "MasterKey(secret)");
    }
}
