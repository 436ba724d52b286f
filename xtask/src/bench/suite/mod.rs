//! `cargo xtask bench all`: every bench, each in a process of its own; what they came to, and the report.

mod chart;
mod child;
mod circumstances;
mod document;
mod draw;
mod page;
mod pages;
mod saved;
mod section;

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use serde_json::{Map, Value, json};

use self::{
    page::Page,
    pages::PAGES,
    saved::{End, Saved},
    section::{Section, Standing},
};
use crate::{
    Outcome,
    shell::{root, say},
};

/// Every bench, and the report.
#[derive(Args)]
pub(crate) struct All {
    /// One JSON object on the last line of stdout instead of the summary.
    #[arg(long)]
    json: bool,
    /// Write docs/BENCHMARKS.md, docs/plots and the README's figures.
    #[arg(long)]
    report: bool,
    /// Only these benches; all without it.
    #[arg(long, value_name = "BENCH", num_args = 1.., value_delimiter = ',')]
    only: Vec<String>,
    /// Take the results that are in this folder, and run what is missing or could not run. To measure a bench anew, delete
    /// its file. A file is what a run of the suite saved, or what `bench NAME --json` printed.
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
    /// Save each result in this folder as it comes; without it in that of --from, or else in one named after the time
    /// below target/bench.
    #[arg(long, value_name = "FOLDER")]
    save: Option<PathBuf>,
    /// Run nothing: what is not in the folder of --from is missing.
    #[arg(long, requires = "from")]
    no_run: bool,
}

impl All {
    /// `is_known` says whether there is a bench of that name on the command line.
    pub(super) fn run(&self, is_known: fn(&str) -> bool) -> anyhow::Result<Outcome> {
        let pages = self.pages()?;
        self.check()?;
        let folder = self.folder();
        let mut sections = Vec::new();
        for (index, page) in pages.iter().copied().enumerate() {
            let saved = match self.known_already(page)? {
                Some(saved) => saved,
                None if self.no_run => {
                    Saved::could_not_run("it has no result in the folder of --from")
                }
                None if !is_known(page.name) => {
                    Saved::could_not_run(format!("this xtask has no bench `{}`", page.name))
                }
                None => {
                    say(&format!("{}/{}: {}", index + 1, pages.len(), page.name));
                    let saved = child::run(page.name)?;
                    saved.save(&folder, page.name)?;
                    saved
                }
            };
            let section = Section::new(page, saved);
            say(&format!("{}: {}", page.name, section.verdict()));
            sections.push(section);
        }
        if folder.is_dir() {
            say(&format!(
                "results are in {0}; --from {0} takes them from there",
                folder.display()
            ));
        }
        if self.report {
            let document = document::write(&root(), &sections)?;
            say(&format!("wrote {}", document.display()));
        }
        self.show(&sections)?;
        Ok(outcome(&sections))
    }

    /// Finds out what would fail only after hours.
    fn check(&self) -> anyhow::Result<()> {
        if let Some(missing) = self.from.as_deref().filter(|from| !from.is_dir()) {
            bail!(
                "there is no folder {} to take results from",
                missing.display()
            );
        }
        if self.report {
            document::check(&root())?;
        }
        Ok(())
    }

    /// The benches that were asked for, in the order of the suite.
    fn pages(&self) -> anyhow::Result<Vec<&'static Page>> {
        if let Some(unknown) = self.only.iter().find(|name| pages::find(name).is_none()) {
            let names: Vec<&str> = PAGES.iter().map(|page| page.name).collect();
            bail!(
                "there is no bench `{unknown}` in the suite; there are {}",
                names.join(", ")
            );
        }
        Ok(PAGES
            .iter()
            .filter(|page| self.only.is_empty() || self.only.iter().any(|name| name == page.name))
            .collect())
    }

    fn folder(&self) -> PathBuf {
        let named = self.save.as_deref().or(self.from.as_deref());
        named.map_or_else(
            || {
                let time = circumstances::now().replace(':', "");
                root().join("target/bench").join(time)
            },
            Path::to_owned,
        )
    }

    /// What the folder has of a bench, unless it should rather be run.
    fn known_already(&self, page: &Page) -> anyhow::Result<Option<Saved>> {
        let Some(from) = &self.from else {
            return Ok(None);
        };
        let saved = Saved::load(from, page.name)?;
        Ok(saved.filter(|saved| self.no_run || saved.end != End::CouldNotRun))
    }

    fn show(&self, sections: &[Section]) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(&object(sections))?);
        } else {
            print!("{}", summary(sections));
        }
        Ok(())
    }
}

/// Returns the worst that a bench came to.
fn outcome(sections: &[Section]) -> Outcome {
    let all = |wanted: fn(&Standing) -> bool| sections.iter().all(|s| wanted(&s.standing));
    if all(|standing| *standing == Standing::Good) {
        Outcome::Done
    } else if all(|standing| matches!(standing, Standing::Good | Standing::Partly(_))) {
        Outcome::NotMeasured
    } else {
        Outcome::Failed
    }
}

/// Is there a page for this bench?
#[cfg(test)]
pub(super) fn has(bench: &str) -> bool {
    pages::find(bench).is_some()
}

/// All results in one.
fn object(sections: &[Section]) -> Value {
    let one = |section: &Section| {
        let mut value = json!(section.saved);
        let broken: Vec<Value> = section
            .shown
            .iter()
            .flat_map(|shown| &shown.promises)
            .filter(|promise| promise.is_broken())
            .map(|promise| json!({"what": promise.what, "wanted": promise.wanted, "found": promise.found}))
            .collect();
        value["broken"] = broken.into();
        value["verdict"] = section.verdict().into();
        (section.page.name.to_owned(), value)
    };
    let results: Map<String, Value> = sections.iter().map(one).collect();
    json!({ "results": results })
}

fn summary(sections: &[Section]) -> String {
    let mut lines = vec![String::new()];
    for section in sections {
        let mut tell = |name: &str, what: String| lines.push(format!("{name:<14} {what}"));
        tell(section.page.name, section.verdict());
        let Some(shown) = &section.shown else {
            continue;
        };
        for line in &shown.headlines {
            tell(
                "",
                format!("  {}: {} ({})", line.what, line.ours, line.beside),
            );
        }
        for promise in shown.promises.iter().filter(|promise| promise.is_broken()) {
            tell("", format!("  not kept: {}", promise.sentence()));
        }
        for part in &section.not_measured {
            tell("", format!("  not measured: {}: {}", part.part, part.why));
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> All {
        All {
            json: false,
            report: false,
            only: Vec::new(),
            from: None,
            save: None,
            no_run: false,
        }
    }

    #[test]
    fn names_are_unique_and_an_unknown_one_is_named() {
        let names: std::collections::BTreeSet<&str> = PAGES.iter().map(|page| page.name).collect();
        assert_eq!(names.len(), PAGES.len());
        let mut asked = all();
        asked.only = vec!["sipp".to_owned(), "fastpath".to_owned()];
        let names: Vec<&str> = asked
            .pages()
            .unwrap()
            .iter()
            .map(|page| page.name)
            .collect();
        assert_eq!(names, ["fastpath", "sipp"]);
        asked.only.push("speed".to_owned());
        let error = asked.pages().unwrap_err().to_string();
        assert!(
            error.contains("`speed`") && error.contains("fastpath, growth"),
            "{error}"
        );
    }

    #[test]
    fn what_could_not_run_is_run_again() {
        let folder = tempfile::tempdir().unwrap();
        let page = pages::find("sipp").unwrap();
        let mut asked = all();
        asked.from = Some(folder.path().to_owned());
        assert_eq!(asked.known_already(page).unwrap(), None);
        let saved = Saved::could_not_run("no root");
        saved.save(folder.path(), page.name).unwrap();
        assert_eq!(asked.known_already(page).unwrap(), None);
        asked.no_run = true;
        assert_eq!(asked.known_already(page).unwrap(), Some(saved));
        assert_eq!(asked.folder(), folder.path());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let mut asked = all();
        asked.from = Some("/nowhere/at/all".into());
        let error = asked.run(|_| true).err().unwrap().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn a_bench_that_is_not_there_fails_the_suite_and_is_named() {
        let mut asked = all();
        let folder = tempfile::tempdir().unwrap();
        asked.only = vec!["pps".to_owned()];
        asked.save = Some(folder.path().to_owned());
        assert!(matches!(asked.run(|_| false), Ok(Outcome::Failed)));
        let page = pages::find("pps").unwrap();
        let section = Section::new(page, Saved::could_not_run("this xtask has no bench `pps`"));
        let object = object(&[section]);
        assert_eq!(object["results"]["pps"]["end"], "could-not-run");
        assert_eq!(
            object["results"]["pps"]["verdict"],
            "could not run: this xtask has no bench `pps`"
        );
    }
}
