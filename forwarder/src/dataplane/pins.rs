//! What is pinned, and where: a folder on a BPF file system, one below it for each ABI version.
//!
//! Maps, program and links that are pinned outlive the daemon: traffic goes on while it is away.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sip_forwarder_ebpf::abi::ABI_VERSION;
use thiserror::Error;

/// Magic number of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// How the names of pinned arrays of stages begin; a number follows.
const STAGES: &str = "stages-";

/// A fault with the pin folder.
#[derive(Debug, Error)]
pub enum PinsError {
    /// Not on a BPF file system.
    #[error("{0} is not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf")]
    NotBpfFs(PathBuf),
    /// An operation on the folder failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
}

/// The pin folder.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The folder at `root`. Nothing is made yet.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The folder of this ABI version's maps.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.root.join(format!("abi-{ABI_VERSION}"))
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where the link to an interface is pinned.
    #[must_use]
    pub fn link(&self, interface: &str) -> PathBuf {
        // A BPF file system refuses dots in names.
        self.root
            .join(format!("link-{}", interface.replace('.', ":")))
    }

    /// Returns where an array of stages is pinned that no daemon has used yet.
    #[must_use]
    pub fn new_stages(&self) -> PathBuf {
        let numbers = self.stages().filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix(STAGES)?.parse::<u64>().ok()
        });
        let next = numbers.max().map_or(0, |last| last + 1);
        self.root.join(format!("{STAGES}{next}"))
    }

    /// Forgets all arrays of stages but the one pinned at `kept`: no attached program uses them any
    /// more.
    pub fn remove_stages_but(&self, kept: &Path) -> Result<(), PinsError> {
        self.stages()
            .filter(|path| path != kept)
            .try_for_each(|path| remove(&path, |path| fs::remove_file(path)))
    }

    /// Returns where arrays of stages are pinned.
    fn stages(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(STAGES))
            .map(|entry| entry.path())
    }

    /// Is there anything pinned already, of whatever version?
    #[must_use]
    pub fn exist(&self) -> bool {
        fs::read_dir(&self.root).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Makes the folder, if its file system is right.
    pub fn create(&self) -> Result<(), PinsError> {
        if !on_bpf_fs(&self.root) {
            return Err(PinsError::NotBpfFs(self.root.clone()));
        }
        let maps = self.maps();
        fs::create_dir_all(&maps).map_err(|source| PinsError::Io {
            what: "create",
            path: maps,
            source,
        })
    }

    /// Folders of other versions' maps: an older or a newer daemon was here.
    #[must_use]
    pub fn other_versions(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("abi-"))
            .map(|entry| entry.path())
            .filter(|path| *path != self.maps())
            .collect()
    }

    /// Forgets the maps of other versions, which no program of ours reads any more.
    pub fn remove_other_versions(&self) -> Result<(), PinsError> {
        self.other_versions()
            .iter()
            .try_for_each(|path| remove(path, |path| fs::remove_dir_all(path)))
    }

    /// Interfaces whose links are pinned.
    #[must_use]
    pub fn linked_interfaces(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("link-")
                    .map(|name| name.replace(':', "."))
            })
            .collect()
    }

    /// Removes everything that is pinned here, links first, so that no packet meets half of it. The
    /// kernel detaches and frees what nobody else holds. True if there was anything.
    pub fn remove(&self) -> Result<bool, PinsError> {
        if !self.root.is_dir() {
            return Ok(false);
        }
        for interface in self.linked_interfaces() {
            remove(&self.link(&interface), |path| fs::remove_file(path))?;
        }
        remove(&self.root, |path| fs::remove_dir_all(path))?;
        Ok(true)
    }
}

fn remove(path: &Path, how: impl Fn(&Path) -> io::Result<()>) -> Result<(), PinsError> {
    match how(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PinsError::Io {
            what: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Is `path`, or the nearest folder above it that exists, on a BPF file system?
fn on_bpf_fs(path: &Path) -> bool {
    let Some(there) = path.ancestors().find(|p| p.exists()) else {
        return false;
    };
    let Ok(name) = std::ffi::CString::new(there.as_os_str().as_encoded_bytes()) else {
        return false;
    };
    // SAFETY: a zeroed statfs is valid, and the name ends with a zero.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        libc::statfs(name.as_ptr(), &raw mut stat) == 0 && stat.f_type == BPF_FS_MAGIC
    }
}
