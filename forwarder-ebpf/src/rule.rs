//! The rule that holds everything together, as one pure function: which backend a message goes to,
//! and what is written down afterwards.
//!
//! Each candidate is looked up by the caller, which filters out backends that may not have the
//! message (dead, or of another service); the order in which they count is decided here and nowhere
//! else.

use crate::abi::{BackendId, Slot};
use crate::verdict::Verdict;

/// What a message is to the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A request without To-tag that may start a dialog and is none of ACK, CANCEL, BYE, PRACK,
    /// UPDATE, INFO.
    StartsDialog,
    /// A starting request of a method that forms no dialog: REGISTER, OPTIONS, PUBLISH, MESSAGE.
    StartsNothing,
    /// A request inside a dialog.
    InDialog,
    /// A request that belongs to a starting request but carries no To-tag: CANCEL.
    Follows,
    /// A response.
    Response,
}

impl Role {
    /// Does it start something, so that a policy may choose its backend?
    #[must_use]
    #[inline(always)]
    pub const fn starts(self) -> bool {
        matches!(self, Self::StartsDialog | Self::StartsNothing)
    }

    /// May its call be remembered in the affinity map? Whole methods never are: they form no
    /// dialog.
    #[must_use]
    #[inline(always)]
    pub const fn may_be_remembered(self) -> bool {
        !matches!(self, Self::StartsNothing)
    }
}

/// What the affinity map knows of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// A backend that may not have the message any more.
    Stale,
    /// A backend that lives.
    Live,
}

/// What the lookups found. A candidate is [`BackendId::NONE`] unless that backend lives and is one
/// of the service.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// What the message is.
    pub role: Role,
    /// What kind of affinity entry its Call-ID has.
    pub entry: Entry,
    /// The backend of a live entry.
    pub known: BackendId,
    /// Whom the top Route of a request in a dialog, or the top Via of a response, names.
    pub named: BackendId,
    /// Where the `recent` table says this starting request went before.
    pub recent: BackendId,
    /// Whom the policy gives a new call.
    pub admit: BackendId,
    /// The home of the Call-ID.
    pub home: BackendId,
    /// The slot of the Call-ID.
    pub slot: Slot,
}

/// Where a message goes, and what to remember of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The backend; [`BackendId::NONE`] if nobody may have the message.
    pub backend: BackendId,
    /// Why: one of the `Forwarded…` verdicts.
    pub verdict: Verdict,
    /// Write an affinity entry.
    pub remember_call: bool,
    /// Write the `recent` table.
    pub remember_start: bool,
}

/// The rule.
#[must_use]
#[inline(always)]
pub fn decide(found: &Found) -> Decision {
    let (backend, verdict) = choose(found);
    Decision {
        backend,
        verdict,
        remember_call: backend.is_some()
            && found.role.may_be_remembered()
            && is_exception(found, backend),
        // The first second counts: what is there already is not renewed.
        remember_start: backend.is_some() && found.role.starts() && !found.recent.is_some(),
    }
}

/// Decides again when the recent table says that another CPU placed the same request first, at
/// `winner`: the loser follows.
#[must_use]
#[inline(always)]
pub fn follow(found: &Found, winner: BackendId) -> Decision {
    decide(&Found {
        recent: winner,
        ..*found
    })
}

#[inline(always)]
fn choose(found: &Found) -> (BackendId, Verdict) {
    if matches!(found.entry, Entry::Live) {
        (found.known, Verdict::ForwardedAffinity)
    } else if found.named.is_some() {
        (found.named, Verdict::ForwardedNamed)
    } else if found.role.starts() {
        if found.recent.is_some() {
            (found.recent, Verdict::ForwardedRecent)
        } else if found.admit.0 == found.slot.home().0 {
            (found.admit, Verdict::ForwardedHome)
        } else {
            (found.admit, Verdict::ForwardedAdmit)
        }
    } else if found.home.is_some() {
        (found.home, Verdict::ForwardedHome)
    } else {
        (found.admit, Verdict::ForwardedHomeDead)
    }
}

/// Must the affinity map know of this outcome? It need not where the map says so already.
#[inline(always)]
fn is_exception(found: &Found, backend: BackendId) -> bool {
    match found.entry {
        Entry::Live => false,
        // Else the dead backend would get the call back when it returns.
        Entry::Stale => true,
        // While a slot settles, every call that speaks is entered: only one that is silent for all
        // that time would be torn when the slot's home moves.
        Entry::Absent => backend.0 != found.slot.home().0 || found.slot.settling(),
    }
}

/// Must a backend's own request be remembered, so that what belongs to it finds the backend? Only if
/// the call's home is another, or may soon be.
#[must_use]
#[inline(always)]
pub fn remember_request(
    role: Role,
    entry: Entry,
    known: BackendId,
    slot: Slot,
    from: BackendId,
) -> bool {
    if !role.may_be_remembered() || matches!(role, Role::Response) {
        return false;
    }
    match entry {
        Entry::Live => known.0 != from.0,
        Entry::Stale => true,
        Entry::Absent => from.0 != slot.home().0 || slot.settling(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOME: BackendId = BackendId(1);
    const ADMIT: BackendId = BackendId(2);
    const OTHER: BackendId = BackendId(3);

    fn found(role: Role) -> Found {
        Found {
            role,
            entry: Entry::Absent,
            known: BackendId::NONE,
            named: BackendId::NONE,
            recent: BackendId::NONE,
            admit: ADMIT,
            home: HOME,
            slot: Slot::new(HOME, ADMIT, false),
        }
    }

    fn outcome(found: &Found) -> (BackendId, Verdict, bool, bool) {
        let d = decide(found);
        (d.backend, d.verdict, d.remember_call, d.remember_start)
    }

    #[test]
    fn an_affinity_entry_comes_before_all_else() {
        for role in [
            Role::StartsDialog,
            Role::InDialog,
            Role::Follows,
            Role::Response,
        ] {
            let f = Found {
                entry: Entry::Live,
                known: OTHER,
                named: HOME,
                recent: HOME,
                ..found(role)
            };
            let (backend, verdict, remember_call, _) = outcome(&f);
            assert_eq!(
                (backend, verdict, remember_call),
                (OTHER, Verdict::ForwardedAffinity, false)
            );
        }
    }

    #[test]
    fn a_named_backend_comes_next_and_is_remembered_if_it_is_not_home() {
        let f = Found {
            named: OTHER,
            ..found(Role::Response)
        };
        assert_eq!(outcome(&f), (OTHER, Verdict::ForwardedNamed, true, false));
        let f = Found {
            named: HOME,
            ..found(Role::InDialog)
        };
        assert_eq!(outcome(&f), (HOME, Verdict::ForwardedNamed, false, false));
    }

    #[test]
    fn a_repeated_start_follows_the_first_even_if_nobody_is_open() {
        let f = Found {
            recent: OTHER,
            admit: BackendId::NONE,
            ..found(Role::StartsDialog)
        };
        assert_eq!(outcome(&f), (OTHER, Verdict::ForwardedRecent, true, false));
    }

    #[test]
    fn a_new_call_goes_where_the_policy_says_and_is_refused_if_nobody_is_open() {
        assert_eq!(
            outcome(&found(Role::StartsDialog)),
            (ADMIT, Verdict::ForwardedAdmit, true, true)
        );
        let f = Found {
            admit: BackendId::NONE,
            ..found(Role::StartsDialog)
        };
        assert_eq!(decide(&f).backend, BackendId::NONE);
    }

    #[test]
    fn a_request_that_another_cpu_placed_first_follows_it() {
        let role = Role::StartsDialog;
        let decision = follow(&found(role), OTHER);
        assert_eq!(
            (
                decision.backend,
                decision.verdict,
                decision.remember_call,
                decision.remember_start
            ),
            (OTHER, Verdict::ForwardedRecent, true, false)
        );
        // A live affinity entry still comes first.
        let known = Found {
            entry: Entry::Live,
            known: HOME,
            ..found(role)
        };
        assert_eq!(follow(&known, OTHER).backend, HOME);
    }

    #[test]
    fn methods_that_form_no_dialog_are_never_remembered_as_calls() {
        assert_eq!(
            outcome(&found(Role::StartsNothing)),
            (ADMIT, Verdict::ForwardedAdmit, false, true)
        );
    }

    #[test]
    fn everything_else_goes_home_or_where_admit_says_if_home_is_dead() {
        for role in [Role::InDialog, Role::Follows, Role::Response] {
            assert_eq!(
                outcome(&found(role)),
                (HOME, Verdict::ForwardedHome, false, false)
            );
            let f = Found {
                home: BackendId::NONE,
                ..found(role)
            };
            assert_eq!(
                outcome(&f),
                (ADMIT, Verdict::ForwardedHomeDead, true, false)
            );
        }
    }

    #[test]
    fn a_call_that_speaks_while_its_slot_settles_is_remembered_even_at_home() {
        let slot = Slot::new(HOME, HOME, true);
        let f = Found {
            admit: HOME,
            slot,
            ..found(Role::StartsDialog)
        };
        assert_eq!(outcome(&f), (HOME, Verdict::ForwardedHome, true, true));
        let f = Found {
            admit: HOME,
            slot,
            ..found(Role::InDialog)
        };
        assert_eq!(outcome(&f), (HOME, Verdict::ForwardedHome, true, false));
        let f = Found {
            admit: HOME,
            slot,
            ..found(Role::StartsNothing)
        };
        assert_eq!(outcome(&f), (HOME, Verdict::ForwardedHome, false, true));
    }

    #[test]
    fn an_entry_of_a_dead_backend_is_overwritten_even_by_home() {
        let f = Found {
            entry: Entry::Stale,
            ..found(Role::InDialog)
        };
        assert_eq!(outcome(&f), (HOME, Verdict::ForwardedHome, true, false));
    }

    fn any_role() -> impl Strategy<Value = Role> {
        prop_oneof![
            Just(Role::StartsDialog),
            Just(Role::StartsNothing),
            Just(Role::InDialog),
            Just(Role::Follows),
            Just(Role::Response)
        ]
    }

    fn any_candidate() -> impl Strategy<Value = BackendId> {
        prop_oneof![Just(BackendId::NONE), (0u16..4).prop_map(BackendId)]
    }

    proptest! {
        /// The backend is always one of the candidates, and calls not at home are never forgotten.
        #[test]
        fn holds_for_every_input(role in any_role(), known in any_candidate(), named in any_candidate(),
            recent in any_candidate(), admit in any_candidate(), home in any_candidate(), settling: bool)
        {
            let slot = Slot::new(home.or(OTHER), admit.or(OTHER), settling);
            let entry = if known.is_some() { Entry::Live } else { Entry::Absent };
            let f = Found { role, entry, known, named, recent, admit, home, slot };
            let d = decide(&f);
            if !d.backend.is_some() {
                prop_assert!(!known.is_some() && !named.is_some() && !admit.is_some());
                prop_assert!(!d.remember_call && !d.remember_start);
                return Ok(());
            }
            prop_assert!([known, named, recent, admit, home].contains(&d.backend));
            if role.may_be_remembered() && d.backend != slot.home() {
                prop_assert!(d.remember_call || known == d.backend);
            }
        }
    }
}
