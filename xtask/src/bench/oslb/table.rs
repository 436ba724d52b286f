//! The report as an operator reads it.

use std::fmt::Write as _;

use super::{Report, plan::Case, play::Outcome};

/// One block for each case that was played.
pub(super) fn table(report: &Report) -> String {
    let mut text = String::new();
    for case in Case::ALL {
        let rows: Vec<&Outcome> = report
            .cases
            .iter()
            .filter(|outcome| outcome.run.case == case)
            .collect();
        if !rows.is_empty() {
            text += &block(case, &rows, report);
        }
    }
    text + "\nLBM: load balance metric, the sum of the busiest proxy's CPU over the sum of the mean, by samples of 1 s; a proxy that failed no longer counts\n"
}

fn block(case: Case, rows: &[&Outcome], report: &Report) -> String {
    let settings = &report.settings;
    let mut text = format!(
        "\ncase {case}: {}; {} calls/s of 1 s for {} s",
        case.title(),
        settings.rate(case),
        settings.seconds
    );
    // Writing to a String cannot fail.
    if case == Case::E {
        let _ = write!(
            text,
            "; each proxy has {:.0} % of a core, the hog is {} busy processes",
            settings.cpu_limit * 100.0,
            settings.hogs
        );
    }
    let _ = writeln!(
        text,
        "\n\n  {:<15} {:<8} {:<14} {:>7} {:>7} {:>8} {:>7}   CPU of the proxies",
        "box", "fault", "retransmission", "calls", "failed", "%", "LBM"
    );
    for row in rows {
        let cpu: Vec<String> = row
            .cpu
            .iter()
            .map(|load| format!("{:.1} %", load * 100.0))
            .collect();
        let _ = writeln!(
            text,
            "  {:<15} {:<8} {:<14} {:>7} {:>7} {:>8.2} {:>7.3}   {}",
            row.run.front,
            row.run.fault,
            if row.run.retransmission { "on" } else { "off" },
            row.calls,
            row.failed,
            row.failed as f64 * 100.0 / row.calls.max(1) as f64,
            row.lbm,
            cpu.join(", ")
        );
    }
    text
}
