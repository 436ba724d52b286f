//! The labs this process has up, and the thread that takes them down on Ctrl-C or SIGTERM.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::teardown;

/// What a shell expects of a command that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Lab id → the processes started in it.
static LABS: LazyLock<Mutex<HashMap<String, Vec<u32>>>> = LazyLock::new(Mutex::default);

/// Remembers a lab before anything of it exists.
pub(super) fn add(id: &str) -> Result<()> {
    watch_signals()?;
    labs().insert(id.to_owned(), Vec::new());
    Ok(())
}

/// Forgets a lab and returns the processes that are still known.
pub(super) fn remove(id: &str) -> Vec<u32> {
    labs().remove(id).unwrap_or_default()
}

/// Remembers a process of a lab.
pub(super) fn track(id: &str, pid: u32) {
    if let Some(pids) = labs().get_mut(id) {
        pids.push(pid);
    }
}

/// Forgets a process that has been waited for; its pid may be another's from now on.
pub(super) fn untrack(id: &str, pid: u32) {
    if let Some(pids) = labs().get_mut(id) {
        pids.retain(|known| *known != pid);
    }
}

fn labs() -> MutexGuard<'static, HashMap<String, Vec<u32>>> {
    // Every change is one insert or remove: a panic elsewhere cannot leave it half done.
    LABS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch_signals() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = start_watching());
    result.context("cannot watch for Ctrl-C, and a lab would be left behind")
}

fn start_watching() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new()
        .name("lab-signals".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                // The lock is kept until the end, so that nobody starts a process in a lab that is going.
                let mut labs = labs();
                for (id, pids) in labs.drain() {
                    teardown::destroy(&id, &pids);
                }
                std::process::exit(INTERRUPTED);
            }
        })?;
    Ok(())
}
