//! What the API may do to this daemon.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{picture::Picture, snapshot::Snapshot};
use crate::{
    api::{Change, Changed, Operator, Refusal, Reloaded, status},
    config::Config,
    control::numbering::Numbering,
};

/// A daemon whose configuration is fixed at its start.
pub(super) struct Fixed {
    drawn_from: Arc<(Picture, Config, Numbering)>,
}

impl Fixed {
    /// Of a daemon that has just started.
    pub(super) fn new(picture: Picture, config: Config, numbering: Numbering) -> Self {
        Self {
            drawn_from: Arc::new((picture, config, numbering)),
        }
    }
}

impl Operator for Fixed {
    fn status(&self) -> BoxFuture<'_, Result<status::Status, Refusal>> {
        let drawn_from = Arc::clone(&self.drawn_from);
        let draw = tokio::task::spawn_blocking(move || {
            let (picture, config, numbering) = &*drawn_from;
            picture.draw(config, numbering, &Snapshot::of_configuration(config))
        });
        Box::pin(async {
            let drawn = draw
                .await
                .map_err(|fault| Refusal::Failed(fault.to_string()))?;
            drawn.map_err(|fault| Refusal::Failed(fault.to_string()))
        })
    }

    fn change(&self, _: &str, _: &str, _: Change) -> BoxFuture<'_, Result<Changed, Refusal>> {
        Box::pin(async { Err(fixed()) })
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Refusal>> {
        Box::pin(async { Err(fixed()) })
    }
}

fn fixed() -> Refusal {
    Refusal::Failed(
        "this daemon cannot change while it runs; edit the configuration and restart it".to_owned(),
    )
}
