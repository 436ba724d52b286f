//! The tables, as the fast path reads and writes them for one message.

use crate::{
    maps::{AFFINITY, BACKENDS, EVENTS, HINTS, RECENT, RINGS, SENT_BY, TURNS},
    source::Packet,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use sip_forwarder_ebpf::{
    abi::{
        Affinity, Backend, BackendFlags, BackendId, Event, Globals, HINTS_PER_LINE, Policy,
        RING_SLOTS, Recent, SLOTS_PER_LINE, Service, Slot,
    },
    hash::Digest,
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
    /// Everything the rule wants to know.
    #[inline(always)]
    pub(crate) fn find(&self, scan: &Scan, slot: Slot, now: u32) -> Result<Found, Verdict> {
        let (entry, known) = self.entry(scan.call);
        let named = self.named(scan.host)?;
        // Only what the rule may ask for: each answer costs a look into a map.
        let (recent, home) = if scan.role.starts() {
            (self.recent(scan.call, now), BackendId::NONE)
        } else {
            (BackendId::NONE, self.live(slot.home()))
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
        Ok(Found {
            role: scan.role,
            entry,
            known,
            named,
            recent,
            admit,
            home,
            slot,
        })
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

    /// The number of the next turn of this service on this CPU.
    #[inline(always)]
    fn next_turn(&self) -> Option<u32> {
        let turn = TURNS.get_ptr_mut(u32::from(self.service.id.0))?;
        // SAFETY: a map value of this CPU alone, on which no other packet is handled meanwhile.
        let now = unsafe { turn.read_volatile() };
        let next = if now + 1 < RING_SLOTS { now + 1 } else { 0 };
        // SAFETY: as above.
        unsafe { turn.write_volatile(next) };
        Some(if now < RING_SLOTS { now } else { 0 })
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

    /// Where this Call-ID's starting request went in the last 32 seconds, or none.
    #[inline(always)]
    pub(crate) fn recent(&self, call: Digest, now: u32) -> BackendId {
        let index = call.recent_index(self.service.id, self.globals.recent_mask);
        let Some(seen) = RECENT.get_ptr(index) else {
            return BackendId::NONE;
        };
        // SAFETY: a map value, aligned; one volatile word, so never half of two.
        let seen = unsafe { seen.read_volatile() };
        self.live(seen.backend_of(call.fingerprint(self.service.id), now as u16))
    }

    /// Writes down what the rule wants remembered.
    #[inline(always)]
    pub(crate) fn remember(&self, scan: &Scan, decision: &Chosen, backend: &Backend, now: u32) {
        if decision.remember & Chosen::START != 0 {
            let index = scan
                .call
                .recent_index(self.service.id, self.globals.recent_mask);
            if let Some(place) = RECENT.get_ptr_mut(index) {
                let fingerprint = scan.call.fingerprint(self.service.id);
                // SAFETY: as in `recent`.
                let old = unsafe { place.read_volatile() };
                if old.counts(now as u16) && !old.is_of(fingerprint) {
                    count(Event::RECENT_EVICTED);
                }
                let seen = Recent::new(fingerprint, now as u16, decision.backend);
                // One that says so already is not written: it may be on another CPU's cache line.
                if seen != old {
                    // SAFETY: as in `recent`.
                    unsafe { place.write_volatile(seen) };
                }
            }
        }
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
