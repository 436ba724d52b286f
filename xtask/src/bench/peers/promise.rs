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
    const fn of(self, row: &Row) -> f64 {
        match self {
            Self::Call => row.us_per_call,
            Self::Invite => row.us_per_invite,
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
        rows.iter()
            .find(|row| row.front == front)
            .map(|row| figure.of(row))
    };
    let (ours, direct) = (of(Front::Ours)?, of(Front::Direct)?);
    if ours <= direct {
        return None;
    }
    let fault = format!(
        "{} costs {ours:.2} µs, plain routing {direct:.2}",
        figure.name()
    );
    match of(Front::BareXdp) {
        Some(bare) if bare > direct => (ours > bare * OF_LIMIT).then(|| {
            format!("{fault}, a bare redirect {bare:.2}, of which {OF_LIMIT} times are allowed")
        }),
        _ => Some(fault),
    }
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
                us_per_call_spread: 0.0,
                us_per_invite_spread: 0.0,
                lost: 0.0,
            })
            .collect()
    }

    #[test]
    fn routing_is_the_measure() {
        for (ours, faults) in [(30.0, 0), (31.0, 1)] {
            let rows = rows(&[
                (Front::Ours, ours),
                (Front::Direct, 30.0),
                (Front::BareXdp, 20.0),
            ]);
            assert_eq!(broken(&rows).len(), faults, "{ours}");
        }
    }

    #[test]
    fn a_redirect_that_costs_more_than_routing_is_the_measure_then() {
        for (ours, faults) in [(52.0, 0), (53.0, 1)] {
            let rows = rows(&[
                (Front::Ours, ours),
                (Front::Direct, 30.0),
                (Front::BareXdp, 40.0),
            ]);
            assert_eq!(broken(&rows).len(), faults, "{ours}");
        }
    }

    #[test]
    fn what_is_lost_is_not_cheap() {
        let mut rows = rows(&[(Front::Ours, 9.0), (Front::Direct, 30.0)]);
        rows[0].lost = 0.02;
        assert_eq!(broken(&rows).len(), 1);
    }

    #[test]
    fn nothing_is_judged_that_was_not_measured() {
        assert!(broken(&rows(&[(Front::Ours, 9.0)])).is_empty());
    }
}
