//! From when on this service bills: one column of the row of `sending`. Whoever changes it has the boundary lock, so that
//! nothing is closed meanwhile, and every transaction that closes reports reads it.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _,
    sea_query::Expr,
};

use super::{
    Store,
    boundaries::forget_all_boundaries,
    connection::Transaction,
    report_states::{at_once, state_in},
    retried::retried,
};
use crate::{
    domain::{Millis, billing_start::BillingStart, report_fold::FINISHED},
    entity::{
        sending::{self, Column},
        usage_report::{self, UsageReportState},
    },
    error::Result,
};

/// The time of the meter event that would be sent for a report, from the start and the end of its window: the first whole
/// minute in it, or its first second. The sender takes the next minute if a report of the same customer and meter has it.
pub(super) fn event_time_sql(start: &str, end: &str) -> String {
    let minute = format!("(({start} + 59999) / 60000) * 60000");
    format!("CASE WHEN {minute} < {end} THEN {minute} ELSE ({start} / 1000) * 1000 END")
}

impl Store {
    /// From when on this service bills.
    pub(crate) async fn billing_start(&self) -> Result<BillingStart> {
        Ok(read_billing_start(&self.reader).await?)
    }

    /// Begins to run beside another integration, which bills everything until a moment is named. Returns false, and changes
    /// nothing, if this database has closed reports to send already.
    pub(crate) async fn begin_shadow(&self) -> Result<bool> {
        let tx = self.begin_moving_boundaries().await?;
        if read_billing_start(&tx).await? != BillingStart::Always {
            tx.rollback().await?;
            return Ok(true);
        }
        let reports = usage_report::Entity::find()
            .select_only()
            .column(usage_report::Column::Id)
            .limit(1)
            .into_tuple::<uuid::Uuid>()
            .one(&tx)
            .await?;
        if reports.is_some() {
            tx.rollback().await?;
            return Ok(false);
        }
        store(&tx, Millis::MAX).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Names the moment from which on this service bills. Returns what was known before.
    ///
    /// `clock` is read after the boundary lock is taken: usage may be counted while this call waits for the lock.
    pub(crate) async fn name_billing_start(
        &self,
        at: Millis,
        clock: impl Fn() -> Millis + Send + Sync,
    ) -> Result<BillingStart> {
        retried(|| self.name_billing_start_once(at, &clock)).await
    }

    async fn name_billing_start_once(
        &self,
        at: Millis,
        clock: impl Fn() -> Millis + Send,
    ) -> Result<BillingStart> {
        let tx = self.begin_requested_change().await?;
        let before = read_billing_start(&tx).await?;
        if before == BillingStart::At(at) {
            tx.rollback().await?;
            return Ok(before);
        }
        before.check_named(at, clock())?;
        store(&tx, at).await?;
        tx.commit().await?;
        Ok(before)
    }

    /// Names the moment in a restored database that does not know it. What servers counted of after it, without knowing it,
    /// is to be sent by this service. Returns the number of these reports.
    ///
    /// The caller has checked the moment, and no server runs.
    pub(crate) async fn restore_billing_start(&self, at: Millis) -> Result<u64> {
        use usage_report::Column as R;
        let tx = self.begin_requested_change().await?;
        store(&tx, at).await?;
        // The condition of the index of finished reports.
        let finished = format!("kind = 'usage' AND {}", state_in(&FINISHED));
        let elsewhere = UsageReportState::NotBillable;
        let changed = usage_report::Entity::update_many()
            .col_expr(R::State, Expr::value(UsageReportState::Closed))
            .col_expr(R::EventTimestamp, Expr::value(None::<i64>))
            .col_expr(R::NextAttemptAt, at_once())
            .col_expr(R::SendBy, Expr::value(None::<i64>))
            .filter(Expr::cust(finished))
            .filter(R::State.eq(elsewhere))
            .filter(R::WindowStart.gte(at))
            .filter(R::Customer.is_not_null())
            .filter(R::EventTimestamp.is_not_null())
            .filter(R::LastSentAt.is_null())
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(changed.rows_affected)
    }
}

/// The links by which others are deciding are read again.
async fn store(tx: &Transaction, at: Millis) -> std::result::Result<(), DbErr> {
    sending::Entity::update_many()
        .col_expr(Column::BillFrom, Expr::value(at))
        .filter(Column::Id.eq(1))
        .exec(tx)
        .await?;
    forget_all_boundaries(tx).await?;
    Ok(())
}

/// From when on this service bills.
pub(super) async fn read_billing_start(
    db: &impl ConnectionTrait,
) -> std::result::Result<BillingStart, DbErr> {
    let stored: Option<Option<Millis>> = sending::Entity::find_by_id(1)
        .select_only()
        .column(Column::BillFrom)
        .into_tuple()
        .one(db)
        .await?;
    Ok(BillingStart::from_stored(stored.flatten()))
}
