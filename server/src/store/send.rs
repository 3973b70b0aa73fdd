//! Queries of the sender: due reports, and the results of requests. `mark_sending` marks reports before a request.
//!
//! Every change is a compare-and-set on the state that was read, so a replica that lost its lease in between changes
//! nothing. A transaction that changes several reports locks them in the order of their ids.

use sea_orm::{
    ActiveEnum as _, ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, QueryTrait as _,
    sea_query::{Expr, ExprTrait as _},
};

use super::{
    Store, connection::Transaction, database_clock::is_due_at, reports::in_scope, rows,
    stripe_account::sent_since,
};
use crate::{
    domain::{
        Millis,
        late_usage::LateUsage,
        report::{Report, State, Transition},
        run::Scope,
        stream::Stream,
        window::Slots,
    },
    entity::usage_report::{self, Column, UsageReportState},
    error::Result,
};

/// The settings that apply to sending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The slots in force.
    pub(crate) slots: Slots,
    /// How usage is billed whose invoice is already final.
    pub(crate) late_usage: LateUsage,
}

/// The next request for a due report.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Send it to Stripe. It is already marked as `sending`.
    Send {
        /// The report.
        report: Report,
        /// Whether an earlier attempt under this identifier may have arrived.
        may_have_arrived: bool,
    },
    /// Check whether an earlier attempt arrived at Stripe.
    CheckDelivery(Report),
    /// Look up whether Stripe has it from before a restore.
    LookUp {
        /// The report.
        report: Report,
        /// When the backup was restored.
        restored_at: Millis,
    },
}

/// The result of a request for a report.
#[derive(Clone, Debug)]
pub(crate) struct SendResult {
    /// The report as it was before the request.
    pub(crate) report: Report,
    /// Its transition; `None` if the request had no final result.
    pub(crate) transition: Option<Transition>,
    /// Whether it is certain that no attempt under the current identifier arrived.
    pub(crate) cannot_have_arrived: bool,
    /// The error message, if the request failed.
    pub(crate) error: Option<String>,
    /// The time of the next attempt.
    pub(crate) next_attempt_at: Millis,
}

impl Store {
    /// One due report of each stream, ordered by stream, after the given stream. Nothing that an earlier Stripe account may
    /// have is due.
    pub(crate) async fn due_reports(
        &self,
        meters: &[&str],
        after: Option<&Stream>,
        now: Millis,
        limit: u64,
    ) -> Result<Vec<Report>> {
        let adopted_at = self.sending().await?.adopted_at;
        let mut query = usage_report::Entity::find()
            .filter(is_due())
            .filter(sent_since(adopted_at))
            .filter(Column::Customer.is_not_null())
            .filter(Column::Meter.is_in(meters.iter().copied()))
            .filter(is_due_at(Column::NextAttemptAt, now));
        if let Some(Stream { customer, meter }) = after {
            query = query.filter(
                Expr::tuple([Expr::col(Column::Customer), Expr::col(Column::Meter)]).gt(
                    Expr::tuple([Expr::value(customer.as_str()), Expr::value(meter.as_str())]),
                ),
            );
        }
        let due = query
            .order_by_asc(Column::Customer)
            .order_by_asc(Column::Meter)
            .order_by_asc(Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?;
        Ok(rows::all(due))
    }

    /// Makes every report of a scope due that waits for a retry or a delivery check, and clears its error: a run waits
    /// for a report without an error.
    pub(crate) async fn retry_now(&self, scope: &Scope, now: Millis) -> Result<()> {
        let kept_error = Expr::case(
            Expr::col(Column::State).eq(UsageReportState::Unknown),
            Expr::col(Column::LastError),
        )
        .finally(Expr::value(None::<String>));
        let waiting = in_scope(scope, usage_report::Entity::find())
            .select_only()
            .column(Column::AccountId)
            .column(Column::Id)
            .filter(is_due())
            .filter(Column::Customer.is_not_null())
            .filter(
                Column::NextAttemptAt
                    .gt(now)
                    .or(Column::LastError.is_not_null()),
            )
            .lock_exclusive();
        let waiting = if self.has_parallel_writers() {
            // The sender locks reports in the same order.
            waiting.order_by_asc(Column::Id)
        } else {
            // SQLite would read every report, in the order of the ids.
            waiting
        };
        usage_report::Entity::update_many()
            .col_expr(Column::NextAttemptAt, Expr::value(now))
            .col_expr(Column::LastError, kept_error.into())
            .filter(
                Expr::tuple([Expr::col(Column::AccountId), Expr::col(Column::Id)])
                    .in_subquery(waiting.into_query()),
            )
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Records the results of requests.
    pub(crate) async fn record_results(
        &self,
        send_results: &[SendResult],
        now: Millis,
    ) -> Result<()> {
        let tx = self.begin().await?;
        let mut in_order: Vec<&SendResult> = send_results.iter().collect();
        in_order.sort_unstable_by_key(|send_result| send_result.report.id);
        for send_result in in_order {
            record_result(&tx, send_result, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Reports that the sender has to send or check. The states are literals: both engines use a partial index only for a
/// condition without bound values.
pub(super) fn is_due() -> Expr {
    let states = State::DUE.map(|state| format!("'{}'", UsageReportState::from(state).to_value()));
    Expr::cust(format!("state IN ({})", states.join(", ")))
}

async fn record_result(
    tx: &Transaction,
    send_result: &SendResult,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let report = &send_result.report;
    let mut change = usage_report::Entity::update_many()
        .filter(Column::AccountId.eq(&report.account_id))
        .filter(Column::Id.eq(report.id))
        .filter(Column::State.eq(UsageReportState::from(report.state)))
        .filter(Column::Generation.eq(report.generation))
        .col_expr(Column::LastError, Expr::value(send_result.error.clone()));
    let next = send_result
        .transition
        .as_ref()
        .and_then(|transition| report.state.after(transition));
    change = match (&send_result.transition, next) {
        (Some(Transition::Accept), Some(next)) => change
            // Stripe has it, whichever attempt was accepted: the number of attempts does not matter.
            .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
            .col_expr(Column::ReportedAt, Expr::value(now)),
        (Some(Transition::SendUnderNewIdentifier), Some(next)) => change
            .filter(Column::Attempts.eq(report.attempts))
            .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
            .col_expr(Column::Generation, Expr::col(Column::Generation).add(1))
            .col_expr(Column::FirstSentAt, Expr::value(None::<i64>))
            .col_expr(Column::NextAttemptAt, Expr::value(now)),
        (Some(Transition::MarkUnknown), Some(next)) => change
            .filter(Column::Attempts.eq(report.attempts))
            .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
            .col_expr(Column::LookedUpAt, Expr::value(None::<i64>))
            .col_expr(Column::NextAttemptAt, Expr::value(now)),
        (Some(_), Some(next)) => change
            .filter(Column::Attempts.eq(report.attempts))
            .col_expr(Column::State, Expr::value(UsageReportState::from(next))),
        _ => change
            .filter(Column::Attempts.eq(report.attempts))
            .col_expr(
                Column::NextAttemptAt,
                Expr::value(send_result.next_attempt_at),
            ),
    };
    if send_result.cannot_have_arrived && next.is_none() {
        // The 23 hours count from the first attempt that may have arrived.
        change = change.col_expr(Column::FirstSentAt, Expr::value(None::<i64>));
    }
    change.exec(tx).await.map(|_| ())
}
