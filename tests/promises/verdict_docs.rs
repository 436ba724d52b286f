//! docs/VERDICTS.md tells every verdict as the code does.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_ebpf::verdict::TABLE;

use crate::support::{anywhere, root};

pub(crate) fn trials() -> Vec<Trial> {
    vec![anywhere(
        "verdict_docs::the_document_is_the_table",
        the_document_is_the_table,
    )]
}

fn the_document_is_the_table() -> Result<()> {
    let path = root().join("docs/VERDICTS.md");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| {
            line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit())
        })
        .collect();
    for (row, entry) in rows.iter().zip(TABLE) {
        let outcome = entry.outcome.name();
        let wanted = format!(
            "| {} | `{}` | {outcome} | {} |",
            entry.verdict.number(),
            entry.name,
            entry.help
        );
        ensure!(
            *row == wanted,
            "docs/VERDICTS.md says\n{row}\nbut the code says\n{wanted}"
        );
    }
    ensure!(
        rows.len() == TABLE.len(),
        "docs/VERDICTS.md has {} verdicts, the code {}",
        rows.len(),
        TABLE.len()
    );
    Ok(())
}
