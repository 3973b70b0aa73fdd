//! Marking due reports before requests: a report gets its event timestamp and is recorded as `sending`, or it waits, or
//! it gets a state that is not sent.

use sea_orm::{
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _, sea_query::Expr,
};

use super::{
    Store,
    as_read::update_as_read,
    billing_context::{lock_contexts, postpone, request_syncs},
    boundaries::read_boundaries,
    connection::Transaction,
    report_states::at_once,
    send_queue::{Rules, Task},
    sending_state::restored_at,
};
use crate::{
    domain::{
        HOUR_MS, MINUTE_MS, Millis, SECOND_MS,
        billed_usage::BilledUsage,
        event_time,
        invoice_deadline::{SendDecision, decide},
        next_step::{NextStep, Skip, next_step, skip_if_too_old},
        report::{Report, State, Transition},
        start_of,
        window::{Slots, minute_of},
    },
    entity::usage_report::{self, Column, UsageReportState},
    error::Result,
    metrics,
    planted_defects::{Defect, planted},
};

/// Why a report is `uncharged`.
const UNCHARGED: &str =
    "no item of a living subscription of the customer charges this meter at this time";

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
                let usage = BilledUsage::of(&report);
                let decision = (report.state != State::Unknown)
                    .then(|| decide(usage, &context, rules.late_usage, now));
                (report, decision)
            })
            .collect();
        request_syncs(&tx, &decided, now).await?;
        let mut tasks = Vec::new();
        for (report, decision) in decided {
            let retry_at = retry_at(&report);
            let task = match next_step(&report, decision.as_ref(), restored_at, now) {
                NextStep::CheckDelivery => mark_check(&tx, report, retry_at)
                    .await?
                    .map(Task::CheckDelivery),
                NextStep::LookUp(restored_at) => {
                    mark_check(&tx, report, retry_at)
                        .await?
                        .map(|report| Task::LookUp {
                            report,
                            restored_at,
                        })
                }
                NextStep::Wait(until) => {
                    let until = until.min(now.saturating_add(HOUR_MS));
                    postpone(&tx, &report, until).await?;
                    None
                }
                NextStep::Hold(until) => {
                    let until = until.min(now.saturating_add(HOUR_MS));
                    hold(&tx, &report, until).await?;
                    None
                }
                NextStep::Skip(skip) => {
                    record_skip(&tx, &report, &skip).await?;
                    None
                }
                NextStep::Send {
                    bill_at,
                    not_before,
                } => {
                    let attempt = Attempt {
                        bill_at,
                        not_before,
                        slots: rules.slots,
                        now,
                        retry_at,
                    };
                    mark(&tx, report, attempt).await?
                }
            };
            tasks.extend(task);
        }
        tx.commit().await?;
        Ok(tasks)
    }
}

/// Delays the next check of a report, and returns it if it is still as it was read.
async fn mark_check(
    tx: &Transaction,
    report: Report,
    retry_at: Millis,
) -> std::result::Result<Option<Report>, DbErr> {
    let changed = update_as_read(&report)
        .col_expr(Column::NextAttemptAt, Expr::value(retry_at))
        .exec(tx)
        .await?;
    Ok((changed.rows_affected == 1).then_some(report))
}

/// How a report is sent.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    bill_at: Option<Millis>,
    not_before: Option<Millis>,
    slots: Slots,
    now: Millis,
    retry_at: Millis,
}

async fn mark(
    tx: &Transaction,
    mut report: Report,
    attempt: Attempt,
) -> std::result::Result<Option<Task>, DbErr> {
    let change = update_as_read(&report);
    let now = attempt.now;
    let may_have_arrived = report.first_sent_at.is_some();
    if attempt.bill_at.is_some() {
        report.bill_at = attempt.bill_at;
        report.event_timestamp = None;
    }
    let stamp = match report.event_timestamp {
        _ if planted(Defect::EventAtSending) => start_of(SECOND_MS, now),
        Some(stamp) => stamp,
        None => choose_timestamp(tx, &report, attempt.slots, attempt.not_before, now).await?,
    };
    if let Some(skip) = skip_if_too_old(&report, stamp, now) {
        record_skip(tx, &report, &skip).await?;
        return Ok(None);
    }
    let Some(next) = report.state.after(&Transition::Send) else {
        return Ok(None);
    };
    report.attempts = report.attempts.saturating_add(1);
    report.event_timestamp = Some(stamp);
    report.first_sent_at = report.first_sent_at.or(Some(now));
    report.last_sent_at = Some(now);
    report.state = next;
    let is_marked = !planted(Defect::MarkBeforeSendLeftOut);
    let first_sent_at = report.first_sent_at.filter(|_| is_marked);
    let changed = change
        .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
        .col_expr(Column::Attempts, Expr::value(report.attempts))
        .col_expr(Column::EventTimestamp, Expr::value(stamp))
        .col_expr(Column::BillAt, Expr::value(report.bill_at))
        .col_expr(Column::FirstSentAt, Expr::value(first_sent_at))
        .col_expr(Column::LastSentAt, Expr::value(is_marked.then_some(now)))
        .col_expr(Column::NextAttemptAt, Expr::value(attempt.retry_at))
        .exec(tx)
        .await?;
    Ok((changed.rows_affected == 1).then_some(Task::Send {
        report,
        may_have_arrived,
    }))
}

/// Keeps a report that no subscription charges, if it is still as it was read, and looks at it again at a time.
async fn hold(tx: &Transaction, report: &Report, until: Millis) -> std::result::Result<(), DbErr> {
    let Some(next) = report.state.after(&Transition::MarkUncharged) else {
        return Ok(());
    };
    update_as_read(report)
        .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
        .col_expr(Column::NextAttemptAt, Expr::value(until))
        .col_expr(Column::LastError, Expr::value(UNCHARGED))
        .exec(tx)
        .await?;
    if report.state != next {
        tracing::warn!(report = %report.id, account = %report.account_id, meter = report.meter, quantity = report.quantity, "{UNCHARGED}");
        metrics::count_transition(Some(&Transition::MarkUncharged));
    }
    Ok(())
}

/// Records the transition of a report that is not sent, if the report is still as it was read.
pub(super) async fn record_skip(
    tx: &Transaction,
    report: &Report,
    Skip { transition, why }: &Skip,
) -> std::result::Result<(), DbErr> {
    let Some(next) = report.state.after(transition) else {
        return Ok(());
    };
    let mut change = update_as_read(report)
        .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
        .col_expr(Column::NextAttemptAt, at_once());
    if matches!(next, State::TooLate | State::CustomerDeleted) {
        change = change.col_expr(Column::LastError, Expr::value(*why));
    }
    if next == State::NotBillable {
        // That of an attempt that failed: without being sent, only what another integration bills has one.
        change = change.col_expr(Column::EventTimestamp, Expr::value(None::<i64>));
    }
    change.exec(tx).await?;
    if next == State::NotBillable {
        tracing::info!(report = %report.id, quantity = report.quantity, why, "report not billable");
    } else {
        tracing::error!(report = %report.id, quantity = report.quantity, state = next.name(), why, "report not sent");
    }
    metrics::count_transition(Some(transition));
    Ok(())
}

/// Chooses the event's timestamp, by the account's boundaries and the other events of the stream.
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
    let window = report.window_to_send(not_before, around);
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
    Ok(event_time::choose_timestamp(window, now, &taken))
}
