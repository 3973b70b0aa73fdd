//! Queries of the sender: the end of waits, and the results of requests. `send_order` finds the reports that are due,
//! and `mark_sending` marks them before a request.
//!
//! Every change is a compare-and-set on the state that was read, so a replica that lost its lease in between changes
//! nothing. A transaction that changes several reports locks them in the order of their ids.

use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait as _, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, QueryTrait as _, Statement, Value,
    sea_query::{Expr, ExprTrait as _},
};

use super::{
    Store,
    as_read::update_in_state,
    connection::Transaction,
    database_clock::due_bounds,
    of_shard::OfShard,
    report_states::{at_once, is_due, state_in},
    reports::in_scope,
};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        late_usage::LateUsage,
        report::{Report, State, Transition},
        run::Scope,
        window::Slots,
    },
    entity::usage_report::{self, Column, UsageReportState},
    error::Result,
};

/// How many reports one statement changes, so that counting never waits long.
const CHANGED_AT_ONCE: u64 = 1_000;

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

/// Some accounts that follow each other.
#[derive(Clone, Debug, Default)]
pub(super) struct AccountRange {
    /// Before the first one.
    after: Option<AccountId>,
    /// The last one; `None` if there is no end.
    until: Option<AccountId>,
    is_last: bool,
}

impl AccountRange {
    pub(super) fn condition(&self) -> Condition {
        Condition::all()
            .add_option(self.after.as_ref().map(|after| Column::AccountId.gt(after)))
            .add_option(
                self.until
                    .as_ref()
                    .map(|until| Column::AccountId.lte(until)),
            )
    }
}

impl Store {
    /// Makes reports due whose wait has ended, at most a thousand. Those that still wait are not read. By when they should
    /// be sent is read again: they may have waited for what decides that.
    pub(crate) async fn end_waits(&self, now: Millis) -> Result<()> {
        let due = state_in(&State::DUE);
        // A range with two ends: of one with a single end, PostgreSQL expects a third of the table if it has no statistics.
        for (comparison, bound) in due_bounds(now) {
            let ended = |place: &str, shard: &str| {
                format!(
                    "SELECT {place} FROM usage_reports WHERE {due} AND next_attempt_at {comparison} $1 \
                     AND next_attempt_at > 0{shard} ORDER BY next_attempt_at LIMIT"
                )
            };
            let statement = |sql: String, accounts: Option<Value>| {
                let values = [Some(bound.into()), accounts].into_iter().flatten();
                Statement::from_sql_and_values(self.backend(), sql, values)
            };
            // Usually there are none, which takes no turn of SQLite's only writer to find out.
            let first = statement(format!("{} 1", ended("1 AS one", "")), None);
            if self.reader.query_one_raw(first).await?.is_none() {
                continue;
            }
            if bound > now {
                tracing::error!(
                    "reports wait for a time that is hours ahead, which a clock that was ahead has stored: they are due now"
                );
            }
            let accounts = format!("{} {CHANGED_AT_ONCE}", ended("account_id", ""));
            for shard in OfShard::of(&self.reader, statement(accounts, None)).await? {
                let of_shard = shard.sql(2);
                // By their places: by their keys, PostgreSQL would rather read the whole table. Locked rows end their wait
                // the next time, so that no lock is waited for while others are held.
                let sql = if self.has_parallel_writers() {
                    format!(
                        "ctid = ANY (ARRAY({} {CHANGED_AT_ONCE} FOR UPDATE SKIP LOCKED)){of_shard}",
                        ended("ctid", &of_shard)
                    )
                } else {
                    format!("rowid IN ({} {CHANGED_AT_ONCE})", ended("rowid", ""))
                };
                let sql = format!(
                    "UPDATE usage_reports SET next_attempt_at = NULL, send_by = NULL WHERE {sql}"
                );
                self.writer
                    .execute_raw(statement(sql, shard.value()))
                    .await?;
            }
        }
        Ok(())
    }

    /// Makes every report of a scope due that waits for a retry or a delivery check, and clears its error: a run waits
    /// for a report without an error.
    pub(crate) async fn retry_now(&self, scope: &Scope) -> Result<()> {
        if matches!(scope, Scope::Accounts(_)) {
            return self.retry_some_now(scope, &AccountRange::default()).await;
        }
        let mut range = AccountRange::default();
        while self.next_due_accounts(&mut range).await? {
            self.retry_some_now(scope, &range).await?;
        }
        Ok(())
    }

    async fn retry_some_now(&self, scope: &Scope, range: &AccountRange) -> Result<()> {
        let kept_error = Expr::case(
            Expr::col(Column::State).eq(UsageReportState::Unknown),
            Expr::col(Column::LastError),
        )
        .finally(Expr::value(None::<String>));
        let waiting = usage_report::Entity::find()
            .select_only()
            .column(Column::AccountId)
            .filter(is_due())
            .filter(range.condition())
            .filter(Column::Customer.is_not_null())
            .filter(
                Column::NextAttemptAt
                    .is_not_null()
                    .or(Column::LastError.is_not_null()),
            );
        let in_scope = in_scope(scope, waiting.clone(), Column::AccountId);
        let accounts = in_scope.clone().build(self.backend());
        // Those of a shard are in the scope.
        let waiting = if self.is_distributed() {
            waiting
        } else {
            in_scope
        };
        for shard in OfShard::of(&self.reader, accounts).await? {
            let locked = waiting
                .clone()
                .column(Column::Id)
                .filter(shard.condition(Column::AccountId))
                .lock_exclusive();
            let locked = if self.has_parallel_writers() {
                // The sender locks reports in the same order.
                locked.order_by_asc(Column::Id)
            } else {
                // SQLite would read every report, in the order of the ids.
                locked
            };
            usage_report::Entity::update_many()
                .col_expr(Column::NextAttemptAt, at_once())
                .col_expr(Column::LastError, kept_error.clone().into())
                .filter(shard.condition(Column::AccountId))
                .filter(
                    Expr::tuple([Expr::col(Column::AccountId), Expr::col(Column::Id)])
                        .in_subquery(locked.into_query()),
                )
                .exec(&self.writer)
                .await?;
        }
        Ok(())
    }

    /// Moves a range to the next accounts that have about a thousand reports to send or check. Returns false after the
    /// last ones.
    pub(super) async fn next_due_accounts(&self, range: &mut AccountRange) -> Result<bool> {
        if range.is_last {
            return Ok(false);
        }
        let after = range.until.take();
        // The offset stands in the text: of a bound one, PostgreSQL expects a tenth of the table.
        let sql = format!(
            "SELECT account_id FROM usage_reports WHERE {} AND account_id > $1 ORDER BY account_id LIMIT 1 OFFSET {}",
            state_in(&State::DUE),
            CHANGED_AT_ONCE.saturating_sub(1)
        );
        let first = after.as_ref().map_or("", AccountId::as_str);
        let statement = Statement::from_sql_and_values(self.backend(), sql, [first.into()]);
        let last = self.reader.query_one_raw(statement).await?;
        let last: Option<AccountId> = last.map(|row| row.try_get("", "account_id")).transpose()?;
        *range = AccountRange {
            is_last: last.is_none(),
            after,
            until: last,
        };
        Ok(true)
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

async fn record_result(
    tx: &Transaction,
    send_result: &SendResult,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let report = &send_result.report;
    let mut change =
        update_in_state(report).col_expr(Column::LastError, Expr::value(send_result.error.clone()));
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
            .col_expr(Column::NextAttemptAt, at_once()),
        (Some(Transition::MarkUnknown), Some(next)) => change
            .filter(Column::Attempts.eq(report.attempts))
            .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
            .col_expr(Column::LookedUpAt, Expr::value(None::<i64>))
            .col_expr(Column::NextAttemptAt, at_once()),
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

#[cfg(test)]
mod tests;
