//! The clock: the only place that reads the time. Rules take `now` as an argument.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use crate::domain::Millis;

/// What time it is, for everything that happens at the edges of the service.
///
/// A manual clock lets a month pass in a test; no rule of the service knows which kind it runs on.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// The time of a manual clock; the system's clock when there is none.
    manual: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self { manual: None }
    }

    /// A clock that stands at `now` until [`Clock::set`] moves it.
    pub fn manual(now: Millis) -> Self {
        Self {
            manual: Some(Arc::new(AtomicI64::new(now))),
        }
    }

    /// The present moment.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the edge that reads the clock"
    )]
    pub fn now(&self) -> Millis {
        match &self.manual {
            Some(manual) => manual.load(Ordering::SeqCst),
            None => chrono::Utc::now().timestamp_millis(),
        }
    }

    /// Moves a manual clock; does nothing to the system's.
    pub fn set(&self, now: Millis) {
        if let Some(manual) = &self.manual {
            manual.store(now, Ordering::SeqCst);
        }
    }
}
