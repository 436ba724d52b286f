//! Requests on their way to a backend over a connection, until it answers.
//!
//! Over TCP a client does not repeat a request, and a request that was written to a connection whose
//! other end dies is lost. So what has not been answered when that happens is given to another
//! backend. Nothing else of a transaction is remembered, and nothing for longer than [`LONGEST`].

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::slowpath::flows::Outbound;

/// How long a transaction takes at most (RFC 3261, timer B).
const LONGEST: Duration = Duration::from_secs(32);
/// More than a backend that works leaves unanswered.
const MOST: usize = 4_096;

/// The branch that we gave a request: 16 hexadecimal digits.
type Branch = [u8; 16];

/// What a backend has not answered.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    requests: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    by_branch: HashMap<Branch, Outbound>,
    /// In the order they were sent; those answered are in it for a while.
    order: VecDeque<(Instant, Branch)>,
}

impl Unanswered {
    /// Remembers a request that is being sent.
    pub(super) fn sent(&self, request: &Outbound, now: Instant) {
        let Some(branch) = branch_of(&request.bytes) else {
            return;
        };
        let mut requests = self.lock();
        requests.forget_old(now);
        requests.order.push_back((now, branch));
        requests.by_branch.insert(branch, request.clone());
    }

    /// Forgets the request that this response answers, be it only for now; or one that was not sent.
    pub(super) fn forget(&self, message: &[u8]) {
        let Some(branch) = branch_of(message) else {
            return;
        };
        self.lock().by_branch.remove(&branch);
    }

    /// All that was not answered, in the order it was sent.
    pub(super) fn take(&self) -> Vec<Outbound> {
        let Requests {
            mut by_branch,
            order,
        } = std::mem::take(&mut *self.lock());
        order
            .iter()
            .filter_map(|(_, branch)| by_branch.remove(branch))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Requests> {
        // Whoever panicked with it left whole requests.
        self.requests
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Requests {
    fn forget_old(&mut self, now: Instant) {
        while let Some(&(sent, branch)) = self.order.front() {
            let is_answered = !self.by_branch.contains_key(&branch);
            let is_old = now.duration_since(sent) > LONGEST || self.order.len() >= MOST;
            if !is_answered && !is_old {
                break;
            }
            self.order.pop_front();
            if is_old {
                self.by_branch.remove(&branch);
            }
        }
    }
}

/// The branch in our own Via, which is the first.
fn branch_of(message: &[u8]) -> Option<Branch> {
    const COOKIE: &[u8] = b";sfw=";
    let at = message.windows(COOKIE.len()).position(|w| w == COOKIE)?;
    message.get(at.checked_sub(16)?..at)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sip::transport::{Flow, Transport},
        slowpath::flows::{Next, Sender},
    };
    use bytes::Bytes;
    use sip_forwarder_ebpf::{abi::ServiceId, verdict::Verdict};

    fn request(branch: u64) -> Outbound {
        let address = "192.0.2.1:5060".parse().unwrap();
        Outbound {
            service: ServiceId(1),
            sender: Sender {
                flow: Flow::udp(address),
                is_backend: false,
            },
            next: Next::Backend {
                address,
                transport: Transport::Tcp,
            },
            bytes: Bytes::from(format!("INVITE sip:b SIP/2.0\r\n{}", via(branch))),
            verdict: Verdict::ForwardedHome,
            since: Instant::now(),
        }
    }

    fn via(branch: u64) -> String {
        format!("Via: SIP/2.0/TCP a;branch=z9hG4bK{branch:016x};sfw=AQ\r\n")
    }

    fn left(unanswered: &Unanswered) -> Vec<Bytes> {
        unanswered.take().into_iter().map(|r| r.bytes).collect()
    }

    #[test]
    fn what_is_answered_is_forgotten() {
        let unanswered = Unanswered::default();
        let now = Instant::now();
        for branch in 1..=3 {
            unanswered.sent(&request(branch), now);
        }
        unanswered.forget(format!("SIP/2.0 100 Trying\r\n{}", via(2)).as_bytes());
        unanswered.forget(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP a\r\n");
        assert_eq!(left(&unanswered), [request(1).bytes, request(3).bytes]);
        assert!(left(&unanswered).is_empty());
    }

    #[test]
    fn nothing_is_remembered_for_long_nor_without_bound() {
        let unanswered = Unanswered::default();
        let now = Instant::now();
        unanswered.sent(&request(1), now);
        unanswered.sent(&request(2), now + LONGEST + Duration::from_secs(1));
        assert_eq!(left(&unanswered), [request(2).bytes]);
        for branch in 0..2 * MOST as u64 {
            unanswered.sent(&request(branch), now);
        }
        assert!(left(&unanswered).len() <= MOST);
    }
}
