//! Marking due reports before requests: a report gets its event timestamp and is recorded as `sending`, or it waits, or
//! it gets a state that is not sent.

use sea_orm::{
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _, UpdateMany,
    sea_query::Expr,
};

use super::{
    Store,
    billing_context::{lock_contexts, postpone, request_syncs},
    boundaries::read_boundaries,
    connection::Transaction,
    send::{Rules, Task},
    sending::restored_at,
};
use crate::{
    domain::{
        MINUTE_MS, Millis, SECOND_MS,
        clock_check::is_ahead,
        invoice_deadline::{SendDecision, UsageTimes, decide},
        report::{MAX_EVENT_AGE_MS, NO_RESPONSE_MS, Report, State, Transition},
        window::{Interval, Slots, event_timestamp, minute_of},
    },
    entity::usage_report::{self, Column, UsageReportState},
    error::Result,
    metrics,
};

impl Store {
    /// Marks due reports of different streams before requests, and returns the requests. A report that no invoice would
    /// charge changes its state immediately. `retry_at` returns when a report is due again if Stripe does not respond.
    pub(crate) async fn mark_sending(
        &self,
        mut due: Vec<Report>,
        rules: Rules,
        now: Millis,
        retry_at: impl Fn(&Report) -> Millis + Send,
    ) -> Result<Vec<Task>> {
        let tx = self.begin().await?;
        due.sort_unstable_by_key(|report| report.id);
        let contexts = lock_contexts(&tx, &due).await?;
        let restored_at = restored_at(&tx).await?;
        let decided: Vec<(Report, Option<SendDecision>)> = due
            .into_iter()
            .map(|report| {
                let context = contexts.of(&report, report.customer.as_deref());
                let usage = UsageTimes::of(&report);
                let decision = (report.state != State::Unknown)
                    .then(|| decide(usage, &context, rules.late_usage, now));
                (report, decision)
            })
            .collect();
        request_syncs(&tx, &decided, now).await?;
        let mut tasks = Vec::new();
        for (report, decision) in decided {
            let retry_at = retry_at(&report);
            let task = match decision {
                None => mark_check(&tx, report, restored_at, retry_at).await?,
                Some(_) if report.needs_look_up(restored_at) => {
                    let change = update_as_read(&report);
                    let why =
                        "counted before a restore; it is looked up at Stripe before it is sent";
                    skip(&tx, change, &report, (&Transition::MarkUnknown, why), now).await?;
                    None
                }
                Some(SendDecision::SendAt(_))
                    if restored_at.is_some_and(|at| report.first_at < at) =>
                {
                    // Before the restore it may have been sent at any time since its invoice became final.
                    let change = update_as_read(&report);
                    let why = "its invoice is final, and it may have been billed in a later period before a restore";
                    skip(&tx, change, &report, (&Transition::MarkTooLate, why), now).await?;
                    None
                }
                Some(SendDecision::Wait { until, .. }) => {
                    postpone(&tx, &report, until).await?;
                    None
                }
                Some(decision) => mark(&tx, report, decision, rules.slots, now, retry_at).await?,
            };
            tasks.extend(task);
        }
        tx.commit().await?;
        Ok(tasks)
    }
}

/// An update of a report that applies only if the report is still as it was read.
fn update_as_read(report: &Report) -> UpdateMany<usage_report::Entity> {
    usage_report::Entity::update_many()
        .filter(Column::AccountId.eq(&report.account_id))
        .filter(Column::Id.eq(report.id))
        .filter(Column::State.eq(UsageReportState::from(report.state)))
        .filter(Column::Attempts.eq(report.attempts))
        .filter(Column::Generation.eq(report.generation))
}

async fn mark_check(
    tx: &Transaction,
    report: Report,
    restored_at: Option<Millis>,
    retry_at: Millis,
) -> std::result::Result<Option<Task>, DbErr> {
    let changed = update_as_read(&report)
        .col_expr(Column::NextAttemptAt, Expr::value(retry_at))
        .exec(tx)
        .await?;
    if changed.rows_affected != 1 {
        return Ok(None);
    }
    let restored_at = restored_at.filter(|_| report.needs_look_up(restored_at));
    Ok(Some(match restored_at {
        Some(restored_at) => Task::LookUp {
            report,
            restored_at,
        },
        None => Task::CheckDelivery(report),
    }))
}

async fn mark(
    tx: &Transaction,
    mut report: Report,
    decision: SendDecision,
    slots: Slots,
    now: Millis,
    retry_at: Millis,
) -> std::result::Result<Option<Task>, DbErr> {
    let change = update_as_read(&report);
    let state = report.state;
    let may_have_arrived = report.first_sent_at.is_some();
    let stamp = match prepare(tx, &mut report, decision, slots, now).await? {
        Prepared::Send(stamp) => stamp,
        Prepared::Skip(transition, why) => {
            skip(tx, change, &report, (&transition, why), now).await?;
            return Ok(None);
        }
    };
    let Some(next) = state.after(&Transition::Send) else {
        return Ok(None);
    };
    report.attempts = report.attempts.saturating_add(1);
    report.event_timestamp = Some(stamp);
    report.first_sent_at = report.first_sent_at.or(Some(now));
    report.last_sent_at = Some(now);
    report.state = next;
    let changed = change
        .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
        .col_expr(Column::Attempts, Expr::value(report.attempts))
        .col_expr(Column::EventTimestamp, Expr::value(stamp))
        .col_expr(Column::BillAt, Expr::value(report.bill_at))
        .col_expr(Column::FirstSentAt, Expr::value(report.first_sent_at))
        .col_expr(Column::LastSentAt, Expr::value(now))
        .col_expr(Column::NextAttemptAt, Expr::value(retry_at))
        .exec(tx)
        .await?;
    Ok((changed.rows_affected == 1).then_some(Task::Send {
        report,
        may_have_arrived,
    }))
}

/// The next step of a report that does not wait.
enum Prepared {
    /// Send it with this timestamp.
    Send(Millis),
    /// Do not send it: its transition, and why.
    Skip(Transition, &'static str),
}

async fn prepare(
    tx: &Transaction,
    report: &mut Report,
    decision: SendDecision,
    slots: Slots,
    now: Millis,
) -> std::result::Result<Prepared, DbErr> {
    let may_have_arrived = report.first_sent_at.is_some();
    let not_before = match decision {
        // An attempt that has not arrived by now is too late. A delivery check finds one that has.
        SendDecision::TooLate | SendDecision::CustomerDeleted | SendDecision::SendAt(_)
            if may_have_arrived =>
        {
            let why = "Stripe did not respond before the invoice became final; delivery is checked";
            return Ok(Prepared::Skip(Transition::MarkUnknown, why));
        }
        SendDecision::TooLate => {
            let why = "its invoice became final before Stripe accepted it";
            return Ok(Prepared::Skip(Transition::MarkTooLate, why));
        }
        SendDecision::CustomerDeleted => {
            let why = "the customer was deleted at Stripe, and its invoice became final before Stripe accepted it";
            return Ok(Prepared::Skip(Transition::MarkCustomerDeleted, why));
        }
        SendDecision::SendAt(at) => {
            report.bill_at = Some(at);
            report.event_timestamp = None;
            None
        }
        SendDecision::Send { not_before } => not_before,
        SendDecision::Wait { .. } => None,
    };
    let is_without_response = report
        .first_sent_at
        .is_some_and(|first| now.saturating_sub(first) >= NO_RESPONSE_MS || is_ahead(first, now));
    if is_without_response {
        let why =
            "Stripe did not respond for 23 hours; delivery is checked before it is sent again";
        return Ok(Prepared::Skip(Transition::MarkUnknown, why));
    }
    let stamp = match report.event_timestamp {
        Some(stamp) => stamp,
        None => choose_timestamp(tx, report, slots, not_before, now).await?,
    };
    if stamp < now.saturating_sub(MAX_EVENT_AGE_MS) && !may_have_arrived {
        let why = "older than the 35 days that Stripe accepts";
        return Ok(Prepared::Skip(Transition::MarkTooLate, why));
    }
    Ok(Prepared::Send(stamp))
}

/// Records the transition of a report that is not sent.
async fn skip(
    tx: &Transaction,
    change: UpdateMany<usage_report::Entity>,
    report: &Report,
    (transition, why): (&Transition, &str),
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let Some(next) = report.state.after(transition) else {
        return Ok(());
    };
    let mut change = change
        .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
        .col_expr(Column::NextAttemptAt, Expr::value(now));
    if matches!(next, State::TooLate | State::CustomerDeleted) {
        change = change.col_expr(Column::LastError, Expr::value(why));
    }
    change.exec(tx).await?;
    tracing::error!(report = %report.id, quantity = report.quantity, state = next.name(), why, "report not sent");
    metrics::count_transition(Some(transition));
    Ok(())
}

/// The event's timestamp: inside the part of the window that contains the report's first increment. A boundary that
/// became known late then does not move it into another period.
async fn choose_timestamp(
    tx: &Transaction,
    report: &Report,
    slots: Slots,
    not_before: Option<Millis>,
    now: Millis,
) -> std::result::Result<Millis, DbErr> {
    let account = std::slice::from_ref(&report.account_id);
    let known = read_boundaries(tx, account, report.window_start).await?;
    let around = |at| {
        known
            .first()
            .map_or_else(|| slots.around(at), |(_, own)| own.window_around(slots, at))
    };
    let mut window = match report.bill_at {
        Some(at) => Interval {
            start: Ord::max(
                around(at).start,
                at.saturating_sub(at.rem_euclid(SECOND_MS)),
            ),
            end: around(at).end,
        },
        None => around(report.first_at).intersection(Interval {
            start: report.window_start,
            end: report.window_end,
        }),
    };
    // Stripe charges only from `not_before` on, which may be later than the start of the window.
    if let Some(from) = not_before.filter(|from| *from > window.start) {
        window.start = from;
        window.end = Ord::max(window.end, from.saturating_add(SECOND_MS));
    }
    let taken: Vec<Millis> = usage_report::Entity::find()
        .select_only()
        .column(Column::EventTimestamp)
        .filter(Column::Customer.eq(report.customer.as_deref()))
        .filter(Column::Meter.eq(report.meter.as_str()))
        .filter(Column::EventTimestamp.gte(window.start.saturating_sub(MINUTE_MS)))
        .filter(Column::EventTimestamp.lt(window.end))
        .into_tuple()
        .all(tx)
        .await?;
    // One event per minute, so that verification can distinguish events.
    let taken: Vec<Millis> = taken.into_iter().map(|at| minute_of(at).start).collect();
    // Never in the future: a subscription that ends before then would not charge it.
    Ok(event_timestamp(window, now, &taken))
}
