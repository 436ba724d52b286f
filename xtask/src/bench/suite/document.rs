//! `docs/BENCHMARKS.md`, its plots, and the figures in the README.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::{
    circumstances::Machine,
    draw,
    page::{Promise, Table},
    pages::PAGES,
    saved::Saved,
    section::{Section, Standing},
};

/// How long a line of prose may be.
const WIDTH: usize = 120;
/// The README's lines around the figures.
const BEGIN: &str = "<!-- figures of cargo xtask bench all --report: begin -->";
const END: &str = "<!-- figures of cargo xtask bench all --report: end -->";
const DOCUMENT: &str = "docs/BENCHMARKS.md";
const PLOTS: &str = "docs/plots";

/// Can the report be written? To be asked before hours of measuring.
pub(super) fn check(root: &Path) -> anyhow::Result<()> {
    with_figures(&read(&root.join("README.md"))?, "").map(drop)
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Writes all of it below a folder, the workspace's.
pub(super) fn write(root: &Path, sections: &[Section]) -> anyhow::Result<PathBuf> {
    let plots = root.join(PLOTS);
    fs::create_dir_all(&plots).with_context(|| format!("cannot create {}", plots.display()))?;
    for page in &PAGES {
        let section = sections
            .iter()
            .find(|section| section.page.name == page.name);
        plot(&plots.join(page.name).with_extension("svg"), section)?;
    }
    let document = root.join(DOCUMENT);
    put(&document, &markdown(sections))?;
    let readme = root.join("README.md");
    let text =
        fs::read_to_string(&readme).with_context(|| format!("cannot read {}", readme.display()))?;
    put(&readme, &with_figures(&text, &figures(sections))?)?;
    Ok(document)
}

/// Draws a bench's chart, or takes away one of an earlier report.
fn plot(file: &Path, section: Option<&Section>) -> anyhow::Result<()> {
    let chart = section
        .and_then(|section| section.shown.as_ref())
        .and_then(|shown| shown.chart.as_ref());
    match chart {
        Some(chart) => put(file, &draw::svg(chart)?),
        None if file.exists() => {
            fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))
        }
        None => Ok(()),
    }
}

fn put(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The document's text.
fn markdown(sections: &[Section]) -> String {
    let machine = first_machine(sections);
    let mut blocks = vec![
        "# Benchmarks".to_owned(),
        wrapped(
            "Written by `cargo xtask bench all --report`, as root; edits are lost. What something is compared with is measured in \
             the same run, by turns with it. Judge by the ratios: figures of another machine, or of a busy one, are others.",
        ),
        overview(sections).markdown().trim_end().to_owned(),
    ];
    let left_out = left_out(sections);
    if !left_out.is_empty() {
        blocks.push(wrapped(&format!(
            "Not part of this report: {}.",
            left_out.join(", ")
        )));
    }
    if let Some(machine) = machine {
        blocks.push("## The machine".to_owned());
        blocks.push(machine.table().markdown().trim_end().to_owned());
    }
    for section in sections {
        blocks.extend(section_blocks(section, machine));
    }
    blocks.join("\n\n") + "\n"
}

fn first_machine(sections: &[Section]) -> Option<&Machine> {
    sections
        .iter()
        .find_map(|section| Some(&section.saved.run.as_ref()?.machine))
}

fn overview(sections: &[Section]) -> Table {
    let mut table = Table::new(["bench", "came to"]);
    for section in sections {
        let name = section.page.name;
        let link = format!("[{name}](#{name})");
        table.push([link, section.verdict()]);
    }
    table
}

fn left_out(sections: &[Section]) -> Vec<String> {
    PAGES
        .iter()
        .filter(|page| {
            !sections
                .iter()
                .any(|section| section.page.name == page.name)
        })
        .map(|page| format!("`{}`", page.name))
        .collect()
}

fn section_blocks(section: &Section, machine: Option<&Machine>) -> Vec<String> {
    let page = section.page;
    let mut blocks = vec![
        format!("## {}", page.name),
        wrapped(&format!("**{}.** {}", page.title, page.about)),
    ];
    if section.standing != Standing::Good {
        blocks.push(wrapped(&format!("**{}**", capital(&section.verdict()))));
    }
    if let Some(shown) = &section.shown {
        if shown.chart.is_some() {
            blocks.push(format!("![{}](plots/{}.svg)", page.title, page.name));
        }
        blocks.extend(
            shown
                .tables
                .iter()
                .map(|table| table.markdown().trim_end().to_owned()),
        );
        if !shown.promises.is_empty() {
            blocks.push(promises(&shown.promises).markdown().trim_end().to_owned());
        }
    }
    if !section.not_measured.is_empty() {
        let mut table = Table::new(["not measured", "why"]);
        for part in &section.not_measured {
            table.push([&part.part, &part.why]);
        }
        blocks.push(table.markdown().trim_end().to_owned());
    }
    blocks.push(wrapped(&origin(page.name, &section.saved)));
    let other = section
        .saved
        .run
        .as_ref()
        .map(|run| &run.machine)
        .filter(|own| Some(*own) != machine);
    if let Some(other) = other {
        blocks.push("On another machine, or with other programs:".to_owned());
        blocks.push(other.table().markdown().trim_end().to_owned());
    }
    blocks
}

fn promises(promises: &[Promise]) -> Table {
    let mut table = Table::new(["promise", "wanted", "found", ""]);
    for promise in promises {
        let kept = match (promise.measured, promise.kept) {
            (false, _) => "**not measured**",
            (true, true) => "kept",
            (true, false) => "**not kept**",
        };
        table.push([promise.what.as_str(), &promise.wanted, &promise.found, kept]);
    }
    table
}

fn origin(bench: &str, saved: &Saved) -> String {
    match &saved.run {
        Some(run) => format!(
            "`cargo xtask bench {bench}`, {}, {:.0} s, commit {}.",
            run.began, run.seconds, run.commit
        ),
        None if saved.result.is_some() => {
            format!(
                "`cargo xtask bench {bench} --json`, saved by hand: when and where is not known."
            )
        }
        None => format!("`cargo xtask bench {bench}` was not run."),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

/// Lines of prose, none longer than it must be.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let letters = word.chars().count();
        if length > 0 && length + 1 + letters > WIDTH {
            lines.push('\n');
            length = 0;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines += word;
        length += letters;
    }
    lines
}

/// What stands between the README's lines.
fn figures(sections: &[Section]) -> String {
    let mut table = Table::new(["", "ours", "beside it"]);
    let headlines = sections
        .iter()
        .filter_map(|section| section.shown.as_ref())
        .flat_map(|shown| &shown.headlines);
    for line in headlines {
        table.push([&line.what, &line.ours, &line.beside]);
    }
    let broken = sections
        .iter()
        .filter(|section| section.standing != Standing::Good)
        .map(|section| format!("`{}`", section.page.name))
        .collect::<Vec<_>>();
    let standing = if broken.is_empty() {
        "Every promise of these benches is kept".to_owned()
    } else {
        format!("Not all is kept or measured: see {}", broken.join(", "))
    };
    let place = first_machine(sections)
        .map(|machine| format!(" On {}.", machine.in_short()))
        .unwrap_or_default();
    let prose = wrapped(&format!(
        "{standing}; all figures, plots and the machine are in [{DOCUMENT}]({DOCUMENT}).{place}"
    ));
    format!("\n{}\n{prose}\n\n", table.markdown())
}

/// The README with other figures.
fn with_figures(readme: &str, figures: &str) -> anyhow::Result<String> {
    let parts = readme
        .split_once(BEGIN)
        .and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let Some((head, tail)) = parts else {
        bail!(
            "README.md has no lines {BEGIN} and {END} for the figures to stand between; add them"
        );
    };
    Ok(format!("{head}{BEGIN}\n{figures}{END}{tail}"))
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
