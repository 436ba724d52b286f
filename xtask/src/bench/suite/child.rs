//! Runs one bench in a process of its own, so that whatever becomes of it, the others have their turn.

use std::{
    env,
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{ChildStderr, Command, ExitStatus, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use super::{
    circumstances::{self, Machine},
    saved::{End, Run, Saved},
};

/// Runs `cargo xtask bench NAME --json` to its end.
pub(super) fn run(bench: &str) -> anyhow::Result<Saved> {
    let (began, start) = (circumstances::now(), Instant::now());
    let xtask = env::current_exe().context("cannot find this program's file")?;
    let mut child = Command::new(xtask)
        .args(["bench", bench, "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start bench {bench}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = stdout.zip(stderr).context("the bench has no pipes")?;
    let (printed, said) = thread::scope(|scope| {
        let said = scope.spawn(|| last_words(stderr));
        let mut printed = Vec::new();
        let read = BufReader::new(stdout).read_to_end(&mut printed);
        let said = said.join().map_err(|_| anyhow!("reading stderr panicked"));
        read.context("cannot read what the bench prints")
            .and(said)
            .map(|said| (printed, said))
    })?;
    let status = child.wait().context("the bench was lost")?;
    let run = Run {
        began,
        seconds: start.elapsed().as_secs_f64(),
        commit: circumstances::commit(),
        machine: Machine::here(),
    };
    Ok(judge(status, &printed, said, run))
}

/// Passes on what a bench says, and keeps its last line.
fn last_words(stderr: ChildStderr) -> String {
    let mut last = String::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let mut ours = std::io::stderr().lock();
        // Nobody may be listening; the bench goes on.
        let _ = ours.write_all(&line).and_then(|()| ours.write_all(b"\n"));
        let line = String::from_utf8_lossy(&line);
        if !line.trim().is_empty() {
            line.trim().clone_into(&mut last);
        }
    }
    last
}

fn judge(status: ExitStatus, printed: &[u8], said: String, run: Run) -> Saved {
    let result = last_object(printed);
    let said = said
        .strip_prefix("xtask: ")
        .map(str::to_owned)
        .unwrap_or(said);
    let (end, reason) = match (status.code(), &result) {
        (Some(0), Some(_)) => (End::Done, None),
        (Some(1), Some(_)) => (End::Failed, None),
        (Some(3), Some(_)) => (End::NotMeasured, None),
        (Some(0 | 1 | 3), None) => (
            End::CouldNotRun,
            Some("it printed no JSON object on its last line".to_owned()),
        ),
        (Some(2), _) => (End::CouldNotRun, Some(said)),
        _ => (End::CouldNotRun, Some(format!("{status}: {said}"))),
    };
    Saved {
        end,
        reason,
        run: Some(run),
        result,
    }
}

fn last_object(printed: &[u8]) -> Option<Value> {
    let line = printed
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.trim_ascii().is_empty())?;
    serde_json::from_slice(line).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use serde_json::json;

    use super::*;

    fn judged(code: i32, printed: &str) -> Saved {
        let run = Run {
            began: String::new(),
            seconds: 0.0,
            commit: String::new(),
            machine: Machine::here(),
        };
        let said = "xtask: the lab needs root".to_owned();
        judge(
            ExitStatus::from_raw(code << 8),
            printed.as_bytes(),
            said,
            run,
        )
    }

    #[test]
    fn the_last_line_is_the_result() {
        let saved = judged(0, "some words\n{\"ratio\": 1}\n\n");
        assert_eq!(saved.end, End::Done);
        assert_eq!(saved.result, Some(json!({"ratio": 1})));
    }

    #[test]
    fn the_exit_status_tells_the_end() {
        assert_eq!(judged(1, "{}").end, End::Failed);
        assert_eq!(judged(3, "{}").end, End::NotMeasured);
        let silent = judged(0, "no object");
        assert_eq!(silent.end, End::CouldNotRun);
        let without_root = judged(2, "");
        assert_eq!(without_root.end, End::CouldNotRun);
        assert_eq!(without_root.reason.unwrap(), "the lab needs root");
        let crashed = judged(101, "{}");
        assert_eq!(crashed.end, End::CouldNotRun);
        assert!(crashed.reason.unwrap().contains("101"));
    }
}
