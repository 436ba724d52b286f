//! Removing a lab: by its handle, after a signal, or for a process that died.

use std::fs;
use std::path::PathBuf;

use super::{cgroup, namespace, process};

/// The lab's directory for logs and configurations.
pub(super) fn lab_dir(id: &str) -> PathBuf {
    std::env::temp_dir().join(format!("sipfw-{id}"))
}

/// The lab's directory for pinned maps and links.
pub(super) fn bpf_dir(id: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/sipfw-{id}"))
}

/// The names of all such directories, of any lab.
pub(super) fn directory_names() -> Vec<String> {
    [lab_dir(""), bpf_dir("")]
        .into_iter()
        .chain(cgroup::folders(""))
        .filter_map(|path| fs::read_dir(path.parent()?).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// Kills `pids` and whatever else runs in the lab, then removes namespaces, pins and files. What cannot be removed
/// is said on stderr: there is nobody left to hand an error to.
pub(super) fn destroy(id: &str, pids: &[u32]) {
    for pid in pids {
        process::signal(*pid, libc::SIGKILL);
    }
    let names = namespace::names_of(id).unwrap_or_default();
    if !names.is_empty() {
        for pid in namespace::processes_in(&names) {
            process::signal(pid, libc::SIGKILL);
        }
        namespace::remove(&names);
    }
    cgroup::remove_all(id);
    remove_tree(&bpf_dir(id));
    remove_tree(&lab_dir(id));
}

fn remove_tree(path: &PathBuf) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("lab: cannot remove {}: {error}", path.display());
    }
}
