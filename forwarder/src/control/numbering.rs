//! Which backend has which number. Numbers are indexes of maps and what affinity entries hold, so a
//! backend keeps its number as long as it is configured, and a number is reused only under a new
//! incarnation.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};
use sip_forwarder_ebpf::abi::BackendId;

use crate::config::Config;

/// A backend's number and incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Number {
    /// Index in the backends map.
    pub index: u16,
    /// Which backend of this number it is.
    pub incarnation: u16,
}

impl Number {
    /// As the data plane names it.
    #[must_use]
    pub const fn id(self) -> BackendId {
        BackendId(self.index)
    }
}

/// The numbers given so far; kept in the state file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbering {
    /// Service → its number.
    services: BTreeMap<String, u16>,
    /// "service/backend@address" → its number.
    backends: BTreeMap<String, Number>,
    /// The last incarnation of each number that was ever given.
    incarnations: BTreeMap<u16, u16>,
}

impl Numbering {
    /// Gives numbers to everything configured, keeping those that are known, and frees the others.
    pub fn assign(&mut self, config: &Config) {
        // A number that is freed now may still stand in a live ring or map: it is given again only if
        // there is no other.
        let mut services = Free::new(self.services.values().copied(), config.limits.services);
        self.services
            .retain(|name, _| config.services.iter().any(|s| &s.name == name));
        services.keep(self.services.values().copied());
        for service in &config.services {
            if !self.services.contains_key(&service.name) {
                self.services.insert(service.name.clone(), services.take());
            }
        }
        let mut backends = Free::new(self.indexes(), config.limits.backends);
        let wanted: BTreeSet<String> = config
            .services
            .iter()
            .flat_map(|s| s.backends.iter().map(|b| key(&s.name, &b.name, b.address)))
            .collect();
        self.backends.retain(|name, _| wanted.contains(name));
        backends.keep(self.indexes());
        for name in wanted {
            if !self.backends.contains_key(&name) {
                let index = backends.take();
                let incarnation = self
                    .incarnations
                    .entry(index)
                    .and_modify(|i| *i = i.wrapping_add(1))
                    .or_insert(1);
                let number = Number {
                    index,
                    incarnation: *incarnation,
                };
                self.backends.insert(name, number);
            }
        }
    }

    fn indexes(&self) -> impl Iterator<Item = u16> {
        self.backends.values().map(|number| number.index)
    }

    /// The number of a service that was assigned one.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<u16> {
        self.services.get(name).copied()
    }

    /// The number of a backend that was assigned one.
    #[must_use]
    pub fn backend(&self, service: &str, name: &str, address: SocketAddr) -> Option<Number> {
        self.backends.get(&key(service, name, address)).copied()
    }
}

fn key(service: &str, backend: &str, address: SocketAddr) -> String {
    format!("{service}/{backend}@{address}")
}

/// Numbers that may be given, the lowest first; those that were in use until now come last.
struct Free {
    before: BTreeSet<u16>,
    used: BTreeSet<u16>,
    limit: u16,
    /// Below it nothing is left.
    next: u16,
}

impl Free {
    /// Of the numbers below `limit`, with those that were in use.
    fn new(before: impl Iterator<Item = u16>, limit: u32) -> Self {
        Self {
            before: before.collect(),
            used: BTreeSet::new(),
            limit: u16::try_from(limit).unwrap_or(u16::MAX),
            next: 0,
        }
    }

    /// These stay in use.
    fn keep(&mut self, used: impl Iterator<Item = u16>) {
        self.used.extend(used);
    }

    fn take(&mut self) -> u16 {
        let untouched =
            (self.next..self.limit).find(|n| !self.used.contains(n) && !self.before.contains(n));
        let number = untouched
            .or_else(|| (0..u16::MAX).find(|n| !self.used.contains(n)))
            .unwrap_or(u16::MAX);
        self.next = untouched.map_or(self.limit, |n| n + 1);
        self.used.insert(number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(backends: &[(&str, u8)]) -> Config {
        let list = backends
            .iter()
            .map(|(name, host)| {
                format!("[[service.backend]]\nname = \"{name}\"\naddress = \"198.51.100.{host}\"\n")
            })
            .collect::<Vec<_>>()
            .concat();
        parse(&format!(
            "[forwarder]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"s\"\naddress = \"192.0.2.1\"\n{list}"
        ))
        .unwrap()
    }

    fn number(numbering: &Numbering, name: &str, host: u8) -> Option<Number> {
        numbering.backend(
            "s",
            name,
            format!("198.51.100.{host}:5060").parse().unwrap(),
        )
    }

    #[test]
    fn numbers_stay_when_others_come_and_go() {
        let mut numbering = Numbering::default();
        numbering.assign(&config(&[("a", 1), ("b", 2), ("c", 3)]));
        let c = number(&numbering, "c", 3);
        numbering.assign(&config(&[("c", 3), ("b", 2)]));
        assert_eq!(number(&numbering, "c", 3), c);
    }

    #[test]
    fn a_freed_number_comes_back_as_another_incarnation() {
        let mut numbering = Numbering::default();
        numbering.assign(&config(&[("a", 1)]));
        let a = number(&numbering, "a", 1).unwrap();
        numbering.assign(&config(&[("b", 2)]));
        let b = number(&numbering, "b", 2).unwrap();
        assert_ne!(a.index, b.index, "a live ring may still name it");
        numbering.assign(&config(&[("c", 3)]));
        let b = number(&numbering, "c", 3).unwrap();
        assert_eq!(a.index, b.index);
        assert_ne!(a.incarnation, b.incarnation);
    }

    #[test]
    fn a_new_address_is_a_new_backend() {
        let mut numbering = Numbering::default();
        numbering.assign(&config(&[("a", 1)]));
        let before = number(&numbering, "a", 1).unwrap();
        numbering.assign(&config(&[("a", 9)]));
        assert_ne!(number(&numbering, "a", 9).unwrap(), before);
    }
}
