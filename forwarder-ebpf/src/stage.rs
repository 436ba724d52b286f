//! The stages of the XDP program: programs that follow each other by tail calls.
//!
//! The entry program parses and scans; the stage [`Stage::Place`] asks the rule; one stage for each
//! forwarding mode sends the message on; [`Stage::Return`] handles what backends send. What one
//! stage has found out lies in per-CPU memory for the next. Each stage is verified by itself, so a
//! stage's cost does not multiply with that of the others.

/// Name of the entry program: the one that is attached.
pub const ENTRY: &str = "sip_forwarder";

/// A stage behind the entry, by its index in the program array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Places a message to a VIP by the rule, and writes down what the rule wants remembered.
    Place = 0,
    /// Sends a message to its backend in mode `nat`.
    SendNat = 1,
    /// Sends a backend's packet to where it goes, with the VIP as its source.
    Return = 2,
}

impl Stage {
    /// Number of stages: the size of the program array.
    pub const COUNT: u32 = 3;

    /// All stages, in the order of their indexes.
    pub const ALL: [Self; Self::COUNT as usize] = [Self::Place, Self::SendNat, Self::Return];

    /// Returns the stage's index in the program array.
    #[must_use]
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Returns the name of the stage's program in the object.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Place => "sip_place",
            Self::SendNat => "sip_send_nat",
            Self::Return => "sip_return",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Stage;

    #[test]
    fn indexes_count_up_from_zero() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage.index() as usize, index);
        }
    }
}
