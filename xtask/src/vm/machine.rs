//! The virtual machine: QEMU without KVM, with the lab's network cards, for as long as its tests take.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::{cards::Cards, kernel::Kernel, results::Results};
use crate::shell::say;

const CPUS: u32 = 2;
const MEMORY_MB: u32 = 3_072;
/// How many lines of the console are shown when something went wrong.
const CONSOLE_TAIL: usize = 40;

/// What to boot.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: &'a Path,
    pub(super) cards: &'a Cards,
    /// Where the console's output goes.
    pub(super) console: PathBuf,
    /// How long nothing may be told.
    pub(super) silence: Duration,
}

impl Machine<'_> {
    /// Boots it and collects what it tells until it ends, panics or hangs.
    pub(super) fn run(&self) -> anyhow::Result<Results> {
        let mut qemu = Qemu(
            self.command()
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start qemu-system-x86_64")?,
        );
        let lines = lines_of(&mut qemu.0)?;
        let mut results = Results::default();
        loop {
            match lines.recv_timeout(self.silence) {
                Ok(line) => results
                    .take(&line)
                    .iter()
                    .for_each(|shown| println!("{shown}")),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    say(&format!(
                        "no result for {} s: the machine hangs",
                        self.silence.as_secs()
                    ));
                    break;
                }
            }
        }
        if !results.complete() {
            say(&format!(
                "Linux {} ended before its tests did; its console ({}) ends with\n{}",
                self.kernel.version,
                self.console.display(),
                self.console_tail()
            ));
        }
        Ok(results)
    }

    fn command(&self) -> Command {
        let mut command = self.cards.wrapper("qemu-system-x86_64");
        command
            // /dev/kvm may be there and not work, as in a virtual machine.
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", &CPUS.to_string(), "-m", &MEMORY_MB.to_string()])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(self.initramfs)
            // A panic ends QEMU, which is not to reboot.
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
            .args(self.cards.arguments());
        command
    }

    fn console_tail(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_TAIL)..].join("\n")
    }
}

/// QEMU, which ends with this value at the latest.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends the lines that a child prints, from a thread of its own.
fn lines_of(child: &mut Child) -> anyhow::Result<mpsc::Receiver<String>> {
    let Some(stdout) = child.stdout.take() else {
        bail!("QEMU has no stdout");
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            if sender
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
            line.clear();
        }
    });
    Ok(receiver)
}
