//! What the operator ordered at runtime, over the configuration.

use serde::{Deserialize, Serialize};

use crate::config::WEIGHT_LIMIT;

/// Whether the operator wants a backend to work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admin {
    /// It works.
    #[default]
    Enabled,
    /// It is given no new calls; those that are up go on.
    Draining,
    /// It is given nothing at all, as if it were dead: its calls move.
    Disabled,
}

/// The orders about one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Override {
    /// Its weight, if it is not to be the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Whether it works.
    pub admin: Admin,
}

/// One order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideChange {
    /// This weight from now on, from 1 to [`WEIGHT_LIMIT`] (what is beyond is taken as the limit).
    /// The configured weight ends the order.
    Weight(u16),
    /// No new calls.
    Drain,
    /// Work; a weight that was ordered stays.
    Enable,
    /// Nothing at all.
    Disable,
}

impl Override {
    /// Follows one order; `configured` is the backend's configured weight.
    pub fn apply(&mut self, change: OverrideChange, configured: u16) {
        match change {
            OverrideChange::Weight(weight) => {
                let weight = weight.clamp(1, WEIGHT_LIMIT);
                self.weight = (weight != configured).then_some(weight);
            }
            OverrideChange::Drain => self.admin = Admin::Draining,
            OverrideChange::Enable => self.admin = Admin::Enabled,
            OverrideChange::Disable => self.admin = Admin::Disabled,
        }
    }

    /// The weight in force; `configured` is the backend's configured weight.
    #[must_use]
    pub fn weight(&self, configured: u16) -> u16 {
        self.weight
            .map_or(configured, |weight| weight.clamp(1, WEIGHT_LIMIT))
    }

    /// Does it order anything?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enabling_keeps_the_weight_and_the_configured_weight_ends_the_order() {
        let mut order = Override::default();
        order.apply(OverrideChange::Weight(5), 2);
        order.apply(OverrideChange::Drain, 2);
        order.apply(OverrideChange::Enable, 2);
        assert_eq!((order.weight(2), order.admin), (5, Admin::Enabled));
        order.apply(OverrideChange::Weight(2), 2);
        assert!(order.is_empty());
    }

    #[test]
    fn weights_beyond_the_limits_are_taken_as_the_limits() {
        let mut order = Override::default();
        order.apply(OverrideChange::Weight(0), 2);
        assert_eq!(order.weight(2), 1);
        order.apply(OverrideChange::Weight(u16::MAX), 2);
        assert_eq!(order.weight(2), WEIGHT_LIMIT);
    }

    #[test]
    fn orders_survive_the_state_file() {
        let order = Override {
            weight: Some(7),
            admin: Admin::Disabled,
        };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Override>(&text).unwrap(), order);
        assert!(serde_json::from_str::<Override>(r#"{"wieght":1}"#).is_err());
    }
}
