//! Conversations: how many at once, and for how long.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};
use tracing::debug;

/// Conversations at once on one listener: clients that stay must not use up the daemon's
/// descriptors.
const AT_ONCE: usize = 64;
/// How long a conversation may take, from the first byte to the last; more than an answer may.
const CONVERSATION: Duration = Duration::from_secs(30);

/// Serves until dropped. Each conversation is one request.
pub(super) async fn serve(mut listener: impl Listener, router: Router) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut conversations = JoinSet::new();
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let (stream, _) = listener.accept().await;
        let service = TowerToHyperService::new(router.clone());
        let connection = http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        conversations.spawn(async move {
            match timeout(CONVERSATION, pin!(connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "a client of the API broke off"),
                Err(_) => debug!("a client of the API took too long"),
            }
            drop(permit);
        });
        while conversations.try_join_next().is_some() {}
    }
}
