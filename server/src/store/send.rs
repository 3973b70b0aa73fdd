//! Sending: what is due, what is marked before a request and what is recorded after it.
//!
//! Every change is a compare-and-set on the state that was seen, so a replica that lost its lease in
//! between changes nothing. Whoever changes several reports locks them in the order of their ids.

use sea_orm::{
    ColumnTrait as _, DatabaseTransaction, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, QueryTrait as _, UpdateMany,
    sea_query::{Expr, ExprTrait as _, Func},
};

use super::{
    Store,
    billing_context::{self, SendDecision},
    boundaries::read,
    close::Scope,
    reports::Report,
};
use crate::{
    domain::stream::Stream,
    domain::{
        MINUTE_MS, Millis, SECOND_MS,
        invoice::LateUsage,
        report::{MAX_EVENT_AGE_MS, State, Transition, UNANSWERED_MS},
        window::{Interval, Slots, event_timestamp},
    },
    entity::usage_report::{self, Column},
    error::Result,
    metrics,
};

/// By which rules reports are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The slots in force.
    pub(crate) slots: Slots,
    /// What becomes of usage whose invoice is final.
    pub(crate) late_usage: LateUsage,
}

/// What is next for a report that is due.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Give it to Stripe; it is marked already.
    Send {
        /// What to send.
        report: Report,
        /// Whether an earlier attempt under this identifier may have arrived.
        may_be_there: bool,
    },
    /// Look whether Stripe has it.
    Look(Report),
}

/// What is to be recorded of a report.
#[derive(Clone, Debug)]
pub(crate) struct SendResult {
    /// The report as it was when it was sent or looked up.
    pub(crate) report: Report,
    /// What happened; `None` when nothing final did.
    pub(crate) event: Option<Transition>,
    /// Whether no attempt under the present identifier can have arrived.
    pub(crate) is_surely_absent: bool,
    /// What went wrong, in words.
    pub(crate) error: Option<String>,
    /// When to try again.
    pub(crate) next_attempt_at: Millis,
}

/// What Stripe was given of a stream in one minute.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MinuteSum {
    /// The sum of what is known to have arrived.
    pub(crate) arrived: i64,
    /// When the last of it was known to have arrived.
    pub(crate) last_arrived_at: Option<Millis>,
    /// Whether it is not known of anything else.
    pub(crate) is_undecided: bool,
}

impl Store {
    /// One report of each stream that is due, in the order of the streams, after the one given.
    pub(crate) async fn due_reports(
        &self,
        meters: &[&str],
        after: Option<&Stream>,
        now: Millis,
        limit: u64,
    ) -> Result<Vec<Report>> {
        let mut query = usage_report::Entity::find()
            .filter(is_due())
            .filter(Column::Customer.is_not_null())
            .filter(Column::Meter.is_in(meters.iter().copied()))
            .filter(Column::NextAttemptAt.lte(now));
        if let Some(Stream { customer, meter }) = after {
            query = query.filter(
                Expr::tuple([Expr::col(Column::Customer), Expr::col(Column::Meter)]).gt(
                    Expr::tuple([Expr::value(customer.as_str()), Expr::value(meter.as_str())]),
                ),
            );
        }
        Ok(query
            .order_by_asc(Column::Customer)
            .order_by_asc(Column::Meter)
            .order_by_asc(Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?)
    }

    /// Makes everything of a scope due that waits to be tried or looked up again. What went wrong with it
    /// before is history: without an error it counts as not answered yet.
    pub(crate) async fn retry_now(&self, scope: &Scope, now: Millis) -> Result<()> {
        let history = Expr::case(
            Expr::col(Column::State).eq(State::Unknown.name()),
            Expr::col(Column::LastError),
        )
        .finally(Expr::value(None::<String>));
        let waiting = scope
            .narrow(usage_report::Entity::find())
            .select_only()
            .column(Column::AccountId)
            .column(Column::Id)
            .filter(Column::State.is_in(State::DUE.map(State::name)))
            .filter(Column::Customer.is_not_null())
            .filter(
                Column::NextAttemptAt
                    .gt(now)
                    .or(Column::LastError.is_not_null()),
            )
            // As the sender locks them.
            .order_by_asc(Column::Id)
            .lock_exclusive();
        usage_report::Entity::update_many()
            .col_expr(Column::NextAttemptAt, Expr::value(now))
            .col_expr(Column::LastError, history.into())
            .filter(
                Expr::tuple([Expr::col(Column::AccountId), Expr::col(Column::Id)])
                    .in_subquery(waiting.into_query()),
            )
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Marks due reports, each of another stream, before anything is sent; what expired in between is
    /// settled at once. `retry_at` says when a report is due again if its answer never comes.
    pub(crate) async fn mark_sending(
        &self,
        mut due: Vec<Report>,
        rules: Rules,
        now: Millis,
        retry_at: impl Fn(&Report) -> Millis + Send,
    ) -> Result<Vec<Task>> {
        let tx = self.begin().await?;
        let mut tasks = Vec::new();
        due.sort_unstable_by_key(|report| report.id);
        for report in due {
            let retry_at = retry_at(&report);
            if let Some(task) = mark(&tx, report, rules, now, retry_at).await? {
                tasks.push(task);
            }
        }
        tx.commit().await?;
        Ok(tasks)
    }

    /// Records what came of requests.
    pub(crate) async fn record_results(
        &self,
        send_results: &[SendResult],
        now: Millis,
    ) -> Result<()> {
        let tx = self.begin().await?;
        let mut in_order: Vec<&SendResult> = send_results.iter().collect();
        in_order.sort_unstable_by_key(|send_result| send_result.report.id);
        for send_result in in_order {
            settle_one(&tx, send_result, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// What Stripe was given of a stream in one minute, but for one report.
    pub(crate) async fn minute_sum(
        &self,
        stream: &Stream,
        minute: Interval,
        except: &Report,
    ) -> Result<MinuteSum> {
        let rows: Vec<(String, i64, Option<Millis>)> = usage_report::Entity::find()
            .select_only()
            .column(Column::State)
            .column_as(
                Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
                "quantity",
            )
            .column_as(Column::ReportedAt.max(), "last_at")
            .filter(Column::Customer.eq(&stream.customer))
            .filter(Column::Meter.eq(&stream.meter))
            .filter(Column::EventTimestamp.gte(minute.start))
            .filter(Column::EventTimestamp.lt(minute.end))
            .filter(Column::Id.ne(except.id))
            .group_by(Column::State)
            .into_tuple()
            .all(&self.reader)
            .await?;
        let mut sum = MinuteSum::default();
        for (state, quantity, last_at) in rows {
            match State::from_name(&state) {
                Some(State::Accepted | State::Confirmed) => {
                    sum.arrived = sum.arrived.saturating_add(quantity);
                    sum.last_arrived_at = Ord::max(sum.last_arrived_at, last_at);
                }
                Some(State::Rejected | State::CustomerDeleted) => {}
                _ => sum.is_undecided = true,
            }
        }
        Ok(sum)
    }

    /// A report of the stream that Stripe took and that was never given to it before a moment: where its
    /// totals show it, they show everything from before. When it was taken does not say so: an event that
    /// is sent again after a crash may have arrived long ago.
    pub(crate) async fn find_witness(
        &self,
        stream: &Stream,
        after: Millis,
    ) -> Result<Option<Report>> {
        Ok(usage_report::Entity::find()
            .filter(Column::Customer.eq(&stream.customer))
            .filter(Column::Meter.eq(&stream.meter))
            .filter(Column::State.is_in(State::REPORTED.map(State::name)))
            .filter(Column::FirstSentAt.gt(after))
            .order_by_asc(Column::FirstSentAt)
            .one(&self.reader)
            .await?)
    }
}

/// The minute of a report's event.
pub(crate) fn minute_of(event_timestamp: Millis) -> Interval {
    let start = event_timestamp.saturating_sub(event_timestamp.rem_euclid(MINUTE_MS));
    Interval {
        start,
        end: start.saturating_add(MINUTE_MS),
    }
}

/// What the sender has work with, written out: a partial index only serves a query whose condition the
/// engine can see, and it sees no bound values.
fn is_due() -> Expr {
    let states = State::DUE.map(|state| format!("'{}'", state.name()));
    Expr::cust(format!("state IN ({})", states.join(", ")))
}

async fn mark(
    tx: &DatabaseTransaction,
    mut report: Report,
    rules: Rules,
    now: Millis,
    retry_at: Millis,
) -> std::result::Result<Option<Task>, DbErr> {
    let Some(state) = State::from_name(&report.state) else {
        return Ok(None);
    };
    let mut change = usage_report::Entity::update_many()
        .filter(Column::AccountId.eq(report.account_id.as_str()))
        .filter(Column::Id.eq(report.id))
        .filter(Column::State.eq(state.name()))
        .filter(Column::Attempts.eq(report.attempts))
        .filter(Column::Generation.eq(report.generation));
    if state == State::Unknown {
        change = change.col_expr(Column::NextAttemptAt, Expr::value(retry_at));
        let changed = change.exec(tx).await?;
        return Ok((changed.rows_affected == 1).then_some(Task::Look(report)));
    }
    let may_be_there = report.first_sent_at.is_some();
    let stamp = match prepare(tx, &mut report, rules, now).await? {
        Prepared::Send(stamp) => stamp,
        Prepared::Wait(until) => {
            billing_context::postpone(tx, &report, until).await?;
            return Ok(None);
        }
        Prepared::Leave(event, why) => {
            leave(tx, change, (&report, state), (&event, why), now).await?;
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
    next.name().clone_into(&mut report.state);
    let changed = change
        .col_expr(Column::State, Expr::value(next.name()))
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
        may_be_there,
    }))
}

/// What is to be done with a report before it is sent.
enum Prepared {
    /// It is sent with this timestamp.
    Send(Millis),
    /// It waits until then.
    Wait(Millis),
    /// It leaves the sender's hands: what happened, and why in words.
    Leave(Transition, &'static str),
}

async fn prepare(
    tx: &DatabaseTransaction,
    report: &mut Report,
    rules: Rules,
    now: Millis,
) -> std::result::Result<Prepared, DbErr> {
    let may_be_there = report.first_sent_at.is_some();
    let not_before = match billing_context::due(tx, report, rules.late_usage, now).await? {
        SendDecision::Later(until) => return Ok(Prepared::Wait(until)),
        // Whatever has not arrived by now comes too late; what has is found by looking.
        SendDecision::TooLate | SendDecision::CustomerDeleted | SendDecision::At(_)
            if may_be_there =>
        {
            let why = "unanswered when its invoice became final: looked up";
            return Ok(Prepared::Leave(Transition::MarkUnknown, why));
        }
        SendDecision::TooLate => {
            let why = "its invoice was final before Stripe had it";
            return Ok(Prepared::Leave(Transition::MarkTooLate, why));
        }
        SendDecision::CustomerDeleted => {
            let why = "the customer is gone, and its invoice was final before Stripe had it";
            return Ok(Prepared::Leave(Transition::MarkCustomerDeleted, why));
        }
        SendDecision::At(at) => {
            report.bill_at = Some(at);
            report.event_timestamp = None;
            None
        }
        SendDecision::Now(not_before) => not_before,
    };
    let is_unanswered = report
        .first_sent_at
        .is_some_and(|first| now.saturating_sub(first) >= UNANSWERED_MS);
    if is_unanswered {
        let why = "unanswered for 23 hours: looked up before it is sent again";
        return Ok(Prepared::Leave(Transition::MarkUnknown, why));
    }
    let stamp = match report.event_timestamp {
        Some(stamp) => stamp,
        None => choose_timestamp(tx, report, rules.slots, not_before, now).await?,
    };
    if stamp < now.saturating_sub(MAX_EVENT_AGE_MS) && !may_be_there {
        let why = "older than the 35 days that Stripe takes";
        return Ok(Prepared::Leave(Transition::MarkTooLate, why));
    }
    Ok(Prepared::Send(stamp))
}

/// Takes a report out of sending: what it becomes, and why in words.
async fn leave(
    tx: &DatabaseTransaction,
    change: UpdateMany<usage_report::Entity>,
    (report, state): (&Report, State),
    (event, why): (&Transition, &str),
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let Some(next) = state.after(event) else {
        return Ok(());
    };
    let mut change = change
        .col_expr(Column::State, Expr::value(next.name()))
        .col_expr(Column::NextAttemptAt, Expr::value(now));
    if matches!(next, State::TooLate | State::CustomerDeleted) {
        change = change.col_expr(Column::LastError, Expr::value(why));
    }
    change.exec(tx).await?;
    tracing::error!(report = %report.id, quantity = report.quantity, state = next.name(), why, "not sent");
    metrics::report(Some(event));
    Ok(())
}

/// The event's timestamp: inside the part of the window that the report's first increment lies in, so that
/// a boundary that was learned late does not put it on the wrong side.
async fn choose_timestamp(
    tx: &DatabaseTransaction,
    report: &Report,
    slots: Slots,
    not_before: Option<Millis>,
    now: Millis,
) -> std::result::Result<Millis, DbErr> {
    let known = read(
        tx,
        &[report.account_id.as_str().into()],
        report.window_start,
    )
    .await?;
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
    // What Stripe began to charge a moment later than usage began here.
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
    // An event that shares its minute with another takes the whole minute.
    let taken: Vec<Millis> = taken.into_iter().map(|at| minute_of(at).start).collect();
    // Never ahead of now: a subscription that ends in a moment would not charge it.
    Ok(event_timestamp(window, now, &taken))
}

async fn settle_one(
    tx: &DatabaseTransaction,
    send_result: &SendResult,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let report = &send_result.report;
    let Some(state) = State::from_name(&report.state) else {
        return Ok(());
    };
    let mut change = usage_report::Entity::update_many()
        .filter(Column::AccountId.eq(report.account_id.as_str()))
        .filter(Column::Id.eq(report.id))
        .filter(Column::State.eq(report.state.as_str()))
        .filter(Column::Generation.eq(report.generation))
        .col_expr(Column::LastError, Expr::value(send_result.error.clone()));
    let next = send_result
        .event
        .as_ref()
        .and_then(|event| state.after(event));
    change = match (&send_result.event, next) {
        (Some(Transition::Accept), Some(next)) => change
            // Stripe has it, whoever asked and however often.
            .col_expr(Column::State, Expr::value(next.name()))
            .col_expr(Column::ReportedAt, Expr::value(now)),
        (Some(Transition::SendUnderNewIdentifier), Some(next)) => change
            .filter(Column::Attempts.eq(report.attempts))
            .col_expr(Column::State, Expr::value(next.name()))
            .col_expr(Column::Generation, Expr::col(Column::Generation).add(1))
            .col_expr(Column::FirstSentAt, Expr::value(None::<i64>))
            .col_expr(Column::NextAttemptAt, Expr::value(now)),
        (Some(_), Some(next)) => change
            .filter(Column::Attempts.eq(report.attempts))
            .col_expr(Column::State, Expr::value(next.name())),
        _ => change
            .filter(Column::Attempts.eq(report.attempts))
            .col_expr(
                Column::NextAttemptAt,
                Expr::value(send_result.next_attempt_at),
            ),
    };
    if send_result.is_surely_absent && next.is_none() {
        // The 23 hours count from the first attempt that may have arrived.
        change = change.col_expr(Column::FirstSentAt, Expr::value(None::<i64>));
    }
    change.exec(tx).await.map(|_| ())
}
