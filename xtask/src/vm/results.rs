//! What the virtual machine tells, one JSON object a line, and what it makes of the tests that were asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::tally::Tally;

/// One line.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Line {
    /// The machine is up.
    Machine {
        /// What `uname -r` says.
        kernel: String,
        /// The drivers of its interfaces.
        drivers: Vec<String>,
    },
    /// A test began or ended; the test program's own line.
    Test {
        name: String,
        event: String,
        #[serde(default)]
        stdout: String,
    },
    /// A test program ended, or all tests of one did; the test program's own line.
    Suite {
        #[serde(default)]
        exec_time: f64,
    },
    /// The test program was killed for its time limit, or crashed.
    Lost { name: String, status: i32 },
    /// All tests ran.
    End,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// A test and how it ended.
#[derive(Debug, Serialize)]
pub(super) struct Tested {
    pub(super) name: String,
    pub(super) result: Verdict,
}

/// The results of one kernel.
#[derive(Debug, Serialize)]
pub(super) struct KernelReport {
    pub(super) kernel: String,
    pub(super) drivers: Vec<String>,
    pub(super) tests: Vec<Tested>,
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
}

/// Collects lines until the machine is done.
#[derive(Debug, Default)]
pub(super) struct Results {
    kernel: String,
    drivers: Vec<String>,
    verdicts: BTreeMap<String, Verdict>,
    /// What to show of the test that ended last, whose time comes with the line behind it.
    last: Option<(String, String)>,
    ended: bool,
}

impl Results {
    /// Takes one line, and returns what to show of it.
    pub(super) fn take(&mut self, line: &str) -> Option<String> {
        // What is not JSON is a fault of the console, and the test will be missing.
        match serde_json::from_str(line.trim()).ok()? {
            Line::Machine { kernel, drivers } => {
                let shown = format!("Linux {kernel}, drivers: {}", drivers.join(", "));
                (self.kernel, self.drivers) = (kernel, drivers);
                Some(shown)
            }
            Line::Test {
                name,
                event,
                stdout,
            } => {
                self.ended_with(name, &event, &stdout);
                None
            }
            Line::Suite { exec_time } => {
                let (headline, more) = self.last.take()?;
                Some(format!("{headline} ({exec_time:.1} s){more}"))
            }
            Line::Lost { name, status } => {
                self.verdicts.insert(name.clone(), Verdict::Failed);
                let why = match status {
                    124 | 137 | 143 => "took longer than it may".to_owned(),
                    other => format!("ended with status {other}"),
                };
                Some(format!("test {name} ... FAILED\n{name} {why}"))
            }
            Line::End => {
                self.ended = true;
                None
            }
        }
    }

    fn ended_with(&mut self, name: String, event: &str, stdout: &str) {
        let (verdict, shown) = match event {
            "ok" => (Verdict::Passed, "ok"),
            "failed" => (Verdict::Failed, "FAILED"),
            "ignored" => (Verdict::Skipped, "ignored"),
            _ => return,
        };
        let more = match stdout.trim_end() {
            "" => String::new(),
            text => format!("\n{text}"),
        };
        self.last = Some((format!("test {name} ... {shown}"), more));
        self.verdicts.insert(name, verdict);
    }

    /// Tells whether the machine said that all tests ran.
    pub(super) fn complete(&self) -> bool {
        self.ended
    }

    /// Makes the report. A test without a result has failed.
    pub(super) fn report(self, wanted: &[String], version: &str) -> KernelReport {
        let result = |name: &String| self.verdicts.get(name).copied().unwrap_or(Verdict::Failed);
        let tests: Vec<_> = wanted
            .iter()
            .map(|name| Tested {
                name: name.clone(),
                result: result(name),
            })
            .collect();
        let count = |verdict| tests.iter().filter(|test| test.result == verdict).count() as u64;
        let kernel = if self.kernel.is_empty() {
            version.to_owned()
        } else {
            self.kernel
        };
        KernelReport {
            kernel,
            drivers: self.drivers,
            passed: count(Verdict::Passed),
            failed: count(Verdict::Failed),
            skipped: count(Verdict::Skipped),
            tests,
        }
    }
}

impl KernelReport {
    pub(super) fn tally(&self) -> Tally {
        Tally {
            passed: self.passed,
            failed: self.failed,
            skipped: self.skipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_without_a_result_have_failed() {
        let mut results = Results::default();
        for line in [
            r#"{"type":"machine","kernel":"6.1.0-56-cloud-amd64","drivers":["veth","virtio_net"]}"#,
            r#"{ "type": "suite", "event": "started", "test_count": 1 }"#,
            r#"{ "type": "test", "event": "started", "name": "a" }"#,
            r#"{ "type": "test", "name": "a", "event": "ok" }"#,
            r#"{ "type": "suite", "event": "ok", "passed": 1, "failed": 0, "ignored": 0, "measured": 0, "filtered_out": 9, "exec_time": 0.5 }"#,
            r#"{ "type": "test", "name": "b", "event": "failed", "stdout": "Error: \"no\"\n" }"#,
            r#"{ "type": "test", "name": "c", "event": "ignored" }"#,
            r#"{"type":"lost","name":"d","status":124}"#,
            "[  1.0] noise of the kernel",
        ] {
            results.take(line);
        }
        assert!(!results.complete());
        let wanted = ["a", "b", "c", "d", "e"].map(str::to_owned);
        let report = results.report(&wanted, "unknown");
        assert_eq!(report.kernel, "6.1.0-56-cloud-amd64");
        assert_eq!(report.tally().to_string(), "1 passed, 3 failed, 1 skipped");
    }
}
