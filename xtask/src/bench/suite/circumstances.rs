//! On what machine, with what programs and of what commit something was measured.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::page::Table;
use crate::{
    setup,
    shell::{output, root},
};

/// What is unknown.
const UNKNOWN: &str = "unknown";

/// All that a figure depends on beside the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    virtualized: bool,
    memory_gib: u64,
    kernel: String,
    system: String,
    /// The programs that build what is measured, and that it is measured beside.
    programs: BTreeMap<String, String>,
}

/// Programs whose versions matter, and how each tells its own.
const PROGRAMS: [(&str, &str); 5] = [
    ("rustc", "-V"),
    ("kamailio", "-v"),
    ("sipp", "-v"),
    ("nginx", "-v"),
    ("nft", "--version"),
];

impl Machine {
    /// This one.
    pub(super) fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let mut programs: BTreeMap<String, String> = PROGRAMS
            .iter()
            .filter_map(|(program, flag)| Some(((*program).to_owned(), version(program, flag)?)))
            .collect();
        let compiler = setup::find_compiler().ok().flatten();
        if let Some(version) = compiler.and_then(|(rustc, _)| version(&rustc, "-V")) {
            programs.insert("rustc for the XDP program".to_owned(), version);
        }
        Self {
            cpu: field(&cpuinfo, "model name"),
            cores: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            virtualized: field(&cpuinfo, "flags")
                .split(' ')
                .any(|flag| flag == "hypervisor"),
            memory_gib: field(&read("/proc/meminfo"), "MemTotal")
                .split(' ')
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or(0)
                .div_ceil(1024 * 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: read("/etc/os-release")
                .lines()
                .find_map(|line| line.strip_prefix("PRETTY_NAME="))
                .unwrap_or(UNKNOWN)
                .trim_matches('"')
                .to_owned(),
            programs,
        }
    }

    /// In a line: what a reader must know to compare.
    pub(super) fn in_short(&self) -> String {
        let kind = if self.virtualized {
            ", a virtual machine"
        } else {
            ""
        };
        format!(
            "{}, {} cores{kind}, kernel {}",
            self.cpu, self.cores, self.kernel
        )
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(["", "machine"]);
        let kind = if self.virtualized {
            " (a virtual machine)"
        } else {
            ""
        };
        table.push(["CPU".to_owned(), format!("{}{kind}", self.cpu)]);
        table.push(["cores".to_owned(), self.cores.to_string()]);
        table.push(["memory".to_owned(), format!("{} GiB", self.memory_gib)]);
        table.push(["kernel".to_owned(), self.kernel.clone()]);
        table.push(["system".to_owned(), self.system.clone()]);
        for (program, version) in &self.programs {
            table.push([program, version]);
        }
        table
    }
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> String {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map_or(UNKNOWN, |(_, value)| value.trim())
        .to_owned()
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// The first line that a program says of itself, wherever it says it; some call that a failure.
fn version(program: impl AsRef<Path>, flag: &str) -> Option<String> {
    let said = Command::new(program.as_ref()).arg(flag).output().ok()?;
    let said = [said.stdout, said.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.trim_end_matches('.').to_owned())
}

/// The commit of the sources, and whether they differ from it. What this suite writes itself is not counted.
pub(super) fn commit() -> String {
    let git = |arguments: &[&str]| output(Command::new("git").current_dir(root()).args(arguments));
    let Ok(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return UNKNOWN.to_owned();
    };
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs", ":!README.md"])
        .is_ok_and(|changes| !changes.trim().is_empty());
    let remark = if changed {
        " with uncommitted changes"
    } else {
        ""
    };
    format!("{}{remark}", commit.trim())
}

/// Now, in UTC.
pub(super) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: AMD EPYC: 7\nmodel name\t: other\n";
        assert_eq!(field(text, "model name"), "AMD EPYC: 7");
        assert_eq!(field(text, "flags"), UNKNOWN);
    }

    #[test]
    fn this_machine_is_told() {
        let machine = Machine::here();
        assert!(machine.cores > 0);
        assert!(!machine.kernel.is_empty());
        let table = machine.table().markdown();
        assert!(table.contains(&machine.kernel), "{table}");
    }
}
