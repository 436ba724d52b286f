//! Kamailio's dispatcher in the forwarder's place: what the forwarder is compared with.
//!
//! It stands on the VIP in the forwarder's namespace, gives new calls to the proxies in turn (algorithm 4), keeps
//! transactions and records itself in the route. The proxies behind it record themselves too, see
//! [`RecordRoute::Own`](crate::kamailio::RecordRoute::Own): that is how the manuals set it up.

use std::fmt::Write as _;

use anyhow::Result;

use crate::kamailio::{self, InUri, PORT};
use crate::lab::address::vip;
use crate::lab::{Family, Host, Lab, Process};
use crate::sipp::unique;

/// How it looks after the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// As it comes: it asks nobody, and a transaction has 30 s.
    Default,
    /// An OPTIONS every second, a transaction has 1 s and then tries the next proxy.
    Tuned,
}

/// A dispatcher, until dropped.
#[derive(Debug)]
pub struct Dispatcher {
    process: Process,
}

impl Dispatcher {
    /// Starts it in front of all proxies of the lab and waits until it listens.
    pub fn start(lab: &Lab, family: Family, tuning: Tuning) -> Result<Self> {
        let stem = format!("dispatcher-{}", unique());
        let list = lab.dir().join(format!("{stem}.list"));
        kamailio::write(&list, &proxies(lab, family))?;
        let text = configuration(family, tuning, &list.to_string_lossy());
        let process = kamailio::launch(lab, Host::Forwarder, &stem, &text)?;
        Ok(Self { process })
    }

    /// Its main process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        kamailio::end(&mut self.process);
    }
}

/// The dispatcher's list: one line for each proxy, all in set 1.
fn proxies(lab: &Lab, family: Family) -> String {
    let mut text = String::new();
    for n in 1..=lab.proxies() {
        let address = InUri(Host::Proxy(n).address(family));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "1 sip:{address}:{PORT}");
    }
    text
}

fn configuration(family: Family, tuning: Tuning, list: &str) -> String {
    let define = match tuning {
        Tuning::Default => "",
        Tuning::Tuned => "#!define TUNED\n",
    };
    let text = include_str!("scenarios/dispatcher.cfg")
        .replace("@VIP@", &InUri(vip(family)).to_string())
        .replace("@PORT@", &PORT.to_string())
        .replace("@LIST@", list);
    format!("{define}{text}")
}
