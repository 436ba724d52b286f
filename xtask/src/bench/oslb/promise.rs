//! What the forwarder promises in these cases.

use super::{
    plan::{Case, Fault, Front},
    play::Outcome,
};

/// Load balance metric of case A, in turn.
const BALANCE: f64 = 1.03;
/// Calls that fail with a proxy's process, at 100 calls/s of 1 s, none sent again.
const PROCESS: u64 = 20;
/// The same when its host is cut off.
const HOST: u64 = 45;
/// Of a hundred calls that fail without gates, so many may fail with them.
const GATED: u64 = 20;

/// The promises that were not kept, in words.
pub(super) fn broken(outcomes: &[Outcome]) -> Vec<String> {
    outcomes
        .iter()
        .filter(|outcome| outcome.run.front.is_ours())
        .filter_map(|outcome| fault_of(outcome, outcomes))
        .collect()
}

fn fault_of(outcome: &Outcome, all: &[Outcome]) -> Option<String> {
    let run = &outcome.run;
    match run.case {
        Case::A => balance(outcome),
        Case::C => {
            let allowed = match (run.retransmission, run.fault) {
                (true, _) => 0,
                (false, Fault::Process) => PROCESS,
                (false, _) => HOST,
            };
            (outcome.failed > allowed).then(|| {
                format!(
                    "case C, {}, fault {}, retransmission {}: {} calls failed, {allowed} may",
                    run.front,
                    run.fault,
                    if run.retransmission { "on" } else { "off" },
                    outcome.failed
                )
            })
        }
        Case::E => gates(outcome, all),
    }
}

fn balance(outcome: &Outcome) -> Option<String> {
    let front = outcome.run.front;
    if outcome.failed > 0 {
        return Some(format!(
            "case A, {front}: {} calls failed, none may",
            outcome.failed
        ));
    }
    (front == Front::OursRr && outcome.lbm > BALANCE).then(|| {
        format!(
            "case A, {front}: the load balance metric is {:.3}, over {BALANCE}",
            outcome.lbm
        )
    })
}

/// Compared with the run without gates, if there was one.
fn gates(outcome: &Outcome, all: &[Outcome]) -> Option<String> {
    let ungated = all
        .iter()
        .find(|other| other.run.front == Front::OursUngated)?
        .failed;
    if ungated == 0 {
        return Some("case E: the hog failed no call even without gates; use more of them (--hogs) or a smaller CPU (--cpu-limit)".to_owned());
    }
    let allowed = ungated * GATED / 100;
    (outcome.failed > allowed).then(|| {
        format!(
            "case E, {}: {} calls failed, {allowed} may: {GATED} % of the {ungated} without gates",
            outcome.run.front, outcome.failed
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::oslb::plan::Run;

    fn outcome(case: Case, front: Front, fault: Fault, failed: u64, lbm: f64) -> Outcome {
        Outcome {
            run: Run {
                case,
                front,
                fault,
                retransmission: false,
            },
            calls: 3_000,
            failed,
            lbm,
            cpu: Vec::new(),
            retransmissions: 0,
        }
    }

    #[test]
    fn kept_promises_are_silent() {
        let kept = [
            outcome(Case::A, Front::OursRr, Fault::None, 0, 1.02),
            outcome(Case::A, Front::OursHash, Fault::None, 0, 1.2),
            outcome(Case::A, Front::Kamailio, Fault::None, 9, 1.2),
            outcome(Case::C, Front::OursRr, Fault::Process, 20, 1.0),
            outcome(Case::C, Front::OursRr, Fault::Host, 45, 1.0),
            outcome(Case::E, Front::OursRr, Fault::Hog, 20, 1.0),
            outcome(Case::E, Front::OursUngated, Fault::Hog, 100, 1.0),
        ];
        assert_eq!(broken(&kept), Vec::<String>::new());
    }

    #[test]
    fn broken_ones_are_named() {
        let not_kept = [
            outcome(Case::A, Front::OursRr, Fault::None, 0, 1.04),
            outcome(Case::C, Front::OursHash, Fault::Process, 21, 1.0),
            outcome(Case::E, Front::OursRr, Fault::Hog, 21, 1.0),
            outcome(Case::E, Front::OursUngated, Fault::Hog, 100, 1.0),
        ];
        assert_eq!(broken(&not_kept).len(), 3);
    }
}
