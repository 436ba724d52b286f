use serde_json::{Value, json};

use super::*;
use crate::bench::suite::{
    pages,
    saved::{End, Run},
};

fn section(bench: &str, end: End, result: Option<Value>) -> Section {
    let saved = Saved {
        end,
        reason: (end == End::CouldNotRun).then(|| "the lab needs root".to_owned()),
        run: Some(Run {
            began: "2026-11-20T20:00:00Z".to_owned(),
            seconds: 61.4,
            commit: "0123456789ab".to_owned(),
            machine: Machine::here(),
        }),
        result,
    };
    Section::new(pages::find(bench).unwrap(), saved)
}

fn sections() -> Vec<Section> {
    let sipp = json!({"direct_cps": 10_000.0, "ours_cps": 9_700.0, "ratio": 0.97});
    let pps = json!({"bare_pps": 1e7, "ours_pps": 5e6, "ratio": 0.5, "lost": 0});
    vec![
        section("sipp", End::Done, Some(sipp)),
        section("pps", End::Failed, Some(pps)),
        section("churn", End::CouldNotRun, None),
    ]
}

#[test]
fn nothing_is_hidden() {
    let text = markdown(&sections());
    for wanted in [
        "| [sipp](#sipp) | kept: 1 of 1 promises |",
        "| [pps](#pps) | not kept: 1 of 2 promises |",
        "| [churn](#churn) | could not run: the lab needs root |",
        "Not part of this report: `fastpath`, `growth`, `peers`,",
        "**Could not run: the lab needs root**",
        "| packets/s on one core, of the bare redirect's | ≥ 0.60× | 0.50× | **not kept** |",
        "![Packets per second through veth](plots/pps.svg)",
        "`cargo xtask bench sipp`, 2026-11-20T20:00:00Z, 61 s, commit 0123456789ab.",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    assert!(!text.contains("plots/churn.svg"), "{text}");
    assert!(!text.contains("On another machine"), "{text}");
}

#[test]
fn another_machine_is_told_where_its_results_are() {
    let mut sections = sections();
    let other: Machine = serde_json::from_value(json!({
        "cpu": "Z80", "cores": 1, "virtualized": false, "memory_gib": 1, "kernel": "6.1.0",
        "system": "CP/M", "programs": {},
    }))
    .unwrap();
    sections[1].saved.run.as_mut().unwrap().machine = other;
    let text = markdown(&sections);
    let (_, pps) = text.split_once("## pps").unwrap();
    assert!(pps.contains("| CPU | Z80 |"), "{text}");
}

#[test]
fn the_readme_keeps_all_but_the_figures() {
    let readme = format!("# x\n\n{BEGIN}\nold\n{END}\n\n## more\n");
    let once = with_figures(&readme, &figures(&sections())).unwrap();
    assert!(once.starts_with("# x\n\n<!--"), "{once}");
    assert!(once.ends_with("-->\n\n## more\n"), "{once}");
    assert!(!once.contains("old"), "{once}");
    let wanted =
        "| SIPp's highest clean rate, calls per second | 9,700 | 10,000 with nothing between |";
    assert!(once.contains(wanted), "{once}");
    assert!(once.contains("see `pps`, `churn`"), "{once}");
    assert_eq!(with_figures(&once, &figures(&sections())).unwrap(), once);
}

#[test]
fn a_readme_without_its_lines_is_refused() {
    let error = with_figures("# x\n", "").unwrap_err().to_string();
    assert!(error.contains(BEGIN), "{error}");
}

#[test]
fn the_projects_readme_has_its_lines() {
    check(&crate::shell::root()).unwrap();
}

#[test]
fn all_files_are_written_and_old_plots_go() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::write(root.join("README.md"), format!("{BEGIN}\n{END}\n")).unwrap();
    fs::create_dir_all(root.join(PLOTS)).unwrap();
    fs::write(root.join("docs/plots/peers.svg"), "<svg/>").unwrap();
    let document = write(root, &sections()).unwrap();
    assert!(
        fs::read_to_string(document)
            .unwrap()
            .starts_with("# Benchmarks\n")
    );
    assert!(root.join("docs/plots/sipp.svg").is_file());
    assert!(!root.join("docs/plots/peers.svg").exists());
    assert!(!root.join("docs/plots/churn.svg").exists());
}

#[test]
fn prose_is_wrapped_between_words() {
    let text = wrapped(&"word ".repeat(100));
    assert!(
        text.lines()
            .all(|line| line.len() <= WIDTH && !line.ends_with(' '))
    );
    assert_eq!(text.split_whitespace().count(), 100);
}
