//! A Unix socket for the daemon's API and for an agent's orders.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
};

use tokio::net::UnixListener;

/// Owner and group may ask.
const MODE: u32 = 0o660;

/// Opens a socket, mode 0660, and makes its folder if need be. One that a dead process left is
/// replaced; anything else that is there is a fault.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}
