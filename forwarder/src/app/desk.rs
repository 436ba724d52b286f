//! Where the API's wishes wait until the daemon's loop has time for them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sip_forwarder_ebpf::abi::Affinity;
use tokio::sync::{mpsc, oneshot};

use crate::{
    api::{Change, Changed, Operator, Refusal, Reloaded, status::Status},
    dataplane::Maps,
};

/// Wishes that may wait at a time; whoever comes then waits to be let in.
const ROOM: usize = 16;

/// Where an answer goes. Nobody may be there any more.
type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the API asks of the daemon.
pub(super) enum Wish {
    /// The whole picture, with all that the affinity map holds.
    Status {
        /// The map's entries.
        calls: Vec<Affinity>,
        /// Where the answer goes.
        reply: Reply<Status>,
    },
    /// A change of a backend.
    Change {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
        /// The change.
        change: Change,
        /// Where the answer goes.
        reply: Reply<Changed>,
    },
    /// The configuration anew.
    Reload {
        /// Where the answer goes.
        reply: Reply<Reloaded>,
    },
}

/// The API's side.
pub(super) struct Desk {
    wishes: mpsc::Sender<Wish>,
    maps: Arc<Maps>,
}

impl Desk {
    /// The desk, and what is laid on it.
    pub(super) fn open(maps: Arc<Maps>) -> (Self, mpsc::Receiver<Wish>) {
        let (wishes, laid) = mpsc::channel(ROOM);
        (Self { wishes, maps }, laid)
    }

    async fn ask<T>(&self, wish: impl FnOnce(Reply<T>) -> Wish) -> Result<T, Refusal> {
        let gone = || Refusal::Failed("the daemon is stopping; ask again when it runs".to_owned());
        let (reply, answer) = oneshot::channel();
        self.wishes.send(wish(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Operator for Desk {
    fn status(&self) -> BoxFuture<'_, Result<Status, Refusal>> {
        Box::pin(async move {
            // Reading a large map takes long, and the loop must not wait for it.
            let maps = Arc::clone(&self.maps);
            let calls = tokio::task::spawn_blocking(move || maps.affinity_entries())
                .await
                .map_err(|error| {
                    Refusal::Failed(format!("cannot read the affinity map: {error}"))
                })?;
            self.ask(|reply| Wish::Status { calls, reply }).await
        })
    }

    fn change(
        &self,
        service: &str,
        backend: &str,
        change: Change,
    ) -> BoxFuture<'_, Result<Changed, Refusal>> {
        let (service, backend) = (service.to_owned(), backend.to_owned());
        Box::pin(self.ask(move |reply| Wish::Change {
            service,
            backend,
            change,
            reply,
        }))
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Refusal>> {
        Box::pin(self.ask(|reply| Wish::Reload { reply }))
    }
}
