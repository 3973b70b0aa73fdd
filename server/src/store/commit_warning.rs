//! Catches the warnings that PostgreSQL sends with the answer to a COMMIT.
//!
//! A COMMIT whose wait for the synchronous standby was cancelled, or ended with a timeout, succeeds with a warning. The
//! driver returns success, and hands the warning to `tracing` only. So the COMMIT is polled under a subscriber that
//! reads it.

use std::{cell::RefCell, fmt::Debug, future::poll_fn, pin::pin, sync::LazyLock, task::Poll};

use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    dispatcher::{get_default, with_default},
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

/// The driver's target for what PostgreSQL sends beside its answers.
const NOTICES: &str = "sqlx::postgres::notice";

thread_local! {
    /// While a COMMIT is polled: the subscriber that would be in use, and the warning that has come.
    static POLLED: RefCell<Option<(Dispatch, Option<String>)>> = const { RefCell::new(None) };
}

/// Runs a COMMIT. Returns its warning too.
pub(super) async fn with_warning<T>(commit: impl Future<Output = T>) -> (T, Option<String>) {
    static CATCHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Catcher));
    let mut commit = pin!(commit);
    let mut warning = None;
    let done = poll_fn(|context| {
        let outer = get_default(Dispatch::clone);
        POLLED.set(Some((outer, None)));
        let polled: Poll<T> = with_default(&CATCHER, || commit.as_mut().poll(context));
        if let Some((_, Some(found))) = POLLED.take() {
            warning = Some(found);
        }
        polled
    })
    .await;
    (done, warning)
}

/// Reads notices, and passes all events on.
struct Catcher;

impl Catcher {
    fn outer() -> Option<Dispatch> {
        POLLED.with_borrow(|polled| polled.as_ref().map(|(outer, _)| outer.clone()))
    }
}

fn is_warning(metadata: &Metadata<'_>) -> bool {
    metadata.target() == NOTICES && *metadata.level() <= Level::WARN
}

impl Subscriber for Catcher {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // A new span would outlive the COMMIT.
        !metadata.is_span()
            && (is_warning(metadata) || Self::outer().is_some_and(|outer| outer.enabled(metadata)))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        if is_warning(event.metadata()) {
            let mut text = Text::default();
            event.record(&mut text);
            POLLED.with_borrow_mut(|polled| {
                if let Some((_, warning)) = polled {
                    *warning = Some(text.0);
                }
            });
        }
        if let Some(outer) = Self::outer()
            && outer.enabled(event.metadata())
        {
            outer.event(event);
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The message of an event.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_warning_of_postgresql_is_caught_and_other_events_are_not() {
        let commit = async {
            tracing::warn!("another");
            tracing::info!(target: "sqlx::postgres::notice", "no warning");
            tokio::task::yield_now().await;
            // The driver asks first.
            if tracing::enabled!(target: "sqlx::postgres::notice", Level::WARN) {
                tracing::warn!(target: "sqlx::postgres::notice", message = "canceling wait");
            }
            tokio::task::yield_now().await;
            1
        };
        let caught = with_warning(commit).await;
        assert_eq!(caught, (1, Some("canceling wait".to_owned())));
        let silent = with_warning(async { tracing::warn!("another") }).await;
        assert_eq!(silent, ((), None));
        tracing::warn!(target: "sqlx::postgres::notice", "outside");
    }
}
