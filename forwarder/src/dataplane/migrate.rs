//! Taking over from a daemon whose maps have another layout: new maps stand beside the old ones, and
//! what is known of calls that are not at home is brought over.
//!
//! The affinity map is the same in all layouts so far, so both programs share it while they are
//! exchanged, and no entry is written where the other does not see it. Only if its size differs, by
//! other `[limits]`, entries are copied.

use std::{path::Path, sync::atomic::Ordering};

use aya::maps::{HashMap, Map, MapData, MapError, MapType};
use sip_forwarder_ebpf::abi::{Affinity, AffinityKey, HINT_LINES_PER_SERVICE};
use tracing::{info, warn};

use super::{Maps, MapsError, pins::Pins};

/// Name of the map of calls that are not at home.
const AFFINITY: &str = "AFFINITY";

/// Pins another version's affinity map for this version, too, if it has room for just so many
/// `entries`; to be called before this version's maps are made. Without such a map nothing happens.
pub fn share_affinity(pins: &Pins, entries: u32) {
    let own = pins.map(AFFINITY);
    if own.exists() {
        return;
    }
    for folder in pins.other_versions() {
        match share(&folder, &own, entries) {
            Ok(true) => {
                info!(from = %folder.display(), "shares another version's map of calls that are not at home");
                return;
            }
            Ok(false) => {}
            Err(error) => {
                warn!(from = %folder.display(), error, "cannot share another version's affinity map; its entries are copied");
            }
        }
    }
}

/// Pins a version's affinity map at `own`. False if it has another shape.
fn share(folder: &Path, own: &Path, entries: u32) -> Result<bool, String> {
    let map = MapData::from_pin(folder.join(AFFINITY)).map_err(|error| error.to_string())?;
    let info = map.info().map_err(|error| error.to_string())?;
    let shape = (info.key_size(), info.value_size(), info.max_entries());
    let wanted = (
        size_of::<AffinityKey>() as u32,
        size_of::<Affinity>() as u32,
        entries,
    );
    if shape != wanted || !info.map_type().is_ok_and(|kind| kind == MapType::LruHash) {
        return Ok(false);
    }
    map.pin(own).map_err(|error| error.to_string())?;
    Ok(true)
}

/// Copies the affinity entries of every other version's maps but a shared one, and makes every slot of
/// `services` services be looked for: which slots the entries are in, their keys do not tell.
///
/// What the new map knows already stays unless the old one has it newer: this is done once before the
/// programs are exchanged, and once after, for what the old one wrote meanwhile.
pub fn adopt_calls(maps: &Maps, pins: &Pins, services: u32) -> Result<(), MapsError> {
    let mut adopted = false;
    for folder in pins.other_versions() {
        adopted |= is_shared(maps, &folder) || copy_calls(maps, &folder)? > 0;
    }
    if adopted {
        let lines = (0..services * HINT_LINES_PER_SERVICE).filter_map(|line| maps.hints.get(line));
        for hint in lines.flat_map(|line| &line.0) {
            hint.store(1, Ordering::Release);
        }
    }
    Ok(())
}

/// Tells whether a version's affinity map is this version's.
fn is_shared(maps: &Maps, folder: &Path) -> bool {
    let id = MapData::from_pin(folder.join(AFFINITY))
        .and_then(|map| map.info())
        .map(|info| info.id());
    id.is_ok_and(|id| Some(id) == maps.affinity_id())
}

/// Copies a version's entries. Returns how many were new; a map of another kind is left out, and its
/// calls go home.
fn copy_calls(maps: &Maps, folder: &Path) -> Result<usize, MapsError> {
    let entries = match entries(folder, maps.affinity_capacity()) {
        Ok(entries) => entries,
        Err(error) => {
            warn!(from = %folder.display(), %error, "cannot take over another version's affinity entries; those calls go to their homes");
            return Ok(0);
        }
    };
    let mut new = 0;
    for (key, entry) in &entries {
        let known = maps.affinity.get(key)?;
        if known.is_none_or(|known| known.second < entry.second) {
            maps.affinity.insert(key, entry)?;
            new += 1;
        }
    }
    info!(from = %folder.display(), entries = new, "took over calls that are not at home from another version's map");
    Ok(new)
}

fn entries(folder: &Path, most: u32) -> Result<Vec<(AffinityKey, Affinity)>, MapError> {
    let map: HashMap<MapData, AffinityKey, Affinity> =
        HashMap::try_from(Map::LruHashMap(MapData::from_pin(folder.join(AFFINITY))?))?;
    // A walk over a map that evicts may begin anew, and must not go on for ever.
    map.iter().take(most as usize).collect()
}
