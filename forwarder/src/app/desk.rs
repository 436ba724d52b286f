//! Where the API's wishes wait until the daemon's loop has time for them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::{
    api::{Change, Changed, Operator, Refusal, Reloaded, status::Status},
    dataplane::{Census, Plane},
};

/// Wishes that may wait at a time; whoever comes then waits to be let in.
const ROOM: usize = 16;

/// Where an answer goes. Nobody may be there any more.
type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the API asks of the daemon.
pub(super) enum Wish {
    /// The whole picture, with all that the affinity map holds.
    Status {
        /// What the affinity map holds.
        census: Arc<Census>,
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
    /// What is counted; nothing before the tables are there.
    counted: ArcSwapOption<Counted>,
    /// The last count, and until when it serves. Whoever counts holds it: one count at a time.
    census: Mutex<Option<(Instant, Arc<Census>)>>,
}

/// The tables that are counted, and for how many seconds an entry may be a call that is up, by its
/// backend's number.
struct Counted {
    plane: Arc<dyn Plane>,
    settle: Vec<u32>,
}

/// A count serves at least so long, however many ask.
const LASTS: Duration = Duration::from_secs(1);
/// And so many times as long as it took, so that counting a large map never takes a core.
const TIMES: u32 = 10;

impl Desk {
    /// The desk, and what is laid on it.
    pub(super) fn open() -> (Self, mpsc::Receiver<Wish>) {
        let (wishes, laid) = mpsc::channel(ROOM);
        let desk = Self {
            wishes,
            counted: ArcSwapOption::empty(),
            census: Mutex::new(None),
        };
        (desk, laid)
    }

    /// Counts the calls in these tables from now on; `settle` is by number of the backend, in seconds.
    pub(super) fn count_in(&self, plane: Arc<dyn Plane>, settle: Vec<u32>) {
        self.counted
            .store(Some(Arc::new(Counted { plane, settle })));
    }

    /// What the affinity map holds, as of a moment ago. Counting takes long, and the loop must not wait
    /// for it.
    async fn census(&self) -> Result<Arc<Census>, Refusal> {
        let mut last = self.census.lock().await;
        if let Some((until, census)) = &*last
            && Instant::now() < *until
        {
            return Ok(Arc::clone(census));
        }
        let Some(counted) = self.counted.load_full() else {
            return Ok(Arc::default());
        };
        let start = Instant::now();
        let count = move || counted.plane.census(&counted.settle);
        let census = tokio::task::spawn_blocking(count)
            .await
            .map_err(|error| Refusal::Failed(format!("cannot count the calls: {error}")))?;
        let census = Arc::new(census);
        let lasts = (start.elapsed() * TIMES).max(LASTS);
        *last = Some((Instant::now() + lasts, Arc::clone(&census)));
        Ok(census)
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
            let census = self.census().await?;
            self.ask(|reply| Wish::Status { census, reply }).await
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
