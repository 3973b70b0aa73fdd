//! Enters usage that Stripe has and a restored backup lacked.

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _,
    QuerySelect as _, sea_query::Expr,
};
use uuid::Uuid;

use crate::{
    domain::{
        HOUR_MS, Millis, account_id::AccountId, invoice_comparison::LONGEST_DRAFT_MS,
        stream::Stream,
    },
    entity::usage_report::{self, Column, UsageReportKind, UsageReportState},
    error::Result,
    store::{
        Store, connection::Transaction, invoice_comparison::compare_again_around,
        of_shard::lock_rows,
    },
};

/// What an entry of usage that Stripe already has says.
const ENTERED_BY: &str = "usage-server restore";
const ENTERED_WHY: &str = "at Stripe, and not in the restored backup";

impl Store {
    /// Sets how much of an hour was entered as already sent.
    pub(crate) async fn set_already_sent(
        &self,
        (stream, hour): (&Stream, Millis),
        account_id: &AccountId,
        quantity: i64,
        now: Millis,
    ) -> Result<()> {
        let tx = self.begin().await?;
        write_already_sent(&tx, (stream, hour), account_id, quantity, now).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Sets in a transaction how much of an hour was entered as already sent.
pub(super) async fn write_already_sent(
    tx: &Transaction,
    (stream, hour): (&Stream, Millis),
    account_id: &AccountId,
    quantity: i64,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let known = usage_report::Entity::find()
        .filter(Column::Customer.eq(&stream.customer))
        .filter(Column::Meter.eq(&stream.meter))
        .filter(Column::EventTimestamp.eq(hour))
        .filter(Column::Kind.eq(UsageReportKind::AlreadySent))
        .limit(1);
    let known = lock_rows(tx, known, Column::AccountId).await?;
    match known.into_iter().next() {
        Some(row) if quantity <= 0 => {
            usage_report::Entity::delete_by_id((row.account_id, row.id))
                .exec(tx)
                .await?;
        }
        Some(row) => {
            usage_report::Entity::update_many()
                .col_expr(Column::Quantity, Expr::value(quantity))
                .filter(Column::AccountId.eq(row.account_id))
                .filter(Column::Id.eq(row.id))
                .exec(tx)
                .await?;
        }
        None if quantity <= 0 => return Ok(()),
        None => {
            let row = already_sent(stream, hour, account_id, quantity, now);
            usage_report::Entity::insert(row)
                .exec_without_returning(tx)
                .await?;
        }
    }
    if now.saturating_sub(hour) >= LONGEST_DRAFT_MS {
        // The period may have been compared with its invoices for the last time.
        compare_again_around(tx, stream, hour, now).await?;
    }
    Ok(())
}

fn already_sent(
    stream: &Stream,
    hour: Millis,
    account_id: &AccountId,
    quantity: i64,
    now: Millis,
) -> usage_report::ActiveModel {
    let end = hour.saturating_add(HOUR_MS);
    usage_report::ActiveModel {
        account_id: Set(account_id.clone()),
        id: Set(Uuid::now_v7()),
        meter: Set(stream.meter.clone()),
        window_start: Set(hour),
        window_end: Set(end),
        period_end: Set(Some(end)),
        closed_at: Set(Some(now)),
        quantity: Set(quantity),
        first_at: Set(hour),
        last_at: Set(hour),
        state: Set(UsageReportState::Confirmed),
        straddled: Set(false),
        generation: Set(0),
        event_timestamp: Set(Some(hour)),
        customer: Set(Some(stream.customer.clone())),
        attempts: Set(0),
        kind: Set(UsageReportKind::AlreadySent),
        note: Set(Some(ENTERED_WHY.to_owned())),
        entered_by: Set(Some(ENTERED_BY.to_owned())),
        reported_at: Set(Some(now)),
        confirmed_at: Set(Some(now)),
        looked_up_at: Set(Some(now)),
        ..Default::default()
    }
}
