//! Tells the program which usage will not be counted.

use super::aggregator::Sum;
use crate::Reason;
use chrono::{DateTime, Utc};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Usage that is not counted: the server rejected it permanently, or the recorder dropped it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedUsage {
    /// The account; empty for the sum of dropped usage of too many accounts, and for a damaged file of the spool.
    pub account_id: String,
    /// The meter; empty for the server's default meter.
    pub meter: String,
    /// The second in which it was recorded; of a sum, the first one.
    pub at: DateTime<Utc>,
    /// The units.
    pub units: u64,
    /// The calls of [`Recorder::record`](crate::Recorder::record) that they are the sum of.
    pub calls: u64,
    /// The server's reason; of dropped usage there is none.
    pub reason: Option<Reason>,
    /// Why it is not counted; of dropped usage, it begins with `dropped:`.
    pub why: String,
}

/// What is called with refused usage.
#[derive(Clone, Default)]
pub(super) struct OnRefused(Option<Arc<dyn Fn(RefusedUsage) + Send + Sync>>);

impl fmt::Debug for OnRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some" } else { "None" })
    }
}

impl OnRefused {
    pub(super) fn new(tell: impl Fn(RefusedUsage) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Whether anybody listens.
    pub(super) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// What to tell of a sum, if anybody listens.
    pub(super) fn describe(
        &self,
        sum: &Sum,
        why: impl FnOnce() -> (Option<Reason>, String),
    ) -> Option<RefusedUsage> {
        self.is_set().then(|| {
            let (reason, why) = why();
            RefusedUsage {
                account_id: (*sum.account).to_owned(),
                meter: (*sum.meter).to_owned(),
                at: DateTime::from_timestamp(sum.second, 0).unwrap_or_default(),
                units: u64::try_from(sum.quantity).unwrap_or(0),
                calls: sum.records,
                reason,
                why,
            }
        })
    }

    /// Tells it. A panic of the program's code stops nothing here.
    pub(super) fn tell(&self, all: Vec<RefusedUsage>) {
        let Some(tell) = &self.0 else { return };
        for usage in all {
            let told = catch_unwind(AssertUnwindSafe(|| tell(usage)));
            if told.is_err() {
                tracing::error!("the code that is called with refused usage panicked");
            }
        }
    }
}
