//! Which runs there are.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// A case of the thesis. (In B and D a forwarder fails, too: that is another bench's.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
pub(super) enum Case {
    /// All is well.
    #[value(name = "A")]
    A,
    /// One of the two proxies fails after a third of the time.
    #[value(name = "C")]
    C,
    /// Something else takes the CPU of one of the two proxies in the middle third of the time.
    #[value(name = "E")]
    E,
}

/// What stands before the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Front {
    /// The forwarder, in turn.
    OursRr,
    /// The forwarder, by hash.
    OursHash,
    /// The forwarder, in turn, with a gate that never closes.
    OursUngated,
    /// Kamailio's dispatcher as it comes.
    Kamailio,
    /// Kamailio's dispatcher with pings and timers of a second.
    KamailioTuned,
}

/// What happens in the middle of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// All processes of the first proxy are killed.
    Process,
    /// The first proxy's link is cut.
    Host,
    /// Busy processes share the first proxy's CPU.
    Hog,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Run {
    pub(super) case: Case,
    #[serde(rename = "box")]
    pub(super) front: Front,
    pub(super) fault: Fault,
    /// Whether SIPp sends again what is not answered, at both ends.
    pub(super) retransmission: bool,
}

impl Case {
    pub(super) const ALL: [Self; 3] = [Self::A, Self::C, Self::E];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::A => "all is well",
            Self::C => "one of two proxies fails",
            Self::E => "a hog on the first of two proxies",
        }
    }

    const fn faults(self) -> &'static [Fault] {
        match self {
            Self::A => &[Fault::None],
            Self::C => &[Fault::Process, Fault::Host],
            Self::E => &[Fault::Hog],
        }
    }

    const fn retransmissions(self) -> &'static [bool] {
        match self {
            Self::C => &[false, true],
            Self::A | Self::E => &[false],
        }
    }

    /// The runs of this case, those to be compared with each other side by side.
    pub(super) fn runs(self) -> impl Iterator<Item = Run> {
        let of_fault = move |&fault: &Fault| {
            self.retransmissions()
                .iter()
                .flat_map(move |&retransmission| {
                    Front::ALL
                        .into_iter()
                        .filter(move |front| *front != Front::OursUngated || self == Self::E)
                        .map(move |front| Run {
                            case: self,
                            front,
                            fault,
                            retransmission,
                        })
                })
        };
        self.faults().iter().flat_map(of_fault)
    }
}

impl Front {
    pub(super) const ALL: [Self; 5] = [
        Self::OursRr,
        Self::OursHash,
        Self::OursUngated,
        Self::Kamailio,
        Self::KamailioTuned,
    ];

    /// Whether it is the forwarder as it is meant to be used.
    pub(super) const fn is_ours(self) -> bool {
        matches!(self, Self::OursRr | Self::OursHash)
    }
}

impl fmt::Display for Run {
    /// `C-ours-rr-process-retransmitting`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.case, self.front, self.fault)?;
        f.write_str(if self.retransmission {
            "-retransmitting"
        } else {
            ""
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OursRr => "ours-rr",
            Self::OursHash => "ours-hash",
            Self::OursUngated => "ours-ungated",
            Self::Kamailio => "kamailio",
            Self::KamailioTuned => "kamailio-tuned",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Host => "host",
            Self::Hog => "hog",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_case_e_has_an_open_valve_to_compare_with() {
        let of = |case: Case| case.runs().collect::<Vec<_>>();
        assert_eq!(of(Case::A).len(), 4);
        assert_eq!(of(Case::C).len(), 16);
        assert_eq!(of(Case::E).len(), 5);
    }
}
