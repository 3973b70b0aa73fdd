//! The usage of all accounts that a page asks for with a filter. It reads the reports of all accounts, so a page waits for it
//! for a moment only, and is shown again when it was read. Each question takes a place of its visitor's key, as any call of it does.

use std::time::Duration;

use moka::{policy::EvictionPolicy, sync::Cache};
use usage_proto::v1::{GetSummaryRequest, GetSummaryResponse, ListUsageRequest, ListUsageResponse};

use super::{
    calls::Failure,
    kept::{Ages, Found, Kept},
    visitor::Visitor,
};

/// The questions whose answers are kept, those that were last asked.
const QUESTIONS: u64 = 32;
const AGES: Ages = Ages {
    // What is read quickly is read each time.
    young: Duration::ZERO,
    old: Duration::from_hours(1),
    wait: Duration::from_millis(75),
};

/// What one page asks.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Only on the first page.
    pub(super) summary: Option<GetSummaryRequest>,
    /// Only of one meter.
    pub(super) accounts: Option<ListUsageRequest>,
}

/// The answers to it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) summary: Option<GetSummaryResponse>,
    pub(super) accounts: Option<ListUsageResponse>,
}

/// By what the address of the page chooses.
pub(super) struct AskedUsage(Cache<Vec<String>, Kept<Asked>>);

impl Default for AskedUsage {
    fn default() -> Self {
        let kept = Cache::builder().eviction_policy(EvictionPolicy::lru());
        Self(kept.max_capacity(QUESTIONS).build())
    }
}

impl AskedUsage {
    /// The answers; none if they take longer than a page waits, and were never read. `chosen` is what makes two questions the
    /// same, also if one is asked later.
    ///
    /// # Errors
    /// The visitor may not see them, or a read fails.
    pub(super) async fn read(
        &self,
        visitor: &Visitor,
        chosen: Vec<String>,
        question: Question,
    ) -> Result<Option<Found<Asked>>, Failure> {
        let calls = visitor.calls.clone();
        let asking = async move {
            // One after the other, so that a page takes one turn of those that read all accounts.
            let summary = match question.summary {
                Some(request) => Some(calls.get_summary(request).await?),
                None => None,
            };
            let accounts = match question.accounts {
                Some(request) => Some(calls.list_usage(request).await?),
                None => None,
            };
            Ok(Asked { summary, accounts })
        };
        // As the calls themselves check it; another key sees nothing that was read for this one.
        if visitor.caller.check_everything().is_err() {
            asking.await?;
            return Ok(None);
        }
        let kept = self.0.get_with(chosen, || Kept::new(AGES));
        kept.get_anew(asking).await
    }
}
