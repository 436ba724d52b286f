//! Daemons of older revisions, which tests upgrade from.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The environment variable that names the folder of old programs, instead of `target/revisions` in the workspace.
pub const FOLDER: &str = "SIP_FORWARDER_REVISIONS";

/// Commit ids of the last revision of each layout of the maps that was ever pinned, with the layout's version.
/// When the layout changes, the last commit before it joins them.
pub const PINNED: [(u32, &str); 1] = [(3, "e77b98801e86929a0439f7ac1e89da27995531f6")];

/// Returns the daemon of a revision, if it is built.
#[must_use]
pub fn daemon(workspace: &Path, commit: &str) -> Option<PathBuf> {
    let folder = env::var_os(FOLDER).map_or_else(|| workspace.join("target/revisions"), Into::into);
    let file = folder.join(commit).join("sip-forwarder");
    file.is_file().then_some(file)
}

/// Returns the characters of a commit id that tell it from others.
#[must_use]
pub fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}
