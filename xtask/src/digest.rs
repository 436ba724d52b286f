//! The digest by which the daemon's build script knows that the XDP program is that of its sources.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

include!("../../forwarder/source_digest.rs");

/// The digest of the sources in a folder.
pub(crate) fn of(sources: &Path) -> String {
    source_digest(sources)
}
