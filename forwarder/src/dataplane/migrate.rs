//! Taking over from a daemon whose maps have another layout: new maps stand beside the old ones, and
//! what is known of calls that are not at home is brought over.

use std::{path::Path, sync::atomic::Ordering};

use aya::maps::{HashMap, Map, MapData, MapError};
use sip_forwarder_ebpf::abi::{Affinity, AffinityKey, HINT_LINES_PER_SERVICE};
use tracing::{info, warn};

use super::{Maps, MapsError, pins::Pins};

/// Copies the affinity entries of every other version's maps, and makes every slot of `services`
/// services be looked for: which slots the entries are in, their keys do not tell.
///
/// What the new map knows already stays unless the old one has it newer: this is done once before the programs are
/// exchanged, and once after, for what the old one wrote meanwhile. Returns how many were new.
///
/// Entries are the same 16 bytes in all versions so far; a map of another shape is left out, and its
/// calls go home.
pub fn adopt_calls(maps: &Maps, pins: &Pins, services: u32) -> Result<usize, MapsError> {
    let mut copied = 0;
    for folder in pins.other_versions() {
        match entries(&folder, maps.affinity_capacity()) {
            Ok(entries) => {
                let mut new = 0;
                for (key, entry) in &entries {
                    let known = maps.affinity.get(key)?;
                    if known.is_none_or(|known| known.second < entry.second) {
                        maps.affinity.insert(key, entry)?;
                        new += 1;
                    }
                }
                info!(from = %folder.display(), entries = new, "took over calls that are not at home from another version's map");
                copied += new;
            }
            Err(error) => {
                warn!(from = %folder.display(), %error, "cannot take over another version's affinity entries; those calls go to their homes");
            }
        }
    }
    if copied > 0 {
        let lines = (0..services * HINT_LINES_PER_SERVICE).filter_map(|line| maps.hints.get(line));
        for hint in lines.flat_map(|line| &line.0) {
            hint.store(1, Ordering::Release);
        }
    }
    Ok(copied)
}

fn entries(folder: &Path, most: u32) -> Result<Vec<(AffinityKey, Affinity)>, MapError> {
    let map: HashMap<MapData, AffinityKey, Affinity> =
        HashMap::try_from(Map::LruHashMap(MapData::from_pin(folder.join("AFFINITY"))?))?;
    // A walk over a map that evicts may begin anew, and must not go on for ever.
    map.iter().take(most as usize).collect()
}
