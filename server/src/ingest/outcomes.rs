//! The metrics of a commit, from the outcomes of its calls.

use tokio::time::Instant;

use crate::{domain::increment::Outcome, metrics, store::group::EntryOutcome};

/// Records the outcomes and the duration of a commit.
pub(super) fn record_metrics(outcomes: &[EntryOutcome], started: Instant) {
    let (mut counted, mut duplicate, mut refused) = (0_u64, 0_u64, 0_u64);
    for outcome in outcomes {
        let (items, replayed) = match outcome {
            EntryOutcome::One(item) => (std::slice::from_ref(item), false),
            EntryOutcome::Batch { replayed, items } => (items.as_slice(), *replayed),
            EntryOutcome::BatchRefused(_) => continue,
        };
        for item in items {
            let tally = match item {
                Outcome::Refused(_) => &mut refused,
                Outcome::Counted if !replayed => &mut counted,
                Outcome::Counted | Outcome::Duplicate => &mut duplicate,
            };
            *tally = tally.saturating_add(1);
        }
    }
    metrics::record_commit(counted, started.elapsed());
    metrics::count_increments("counted", counted);
    metrics::count_increments("duplicate", duplicate);
    metrics::count_increments("refused", refused);
}
