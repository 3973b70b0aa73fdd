//! The metrics of a commit, from the outcomes of its calls.

use tokio::time::Instant;

use crate::{domain::increment::Outcome, metrics, store::group::EntryOutcome};

/// Records the outcomes and the duration of a commit.
pub(super) fn record_metrics(outcomes: &[EntryOutcome], started: Instant) {
    let (mut counted, mut duplicate, mut refused) = (0_u64, 0_u64, 0_u64);
    let mut add = |items: &[Outcome], own: usize| {
        let number = |is: fn(&Outcome) -> bool| items.iter().filter(|item| is(item)).count();
        let rejected = number(|item| matches!(item, Outcome::Refused(_)));
        for (tally, items) in [
            (&mut counted, own),
            (&mut refused, rejected),
            (
                &mut duplicate,
                items.len().saturating_sub(own).saturating_sub(rejected),
            ),
        ] {
            *tally = tally.saturating_add(u64::try_from(items).unwrap_or(u64::MAX));
        }
    };
    for outcome in outcomes {
        match outcome {
            EntryOutcome::One(item) => {
                add(
                    std::slice::from_ref(item),
                    usize::from(*item == Outcome::Counted),
                );
            }
            EntryOutcome::Batch { counted, items, .. } => add(items, *counted),
            EntryOutcome::BatchRefused(_) => {}
        }
    }
    metrics::record_commit(counted, started.elapsed());
    metrics::count_increments("counted", counted);
    metrics::count_increments("duplicate", duplicate);
    metrics::count_increments("refused", refused);
}
