//! The home column: which backend the calls of each slot belong to.
//!
//! *Target* is what weighted Maglev over the configured backends says. Calls that are up were placed
//! by the home, so home follows target only after the slot has been *settling* (home ≠ target)
//! without a break for `settle`: by then its old calls are over, and newer ones were remembered one
//! by one. Only a configuration moves homes; gates, drains and deaths never do. A home whose backend
//! is no longer configured has no calls left to protect, and follows target at once.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Now,
    maglev::{self, Member},
};

/// A backend and its weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// Its weight in the target.
    pub weight: u16,
}

/// Slots that wait for the same moment with the same home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// When they follow the target, in seconds since 1970.
    pub until: u64,
    /// Where they are until then.
    pub home: String,
    /// Which they are.
    pub slots: Vec<u32>,
}

/// What of the homes must outlive the daemon: the members of the last target, from which the ring
/// is computed again, and the slots that differ from it. Nothing known, if empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Names and weights of the last target.
    pub members: Vec<Share>,
    /// Slots that are settling.
    pub settling: Vec<Waiting>,
}

/// Not settling.
const AT_HOME: u32 = u32::MAX;
/// A home that is no longer configured.
const GONE: u16 = u16::MAX;

/// Home and target of every slot, as indexes into the members.
#[derive(Clone, Debug)]
pub struct Homes {
    settle: Duration,
    members: Vec<Share>,
    target: Vec<u16>,
    home: Vec<u16>,
    /// For each slot an index into `deadlines`, or [`AT_HOME`].
    waiting: Vec<u32>,
    /// Slots that began to settle together share a deadline.
    deadlines: Vec<Now>,
    settling: usize,
}

impl Homes {
    /// Every slot at its target. `slots` must be prime.
    #[must_use]
    pub fn new(members: Vec<Share>, settle: Duration, slots: u32) -> Self {
        let target = table(&members, slots);
        Self {
            settle,
            members,
            home: target.clone(),
            target,
            waiting: vec![AT_HOME; slots as usize],
            deadlines: Vec::new(),
            settling: 0,
        }
    }

    /// The homes as they were saved, and then what the configuration changed meanwhile. Whatever the
    /// wall clock did since, no slot settles longer than `settle` from now.
    #[must_use]
    pub fn restore(
        saved: &Saved,
        members: Vec<Share>,
        settle: Duration,
        (now, unix): (Now, Duration),
        slots: u32,
    ) -> Self {
        if saved.members.iter().all(|member| member.weight == 0) {
            return Self::new(members, settle, slots);
        }
        let mut homes = Self::new(saved.members.clone(), settle, slots);
        let index: HashMap<&str, u16> = indexes(&saved.members);
        for group in &saved.settling {
            let left = Duration::from_secs(group.until).saturating_sub(unix);
            // What was due while nobody was there happens now.
            let Some(&home) = index.get(group.home.as_str()).filter(|_| !left.is_zero()) else {
                continue;
            };
            homes.deadlines.push(now + left.min(settle));
            let wait = homes.deadlines.len() as u32 - 1;
            for &slot in group.slots.iter().filter(|&&slot| slot < slots) {
                let slot = slot as usize;
                if homes.target[slot] != home && homes.waiting[slot] == AT_HOME {
                    homes.home[slot] = home;
                    homes.waiting[slot] = wait;
                }
            }
        }
        homes.tidy();
        homes.retarget(members, settle, now);
        homes
    }

    /// Follows a changed configuration. Did homes, targets or deadlines change?
    pub fn retarget(&mut self, members: Vec<Share>, settle: Duration, now: Now) -> bool {
        let same_settle = self.settle == settle;
        self.resettle(settle);
        if self.members == members {
            return self.tick(now) > 0 || !same_settle;
        }
        let index: HashMap<&str, u16> = indexes(&members);
        let moved_to: Vec<u16> = self
            .members
            .iter()
            .map(|old| index.get(old.name.as_str()).copied().unwrap_or(GONE))
            .collect();
        self.target = table(&members, self.waiting.len() as u32);
        self.members = members;
        self.deadlines.push(now.saturating_add(settle));
        let fresh = self.deadlines.len() as u32 - 1;
        for (slot, &target) in self.target.iter().enumerate() {
            // A ring that was empty had no homes.
            let old = self.home.get(slot).copied().unwrap_or(GONE);
            let home = moved_to.get(usize::from(old)).copied().unwrap_or(GONE);
            let wait = &mut self.waiting[slot];
            if home == GONE || home == target {
                *wait = AT_HOME;
            } else if *wait == AT_HOME {
                *wait = fresh;
            }
            let home = if home == GONE { target } else { home };
            match self.home.get_mut(slot) {
                Some(place) => *place = home,
                None => self.home.push(home),
            }
        }
        if self.target.is_empty() {
            self.home.clear();
            self.waiting.fill(AT_HOME);
        }
        self.tidy();
        self.tick(now);
        true
    }

    /// A slot began to settle when it did: another `settle` moves its deadline by the difference.
    fn resettle(&mut self, settle: Duration) {
        for deadline in &mut self.deadlines {
            *deadline = (*deadline + settle).saturating_sub(self.settle);
        }
        self.settle = settle;
    }

    /// Lets homes follow whose time has come, and says how many.
    pub fn tick(&mut self, now: Now) -> usize {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return 0;
        }
        let mut followed = 0;
        for (slot, wait) in self.waiting.iter_mut().enumerate() {
            if *wait != AT_HOME && self.deadlines[*wait as usize] <= now {
                self.home[slot] = self.target[slot];
                *wait = AT_HOME;
                followed += 1;
            }
        }
        self.tidy();
        followed
    }

    /// Forgets deadlines that nobody waits for, and counts who waits.
    fn tidy(&mut self) {
        let mut renumbered = vec![AT_HOME; self.deadlines.len()];
        let mut kept = Vec::new();
        self.settling = 0;
        for wait in self.waiting.iter_mut().filter(|wait| **wait != AT_HOME) {
            self.settling += 1;
            let old = *wait as usize;
            if renumbered[old] == AT_HOME {
                renumbered[old] = kept.len() as u32;
                kept.push(self.deadlines[old]);
            }
            *wait = renumbered[old];
        }
        self.deadlines = kept;
    }

    /// How many slots are settling.
    #[must_use]
    pub const fn settling(&self) -> usize {
        self.settling
    }

    /// When the next homes follow.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Now> {
        self.deadlines.iter().min().copied()
    }

    /// Names and weights of the target; the columns hold indexes into them.
    #[must_use]
    pub fn members(&self) -> &[Share] {
        &self.members
    }

    /// What the configuration says, for each slot; empty if nobody is configured.
    #[must_use]
    pub fn target(&self) -> &[u16] {
        &self.target
    }

    /// Where the calls of each slot are at home; empty if nobody is configured.
    #[must_use]
    pub fn home(&self) -> &[u16] {
        &self.home
    }

    /// What must outlive the daemon, at `now`, which is `unix` on the wall clock.
    #[must_use]
    pub fn saved(&self, now: Now, unix: Duration) -> Saved {
        let mut groups: BTreeMap<(u64, &str), Vec<u32>> = BTreeMap::new();
        for (slot, &wait) in self.waiting.iter().enumerate() {
            if wait != AT_HOME {
                let left = self.deadlines[wait as usize].saturating_sub(now);
                let until = (unix + left).as_millis().div_ceil(1_000) as u64;
                let home = &self.members[usize::from(self.home[slot])].name;
                groups.entry((until, home)).or_default().push(slot as u32);
            }
        }
        Saved {
            members: self.members.clone(),
            settling: groups
                .into_iter()
                .map(|((until, home), slots)| Waiting {
                    until,
                    home: home.to_owned(),
                    slots,
                })
                .collect(),
        }
    }
}

fn table(members: &[Share], slots: u32) -> Vec<u16> {
    let members: Vec<Member<'_>> = members
        .iter()
        .map(|m| Member {
            name: &m.name,
            weight: m.weight,
        })
        .collect();
    maglev::table(&members, slots)
}

fn indexes(members: &[Share]) -> HashMap<&str, u16> {
    members
        .iter()
        .zip(0..)
        .map(|(member, index)| (member.name.as_str(), index))
        .collect()
}

#[cfg(test)]
mod tests;
