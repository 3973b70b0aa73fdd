//! Records what Stripe has of the reports of an hour.

use sea_orm::{
    ActiveModelTrait as _,
    ActiveValue::{NotSet, Set},
    DbErr, EntityTrait as _, IntoActiveModel as _,
    sea_query::Expr,
};
use uuid::Uuid;

use super::already_sent::write_already_sent;
use crate::{
    domain::{
        HOUR_MS, Millis,
        account_id::AccountId,
        event_time::choose_timestamp,
        report::{Report, Transition},
        restore::AtStripe,
        stream::Stream,
        window::minute_of,
    },
    entity::usage_report::{self, Column, UsageReportState},
    error::Result,
    store::{Store, as_read::update_as_read, connection::Transaction, report_states::at_once},
};

/// What a look-up found of the reports of one hour.
#[derive(Clone, Debug)]
pub(crate) struct LookUpResults<'a> {
    /// The reports, and what Stripe has of each.
    pub(crate) reports: &'a [(Report, AtStripe)],
    /// The minutes that have an event.
    pub(crate) taken: Vec<Millis>,
    /// Why reports stay undecided.
    pub(crate) why: String,
    /// How much of the hour stays entered as already sent, if that changes.
    pub(crate) already_sent: Option<AlreadySent<'a>>,
}

/// How much of an hour of an account was entered as already sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AlreadySent<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) hour: Millis,
    pub(crate) account: &'a AccountId,
    pub(crate) quantity: i64,
}

impl Store {
    /// Records what Stripe has of the reports of an hour. A report that changed meanwhile keeps its state.
    pub(crate) async fn record_look_up(
        &self,
        found: &LookUpResults<'_>,
        now: Millis,
    ) -> Result<()> {
        let tx = self.begin().await?;
        let mut taken = found.taken.clone();
        let mut in_order: Vec<&(Report, AtStripe)> = found.reports.iter().collect();
        in_order.sort_unstable_by_key(|(report, _)| report.id);
        for (report, at_stripe) in in_order {
            record(&tx, found, (report, *at_stripe), &mut taken, now).await?;
        }
        if let Some(sent) = found.already_sent {
            let place = (sent.stream, sent.hour);
            write_already_sent(&tx, place, sent.account, sent.quantity, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

async fn record(
    tx: &Transaction,
    found: &LookUpResults<'_>,
    (report, at_stripe): (&Report, AtStripe),
    taken: &mut Vec<Millis>,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let change = update_as_read(report);
    let sent_again = report.state.after(&Transition::SendAfterLookUp);
    let included = report
        .state
        .after(&Transition::Accept)
        .and_then(|state| state.after(&Transition::Confirm));
    let (Some(sent_again), Some(included)) = (sent_again, included) else {
        return Ok(());
    };
    let change = match at_stripe {
        AtStripe::Undecided => change
            .col_expr(Column::LastError, Expr::value(found.why.as_str()))
            .col_expr(
                Column::NextAttemptAt,
                Expr::value(now.saturating_add(HOUR_MS)),
            ),
        AtStripe::All => change
            .col_expr(Column::State, Expr::value(UsageReportState::from(included)))
            .col_expr(
                Column::EventTimestamp,
                Expr::value(stamp(report, taken, now)),
            )
            .col_expr(Column::ReportedAt, Expr::value(now))
            .col_expr(Column::ConfirmedAt, Expr::value(now))
            .col_expr(Column::LookedUpAt, Expr::value(now))
            .col_expr(Column::LastError, Expr::value(None::<String>)),
        AtStripe::Nothing | AtStripe::Part(_) => change
            .col_expr(
                Column::State,
                Expr::value(UsageReportState::from(sent_again)),
            )
            .col_expr(Column::FirstSentAt, Expr::value(None::<i64>))
            .col_expr(Column::LookedUpAt, Expr::value(now))
            .col_expr(Column::NextAttemptAt, at_once())
            .col_expr(Column::LastError, Expr::value(None::<String>)),
    };
    let AtStripe::Part(part) = at_stripe else {
        return change.exec(tx).await.map(|_| ());
    };
    let rest = report.quantity.saturating_sub(part);
    let changed = change
        .col_expr(Column::Quantity, Expr::value(rest))
        .exec(tx)
        .await?;
    if changed.rows_affected == 1 {
        split_off(tx, report, part, stamp(report, taken, now), now).await?;
    }
    Ok(())
}

/// The part of a report that Stripe has becomes a separate report, so that the rest is one event.
async fn split_off(
    tx: &Transaction,
    report: &Report,
    part: i64,
    stamp: Millis,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let id = (report.account_id.clone(), report.id);
    let row = usage_report::Entity::find_by_id(id).one(tx).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound("a report that was changed".to_owned()))?;
    let row = usage_report::ActiveModel {
        number: NotSet,
        id: Set(Uuid::now_v7()),
        quantity: Set(part),
        state: Set(UsageReportState::Confirmed),
        event_timestamp: Set(Some(stamp)),
        reported_at: Set(Some(now)),
        confirmed_at: Set(Some(now)),
        next_attempt_at: Set(None),
        ..row.into_active_model().reset_all()
    };
    usage_report::Entity::insert(row)
        .exec_without_returning(tx)
        .await
        .map(|_| ())
}

/// The timestamp of a report's event: that of its request, else one in the hour in which the look-up found it.
fn stamp(report: &Report, taken: &mut Vec<Millis>, now: Millis) -> Millis {
    let stamp = report
        .event_timestamp
        .unwrap_or_else(|| choose_timestamp(report.window_if_found(), now, taken));
    let minute = minute_of(stamp).start;
    if !taken.contains(&minute) {
        taken.push(minute);
    }
    stamp
}
