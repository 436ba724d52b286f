//! `cargo xtask budget`: what must not grow unseen, in figures that do not depend on how busy the machine is.
//!
//! Of the XDP program, the instructions the verifier went through and the size of its machine code. Of userspace,
//! instructions per message, counted by callgrind. They are compared with `xtask/budget.toml`.

mod compare;
mod file;
mod measure;

use clap::Args;

use self::{compare::compare, file::Budget, measure::Part};
use crate::{Outcome, shell::say};

/// Compare what a message costs in instructions with what it may cost; 1 if it costs more.
#[derive(Args)]
pub(crate) struct Check {
    /// Take what is measured now for the budget.
    #[arg(long)]
    bless: bool,
}

impl Check {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        let budget = Budget::load()?;
        let program = told("the XDP program", measure::program())?;
        let userspace = told("userspace", measure::userspace())?;
        anyhow::ensure!(
            program.is_some() || userspace.is_some(),
            "nothing could be measured; as root it can: sudo cargo xtask budget"
        );
        if self.bless {
            let blessed = Budget {
                program: program.unwrap_or(budget.program),
                userspace: userspace.unwrap_or(budget.userspace),
            };
            blessed.save()?;
            say(&format!("wrote {}", file::path().display()));
            return Ok(Outcome::Done);
        }
        let mut good = true;
        for (head, was, is) in [
            ("the XDP program", &budget.program, program),
            ("instructions per message", &budget.userspace, userspace),
        ] {
            let Some(is) = is else { continue };
            if !was.architecture.is_empty() && was.architecture != is.architecture {
                say(&format!(
                    "not compared: the budget is for {}, this is {}",
                    was.architecture, is.architecture
                ));
                continue;
            }
            let compared = compare(head, was, &is);
            print!("{compared}");
            good &= compared.holds();
        }
        if !good {
            say(
                "over the budget; if that must be, `cargo xtask budget --bless` makes it the new one",
            );
        }
        Ok(if good { Outcome::Done } else { Outcome::Failed })
    }
}

/// Says what is skipped, and why.
fn told(what: &str, part: anyhow::Result<Part>) -> anyhow::Result<Option<file::Figures>> {
    match part? {
        Part::Measured(figures) => Ok(Some(figures)),
        Part::Skipped(why) => {
            say(&format!("skipped {what}: {why}"));
            Ok(None)
        }
    }
}
