//! The state file: what must survive a restart and a reboot for calls to find their backends again.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::control::{numbering::Numbering, service::Saved};

/// A fault with the state folder.
#[derive(Debug, Error)]
pub enum StateError {
    /// Reading or writing failed.
    #[error(
        "cannot {what} {path}: {source}; forwarder.state_dir must be a folder this user may write"
    )]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// The file is not ours, or damaged.
    #[error(
        "{path} is damaged: {source}; restore it, or move it away to start anew (the hash key changes: calls that are up may move)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: serde_json::Error,
    },
    /// Another daemon has the folder.
    #[error(
        "another sip-forwarder runs with {0}; stop it first, or give this one a state_dir, bpf_dir and api_socket of its own"
    )]
    Locked(PathBuf),
}

/// What the file holds.
///
/// What a newer daemon wrote beside what this one knows is ignored, so that one can go back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Key of the hash. Forwarders that share a cluster share it.
    pub hash_key: [u64; 2],
    /// Numbers of services and backends.
    pub numbering: Numbering,
    /// Homes, settle deadlines and orders of each service.
    #[serde(default)]
    pub services: BTreeMap<String, Saved>,
}

impl State {
    /// Of a forwarder that was never here before.
    #[must_use]
    pub fn new(hash_key: [u64; 2]) -> Self {
        Self {
            hash_key,
            numbering: Numbering::default(),
            services: BTreeMap::new(),
        }
    }
}

/// The state folder, locked: one daemon at a time.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the folder if need be, and locks it.
    pub fn lock(path: &Path) -> Result<Self, StateError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { what, path, source }
        };
        fs::create_dir_all(path).map_err(io("create", path))?;
        let file = path.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .map_err(io("open", &file))?;
        // SAFETY: the descriptor is open.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(StateError::Locked(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    fn file(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// Reads the state. `None`: there is none yet.
    pub fn read(&self) -> Result<Option<State>, StateError> {
        let path = self.file();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| StateError::Damaged { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Io {
                what: "read",
                path,
                source,
            }),
        }
    }

    /// Writes the state, whole or not at all, readable by its owner alone.
    pub fn write(&self, state: &State) -> Result<(), StateError> {
        let (path, new) = (self.file(), self.path.join("state.json.new"));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&serde_json::to_vec(state)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| StateError::Io {
            what: "write",
            path: path.clone(),
            source,
        })
    }
}

/// A new secret key.
pub fn new_hash_key() -> Result<[u64; 2], StateError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| StateError::Io {
            what: "read",
            path: path.to_owned(),
            source,
        })?;
    let [a, b] = [&bytes[..8], &bytes[8..]].map(|half| {
        half.iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    });
    Ok([a, b])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn state_survives_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::lock(folder.path()).unwrap();
        assert_eq!(dir.read().unwrap(), None);
        let state = State::new(new_hash_key().unwrap());
        dir.write(&state).unwrap();
        assert_eq!(dir.read().unwrap(), Some(state));
        let mode = fs::metadata(folder.path().join("state.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_folder_is_one_daemons_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::lock(folder.path()).unwrap();
        assert!(matches!(
            StateDir::lock(folder.path()),
            Err(StateError::Locked(_))
        ));
        drop(first);
        StateDir::lock(folder.path()).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::lock(folder.path()).unwrap();
        fs::write(folder.path().join("state.json"), "{").unwrap();
        assert!(matches!(dir.read(), Err(StateError::Damaged { .. })));
    }
}
