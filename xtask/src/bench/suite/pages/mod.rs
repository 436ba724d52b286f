//! One page for each bench. A bench is in the suite once it has an entry here.

mod architectures;
mod churn;
mod fastpath;
mod growth;
mod heartbeats;
mod oslb;
mod peers;
mod pps;
mod reaction;
mod sipp;
mod slowpath;

use super::page::Page;

/// All benches, in the order in which they run and are shown.
pub(super) const PAGES: [Page; 11] = [
    fastpath::PAGE,
    growth::PAGE,
    pps::PAGE,
    sipp::PAGE,
    peers::PAGE,
    slowpath::PAGE,
    architectures::PAGE,
    oslb::PAGE,
    churn::PAGE,
    reaction::PAGE,
    heartbeats::PAGE,
];

/// The bench of this name.
pub(super) fn find(name: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.name == name)
}
