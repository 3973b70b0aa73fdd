//! Queries of usage that lies in no billing period: the streams one by one, their periods, and what was found.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, EntityTrait as _, FromQueryResult, QueryFilter as _, QueryOrder as _, Select,
    Statement,
    sea_query::{Expr, ExprTrait as _},
};

use super::results::{columns_of, upsert_row};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        invoice_comparison::{Compared, InvoiceFinding},
        stream::Stream,
        uncompared_usage::{Continuation, RecordedUsage, UncomparedUsage, continuations},
        window::Interval,
    },
    entity::{billing_period, invoice_comparison, subscription},
    error::Result,
    store::{
        Store,
        cursors::is_overtaken,
        deleted_accounts::{find_deleted, read_salts},
        of_shard::lock_rows,
        unindexed,
    },
};

/// The name of the job, under which its place is stored.
pub(crate) const UNCOMPARED_USAGE: &str = "uncompared usage";

/// A stream with the time of its first event.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub(crate) struct FirstEvent {
    pub(crate) customer: String,
    pub(crate) meter: String,
    pub(crate) event_timestamp: Millis,
}

impl Store {
    /// The stream after another one, in the order of customers and meters.
    pub(crate) async fn next_stream(&self, after: Option<&Stream>) -> Result<Option<FirstEvent>> {
        let (customer, meter) = after.map_or(("", ""), |stream| (&stream.customer, &stream.meter));
        let sql = "SELECT customer, meter, event_timestamp FROM usage_reports \
                   WHERE (customer, meter) > ($1, $2) AND event_timestamp IS NOT NULL \
                   ORDER BY customer, meter, event_timestamp LIMIT 1";
        let values = [customer.into(), meter.into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        Ok(FirstEvent::find_by_statement(statement)
            .one(&self.reader)
            .await?)
    }

    /// The billing periods of a stream, of whatever account, that end after a time: those that are or will be compared.
    pub(crate) async fn periods_of_stream(
        &self,
        stream: &Stream,
        since: Millis,
    ) -> Result<Vec<Interval>> {
        use billing_period::Column as P;
        let subscriptions = subscription::Entity::find()
            .filter(subscription::Column::Customer.eq(&stream.customer))
            .all(&self.reader)
            .await?;
        let mut found = Vec::new();
        for row in subscriptions {
            let periods = billing_period::Entity::find()
                .filter(P::AccountId.eq(&row.account_id))
                .filter(P::Subscription.eq(&row.subscription))
                .filter(P::Meter.eq(&stream.meter))
                .filter(unindexed(P::PeriodEnd).gt(since))
                .all(&self.reader)
                .await?;
            found.extend(periods.into_iter().map(|row| Interval {
                start: row.period_start,
                end: row.period_end,
            }));
        }
        Ok(found)
    }

    /// Records the usage of a stream without a billing period since a time, as found by a step of the job. What was found
    /// before and is in a period by now is forgotten. Returns what is new; `None` if a later step has begun.
    pub(crate) async fn record_uncompared(
        &self,
        stream: &Stream,
        since: Millis,
        found: &[UncomparedUsage],
        begun_at: Millis,
    ) -> Result<Option<Vec<UncomparedUsage>>> {
        let stored = recorded(stream, since).all(&self.reader).await?;
        if Changes::of(stream, found, &stored, begun_at).is_empty() {
            return Ok(Some(Vec::new()));
        }
        let now = self.now().await?;
        let tx = self.begin_within_boundaries().await?;
        if is_overtaken(&tx, UNCOMPARED_USAGE, begun_at, now).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let salts = read_salts(&tx).await?;
        let accounts = found.iter().map(|usage| &usage.account_id);
        if !find_deleted(&tx, &salts, accounts).await?.is_empty() {
            // Its rows got another id since they were read, and are read again.
            tx.rollback().await?;
            return Ok(None);
        }
        // Somebody may have acknowledged it meanwhile.
        let account = invoice_comparison::Column::AccountId;
        let stored = lock_rows(&tx, recorded(stream, since), account).await?;
        let changes = Changes::of(stream, found, &stored, begun_at);
        for key in changes.forgotten {
            invoice_comparison::Entity::delete_by_id(key)
                .exec(&tx)
                .await?;
        }
        for row in changes.rows {
            upsert_row(&tx, row).await?;
        }
        tx.commit().await?;
        Ok(Some(changes.new))
    }
}

/// What was recorded of a stream since a time, in the order of its keys.
fn recorded(stream: &Stream, since: Millis) -> Select<invoice_comparison::Entity> {
    use invoice_comparison::Column as C;
    invoice_comparison::Entity::find()
        // For the partial index.
        .filter(Expr::cust("finding = 'no_period'"))
        .filter(C::Customer.eq(&stream.customer))
        .filter(C::Meter.eq(&stream.meter))
        .filter(C::PeriodStart.gte(since))
        .order_by_asc(C::PeriodStart)
        .order_by_asc(C::AccountId)
}

/// The key of a row: its account, customer, start and meter.
type Key = (AccountId, String, Millis, String);

/// How the rows of a stream change.
#[derive(Default)]
struct Changes {
    rows: Vec<invoice_comparison::ActiveModel>,
    forgotten: Vec<Key>,
    new: Vec<UncomparedUsage>,
}

impl Changes {
    fn of(
        stream: &Stream,
        found: &[UncomparedUsage],
        stored: &[invoice_comparison::Model],
        now: Millis,
    ) -> Self {
        let before: Vec<RecordedUsage> = stored.iter().map(RecordedUsage::from).collect();
        let mut changes = Self::default();
        for (usage, continued) in found.iter().zip(continuations(found, &before)) {
            let same = match continued {
                Continuation::Same(index) => stored.get(index),
                Continuation::Changed => None,
                Continuation::New => {
                    changes.new.push(usage.clone());
                    None
                }
            };
            if !same.is_some_and(|row| is_recorded(usage, row)) {
                changes.rows.push(row_of(stream, usage, same, now));
            }
        }
        let is_found = |row: &&invoice_comparison::Model| {
            found.iter().any(|usage| {
                usage.account_id == row.account_id && usage.time.start == row.period_start
            })
        };
        changes.forgotten = stored
            .iter()
            .filter(|row| !is_found(row))
            .map(|row| {
                let (customer, meter) = (stream.customer.clone(), stream.meter.clone());
                (row.account_id.clone(), customer, row.period_start, meter)
            })
            .collect();
        changes
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.forgotten.is_empty()
    }
}

/// Whether a row says the same already. Its end need not follow the time that goes on without usage.
fn is_recorded(usage: &UncomparedUsage, row: &invoice_comparison::Model) -> bool {
    row.account_id == usage.account_id
        && row.period_start == usage.time.start
        && row.period_end <= usage.time.end
        && row.reported == usage.quantity
}

/// The row of some usage. If it is the same as before, it is as old as that, and acknowledged like that.
fn row_of(
    stream: &Stream,
    usage: &UncomparedUsage,
    same: Option<&invoice_comparison::Model>,
    now: Millis,
) -> invoice_comparison::ActiveModel {
    let compared = Compared {
        finding: InvoiceFinding::NoPeriod,
        reported: usage.quantity,
        invoiced: None,
    };
    let row = invoice_comparison::ActiveModel {
        account_id: Set(usage.account_id.clone()),
        // No subscription item charges it.
        item: Set(stream.customer.clone()),
        period_start: Set(usage.time.start),
        period_end: Set(usage.time.end),
        subscription: Set(String::new()),
        customer: Set(stream.customer.clone()),
        meter: Set(stream.meter.clone()),
        price: Set(None),
        ..columns_of(compared, now)
    };
    match same {
        None => row,
        Some(same) => invoice_comparison::ActiveModel {
            changed_at: Set(same.changed_at),
            acknowledged_at: Set(same.acknowledged_at),
            acknowledged_by: Set(same.acknowledged_by.clone()),
            acknowledged_reason: Set(same.acknowledged_reason.clone()),
            ..row
        },
    }
}

impl From<&invoice_comparison::Model> for RecordedUsage {
    fn from(row: &invoice_comparison::Model) -> Self {
        Self {
            usage: UncomparedUsage {
                account_id: row.account_id.clone(),
                time: Interval {
                    start: row.period_start,
                    end: row.period_end,
                },
                quantity: row.reported,
            },
            is_acknowledged: row.acknowledged_at.is_some(),
        }
    }
}
