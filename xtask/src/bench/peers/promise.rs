//! What the forwarder promises: nothing costs more than plain routing of it.

use super::{Front, LOSS, Row};

/// Where even a bare redirect costs more than plain routing, ours may cost so much of the redirect.
const OF_LIMIT: f64 = 1.3;

/// A column of the table.
#[derive(Clone, Copy)]
enum Figure {
    Call,
    Invite,
}

impl Figure {
    /// What it is of plain routing.
    const fn to_direct(self, row: &Row) -> Option<f64> {
        match self {
            Self::Call => row.call_to_direct,
            Self::Invite => row.invite_to_direct,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Call => "a call",
            Self::Invite => "an INVITE",
        }
    }
}

/// The promises that were not kept, in words.
pub(super) fn broken(rows: &[Row]) -> Vec<String> {
    [Figure::Call, Figure::Invite]
        .into_iter()
        .filter_map(|figure| fault_of(figure, rows))
        .chain(losses(rows))
        .collect()
}

/// A figure is worth something only if messages arrived for it.
fn losses(rows: &[Row]) -> Option<String> {
    let ours = rows.iter().find(|row| row.front == Front::Ours)?;
    (ours.lost > LOSS).then(|| format!("{:.1} % did not go well", ours.lost * 100.0))
}

fn fault_of(figure: Figure, rows: &[Row]) -> Option<String> {
    let of = |front| {
        let row = rows.iter().find(|row| row.front == front)?;
        figure.to_direct(row)
    };
    let ours = of(Front::Ours)?;
    let allowed =
        of(Front::BareXdp).map_or(1.0, |bare| if bare > 1.0 { bare * OF_LIMIT } else { 1.0 });
    (ours > allowed).then(|| {
        format!(
            "{} costs {ours:.2} times what plain routing costs; {allowed:.2} are allowed",
            figure.name()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(figures: &[(Front, f64)]) -> Vec<Row> {
        figures
            .iter()
            .map(|(front, figure)| Row {
                front: *front,
                us_per_call: *figure,
                us_per_invite: 1.0,
                call_to_direct: Some(*figure),
                invite_to_direct: None,
                us_per_call_spread: 0.0,
                us_per_invite_spread: 0.0,
                lost: 0.0,
            })
            .collect()
    }

    #[test]
    fn routing_is_the_measure() {
        for (ours, faults) in [(1.0, 0), (1.01, 1)] {
            let rows = rows(&[(Front::Ours, ours), (Front::BareXdp, 0.9)]);
            assert_eq!(broken(&rows).len(), faults, "{ours}");
        }
    }

    #[test]
    fn a_redirect_that_costs_more_than_routing_is_the_measure_then() {
        for (ours, faults) in [(1.55, 0), (1.57, 1)] {
            let rows = rows(&[(Front::Ours, ours), (Front::BareXdp, 1.2)]);
            assert_eq!(broken(&rows).len(), faults, "{ours}");
        }
    }

    #[test]
    fn what_is_lost_is_not_cheap() {
        let mut rows = rows(&[(Front::Ours, 0.5)]);
        rows[0].lost = 0.02;
        assert_eq!(broken(&rows).len(), 1);
    }

    #[test]
    fn nothing_is_judged_that_was_not_measured() {
        assert!(broken(&rows(&[(Front::Direct, 1.0)])).is_empty());
    }
}
