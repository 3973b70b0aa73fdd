//! The sender's mark at Stripe: checks that this database wrote the last one, and writes the next. The rule is in
//! `domain::sender_mark`.
//!
//! The mark is checked before the first report of a process, before reports are sent after a pause, and every hour. A
//! backup or a copy from before the last mark is therefore noticed before it sends anything.

use std::collections::BTreeSet;

use tokio::time::Instant;
use uuid::Uuid;

use super::send_event::{Claim, Requests};
use crate::{
    domain::{
        DAY_MS, HOUR_MS, MINUTE_MS, Millis,
        sender_mark::{Mark, StoredMark},
    },
    error::Result,
    metrics,
    stripe::{Failure, sender_marks::MarkedProduct},
};

/// How old a check may be when reports are sent.
const BEFORE_SENDING_MS: Millis = 10 * MINUTE_MS;
/// How often it is checked without reports to send.
const INTERVAL_MS: Millis = HOUR_MS;
/// A database whose last mark is younger than this sends to the same meters.
const ACTIVE_MS: Millis = 2 * DAY_MS;

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// Reports may be sent.
    Ours,
    /// The mark is of another copy of the database.
    NotOurs,
    /// It could not be checked: nothing is sent before that.
    Failed(Failure),
}

/// Checks and writes the mark.
#[derive(Debug, Default)]
pub(super) struct SenderMark {
    checked_at: Option<Millis>,
    /// Whether the last check wrote a mark, or could not.
    has_written: bool,
    /// Whether a missing permission was logged.
    has_warned: bool,
    /// The other databases that were logged.
    others: BTreeSet<Uuid>,
}

impl SenderMark {
    /// Whether the mark has to be checked, before reports are sent or while there are none.
    pub(super) fn is_due(&self, now: Millis, sends: bool) -> bool {
        if sends && !self.has_written {
            return true;
        }
        let interval = if sends {
            BEFORE_SENDING_MS
        } else {
            INTERVAL_MS
        };
        // A clock that was set back delays no check.
        !self
            .checked_at
            .is_some_and(|at| at <= now && now.saturating_sub(at) < interval)
    }

    /// Checks the mark, and writes the next one if this database reports to the account.
    pub(super) async fn check(
        &mut self,
        requests: &Requests,
        now: Millis,
        writes: bool,
    ) -> Result<Checked> {
        let products = match requests.stripe.marked_products(&requests.meters).await {
            Ok(products) => products,
            Err(failure) => {
                self.has_written = writes;
                return Ok(self.failed(failure, now));
            }
        };
        // Read after Stripe: what another replica has written meanwhile is known.
        let sending = requests.store.sending().await?;
        self.tell_others(&products, sending.database_id, now);
        let own = products.iter().flat_map(|product| &product.marks);
        let mut own = own.filter(|stored| stored.database == sending.database_id);
        if !own.all(|stored| sending.marks.includes(&stored.mark)) {
            return Ok(Checked::NotOurs);
        }
        self.has_written = writes;
        if writes && let Err(failure) = write(requests, &products, now).await? {
            return Ok(self.failed(failure, now));
        }
        self.checked_at = Some(now);
        Ok(Checked::Ours)
    }

    fn failed(&mut self, failure: Failure, now: Millis) -> Checked {
        if failure.is_undecided() {
            self.checked_at = None;
            return Checked::Failed(failure);
        }
        // A restricted key without the permission, or 50 entries in the metadata: usage is sent without marks.
        if !self.has_warned {
            tracing::warn!(
                why = failure.message(),
                "this database cannot leave its mark at Stripe, so a second copy of it may not be noticed; allow the key to read prices and to write products"
            );
            self.has_warned = true;
        }
        self.checked_at = Some(now);
        Checked::Ours
    }

    fn tell_others(&mut self, products: &[MarkedProduct], own: Uuid, now: Millis) {
        let others: BTreeSet<Uuid> = active_others(products, own, now)
            .map(|other| other.database)
            .collect();
        metrics::other_databases(others.len());
        for other in others.difference(&self.others) {
            tracing::warn!(
                database = %other,
                "another database sends to the same meters; if it counts the same usage, that is billed twice"
            );
        }
        self.others = others;
    }
}

/// The last marks of other databases that sent lately.
pub(crate) fn active_others(
    products: &[MarkedProduct],
    own: Uuid,
    now: Millis,
) -> impl Iterator<Item = &StoredMark> {
    let all = products.iter().flat_map(|product| &product.marks);
    all.filter(move |stored| {
        stored.database != own && now.saturating_sub(stored.written_at) < ACTIVE_MS
    })
}

/// Writes the next mark into every product. It is in the database before it is at Stripe.
async fn write(
    requests: &Requests,
    products: &[MarkedProduct],
    now: Millis,
) -> Result<std::result::Result<(), Failure>> {
    if products.is_empty() {
        return Ok(Ok(()));
    }
    let begun = Claim {
        at: now,
        instant: Instant::now(),
    };
    let known = requests.store.begin_mark().await?;
    let Some(nonce) = known.next else {
        // Another replica has just written it.
        return Ok(Ok(()));
    };
    let sending = requests.store.sending().await?;
    let stored = StoredMark {
        database: sending.database_id,
        mark: Mark {
            number: known.number.saturating_add(1),
            nonce,
        },
        written_at: now,
    };
    for product in products {
        // A replica that was suspended here would write an old mark over a newer one.
        if !requests.is_valid(begun).await {
            let why = "the replica was suspended before it had written its mark";
            return Ok(Err(Failure::NoAnswer(why.to_owned())));
        }
        if let Err(failure) = requests.stripe.write_mark(&product.id, &stored).await {
            return Ok(Err(failure));
        }
    }
    requests.store.finish_mark(&stored.mark, now).await?;
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_due_before_sending_and_every_hour() {
        let checked = SenderMark {
            checked_at: Some(HOUR_MS),
            has_written: true,
            ..SenderMark::default()
        };
        let due = |ms, sends| checked.is_due(HOUR_MS + ms, sends);
        assert!(SenderMark::default().is_due(0, false));
        assert!(!due(9 * MINUTE_MS, true));
        assert!(due(10 * MINUTE_MS, true) && !due(59 * MINUTE_MS, false));
        assert!(due(HOUR_MS, false));
        assert!(due(-1, false), "the clock was set back");
        let only_read = SenderMark {
            has_written: false,
            ..checked
        };
        assert!(only_read.is_due(HOUR_MS, true), "before the first report");
    }
}
