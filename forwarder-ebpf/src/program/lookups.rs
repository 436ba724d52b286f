//! The tables, as the fast path reads and writes them for one message.

use crate::{
    atomic::{Line, fetch_add},
    maps::{AFFINITY, BACKENDS, EVENTS, HINTS, RECENT, RINGS, SENT_BY, TURNS},
    source::Packet,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use sip_forwarder_ebpf::{
    abi::{
        Affinity, Backend, BackendFlags, BackendId, Event, Globals, HINTS_PER_LINE, Policy,
        RING_SLOTS, SLOTS_PER_LINE, Service, Slot,
    },
    hash::Digest,
    recent::{self, KERNEL_TRIES, Request},
    rule::{Decision, Entry, Found},
    scan::{Host, HostForm, Scan},
    source::Source,
    verdict::Verdict,
};

/// A decision in numbers, of which the verifier knows nothing: it verifies once what follows from
/// any decision.
pub(crate) struct Chosen {
    pub(crate) backend: BackendId,
    /// The number of a verdict.
    pub(crate) verdict: u32,
    /// What to write down: a set of the flags below.
    pub(crate) remember: u32,
}

impl Chosen {
    pub(crate) const CALL: u32 = 1;
    pub(crate) const START: u32 = 2;
    /// With `CALL`: it was not known.
    pub(crate) const ADDED: u32 = 4;

    #[inline(always)]
    pub(crate) fn blurred(decision: &Decision, entry: Entry, frame: &Packet) -> Self {
        let call = match (decision.remember_call, entry) {
            (false, _) => 0,
            (true, Entry::Absent) => Self::CALL | Self::ADDED,
            (true, _) => Self::CALL,
        };
        let start = if decision.remember_start {
            Self::START
        } else {
            0
        };
        Self {
            backend: blurred(frame, decision.backend),
            verdict: blurred_number(frame, decision.verdict.number()),
            remember: blurred_number(frame, call | start),
        }
    }
}

/// A backend's number, blurred ([`Source::blur`]): one path for some backend and none.
#[inline(always)]
pub(crate) fn blurred(frame: &Packet, id: BackendId) -> BackendId {
    BackendId(frame.blur(usize::from(id.0)) as u16)
}

/// A number, blurred.
#[inline(always)]
pub(crate) fn blurred_number(frame: &Packet, number: u32) -> u32 {
    frame.blur(number as usize) as u32
}

/// The tables, as one service's message sees them.
pub(crate) struct Lookups<'a> {
    pub(crate) frame: &'a Packet,
    pub(crate) service: &'a Service,
    pub(crate) globals: &'a Globals,
}

impl Lookups<'_> {
    /// Returns everything the rule wants to know, and the backend that the recent table names if that
    /// one may not have the message.
    #[inline(always)]
    pub(crate) fn find(
        &self,
        scan: &Scan,
        slot: Slot,
        now: u32,
    ) -> Result<(Found, BackendId), Verdict> {
        let (entry, known) = self.entry(scan.call);
        let named = self.named(scan.host)?;
        // Only what the rule may ask for: each answer costs a look into a map.
        let (seen, recent, home) = if scan.role.starts() {
            let seen = self.recent(scan.call, now);
            (seen, self.live(seen), BackendId::NONE)
        } else {
            (BackendId::NONE, BackendId::NONE, self.live(slot.home()))
        };
        let unfit = if recent.is_some() {
            BackendId::NONE
        } else {
            seen
        };
        let admit = if recent.is_some() || home.is_some() {
            BackendId::NONE
        } else {
            let chosen = if scan.role.starts() {
                self.chosen_slot(slot)
            } else {
                slot
            };
            self.live(chosen.admit())
        };
        let found = Found {
            role: scan.role,
            entry,
            known,
            named,
            recent,
            admit,
            home,
            slot,
        };
        Ok((found, unfit))
    }

    /// The slot whose `admit` a new call gets, by the service's policy. (Where another key than the
    /// Call-ID chooses it, the slow path has the call.)
    #[inline(always)]
    fn chosen_slot(&self, slot: Slot) -> Slot {
        if self.service.policy != Policy::ROUND_ROBIN {
            return slot;
        }
        self.next_turn()
            .and_then(|turn| self.slot_at(turn))
            .unwrap_or(slot)
    }

    /// Takes the next turn of this service. Returns the slot that it stands for.
    #[inline(always)]
    fn next_turn(&self) -> Option<u32> {
        let line = TURNS.get_ptr_mut(u32::from(self.service.id.0))?;
        // SAFETY: a map value.
        let turn = fetch_add(unsafe { &raw mut (*line).turns }, 1);
        Some((turn % u64::from(RING_SLOTS)) as u32)
    }

    /// The slot a hash falls into, in the live generation.
    #[inline(always)]
    pub(crate) fn slot(&self, digest: Digest) -> Option<Slot> {
        self.slot_at(digest.slot())
    }

    /// A slot of the live generation.
    #[inline(always)]
    fn slot_at(&self, slot: u32) -> Option<Slot> {
        let line = RINGS.get(self.service.ring + slot / SLOTS_PER_LINE)?;
        Some(line.0[(slot % SLOTS_PER_LINE) as usize])
    }

    /// `id`, if that backend lives and is one of the service; else none.
    #[inline(always)]
    pub(crate) fn live(&self, id: BackendId) -> BackendId {
        match BACKENDS.get(u32::from(id.0)) {
            Some(b) if b.flags.has(BackendFlags::ALIVE) && b.service.0 == self.service.id.0 => {
                blurred(self.frame, id)
            }
            _ => blurred(self.frame, BackendId::NONE),
        }
    }

    /// What the affinity map knows. It is looked into only if the hint says there may be something:
    /// a lookup in a large map costs more than all the rest.
    #[inline(always)]
    pub(crate) fn entry(&self, call: Digest) -> (Entry, BackendId) {
        let slot = call.slot();
        let hinted = HINTS
            .get(self.service.hints + slot / HINTS_PER_LINE)
            .is_some_and(|line| line.0[(slot % HINTS_PER_LINE) as usize] != 0);
        if !hinted {
            return (Entry::Absent, BackendId::NONE);
        }
        // SAFETY: an entry is one aligned word.
        let Some(entry) = (unsafe { AFFINITY.get(call.affinity_key(self.service.id)) }) else {
            return (Entry::Absent, BackendId::NONE);
        };
        let same = BACKENDS
            .get(u32::from(entry.backend.0))
            .is_some_and(|b| b.incarnation == entry.incarnation);
        let known = self.live(entry.backend);
        if same && known.is_some() {
            (Entry::Live, known)
        } else {
            (Entry::Stale, BackendId::NONE)
        }
    }

    /// The backend that a host in Via or Route stands for, or none.
    #[inline(always)]
    pub(crate) fn named(&self, host: Host) -> Result<BackendId, Verdict> {
        if host.form == HostForm::Absent {
            return Ok(BackendId::NONE);
        }
        // SAFETY: the daemon replaces entries whole.
        match unsafe { SENT_BY.get(host.key) } {
            Some(name) if name.service.0 == self.service.id.0 => Ok(self.live(name.backend)),
            Some(_) => Ok(BackendId::NONE),
            None if host.form == HostForm::Ipv6 => Err(Verdict::PassedRouteHost),
            None => Ok(BackendId::NONE),
        }
    }

    /// Returns the backend that this Call-ID's out-of-dialog request went to in the last 32 seconds, or
    /// none.
    #[inline(always)]
    fn recent(&self, call: Digest, now: u32) -> BackendId {
        match self.recent_line(call) {
            Some(line) => blurred(self.frame, recent::find(&line, self.request(call, now))),
            None => BackendId::NONE,
        }
    }

    /// Writes down that an out-of-dialog request goes to `backend`, unless another CPU was first.
    /// Returns the backend that it goes to, or none if that cannot be told now. An entry of the backend
    /// `unfit` does not count.
    #[inline(always)]
    pub(crate) fn claim(
        &self,
        call: Digest,
        backend: BackendId,
        unfit: BackendId,
        now: u32,
    ) -> BackendId {
        let Some(line) = self.recent_line(call) else {
            return BackendId::NONE;
        };
        let request = self.request(call, now);
        let claim = recent::claim(&line, request, backend, unfit, KERNEL_TRIES);
        if claim.evicted {
            count(Event::RECENT_EVICTED);
        }
        blurred(self.frame, claim.backend)
    }

    #[inline(always)]
    fn recent_line(&self, call: Digest) -> Option<Line> {
        let line = call.recent_line(self.service.id, self.globals.recent_mask);
        RECENT
            .get_ptr_mut(line)
            .map(|line| Line::of(line, self.globals.zero))
    }

    #[inline(always)]
    const fn request(&self, call: Digest, now: u32) -> Request {
        Request {
            fingerprint: call.fingerprint(self.service.id),
            now,
        }
    }

    /// Writes down where the call is, if the rule wants that.
    #[inline(always)]
    pub(crate) fn remember(&self, scan: &Scan, decision: &Chosen, backend: &Backend) {
        if decision.remember & Chosen::CALL != 0 {
            self.write_entry(scan.call, decision.backend, backend.incarnation);
            if decision.remember & Chosen::ADDED != 0 {
                count(Event::AFFINITY_ADDED);
            }
        }
    }

    /// Writes an affinity entry, then the hint that makes others look for it.
    #[inline(always)]
    pub(crate) fn write_entry(&self, call: Digest, backend: BackendId, incarnation: u16) {
        let entry = Affinity {
            backend,
            incarnation,
            second: seconds(),
        };
        // A full map gives up its oldest entry; there is no other failure.
        let _ = AFFINITY.insert(call.affinity_key(self.service.id), entry, 0);
        let slot = call.slot();
        if let Some(line) = HINTS.get_ptr_mut(self.service.hints + slot / HINTS_PER_LINE) {
            // SAFETY: a map value; the index is below the line's length.
            unsafe { (&raw mut (*line).0[(slot % HINTS_PER_LINE) as usize]).write_volatile(1) };
        }
    }
}

/// Counts an event, on this CPU alone.
#[inline(always)]
pub(crate) fn count(event: Event) {
    if let Some(counter) = EVENTS.get_ptr_mut(event.0) {
        // SAFETY: a map value of this CPU alone.
        unsafe { counter.write_volatile(counter.read_volatile() + 1) };
    }
}

/// Seconds of the monotonic clock.
#[inline(always)]
pub(crate) fn seconds() -> u32 {
    // SAFETY: takes nothing and returns a number.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}
