//! Queries of the look-up after a restore: the reports of a customer and meter by the hour of their events, and the
//! results of comparing them with Stripe.

use std::collections::BTreeMap;

use sea_orm::{
    ActiveModelTrait as _,
    ActiveValue::Set,
    ColumnTrait as _, DbErr, EntityTrait as _, IntoActiveModel as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Select,
    sea_query::{Condition, Expr, ExprTrait as _},
};
use uuid::Uuid;

use super::{
    Store,
    connection::Transaction,
    report_states::{at_once, state_in},
    rows,
    stripe_account::sent_since,
};
use crate::{
    domain::{
        HOUR_MS, Millis,
        account_id::AccountId,
        report::{Kind, Report, State, Transition},
        restore::{AtStripe, Candidate},
        stream::Stream,
        window::{Interval, event_timestamp, minute_of},
    },
    entity::usage_report::{self, Column, UsageReportKind, UsageReportState},
    error::{Error, Result},
};

/// The number of reports that one query reads.
const PAGE: u64 = 5_000;
/// The maximum number of reports to decide that are read for one range. In the ranges of `restore_look_up` it is more than one
/// every two seconds.
const MAX_CANDIDATES: usize = 200_000;
/// The time by which a report is put into an hour, as in [`Report::event_hour`].
const EVENT_AT: &str = "COALESCE(event_timestamp, bill_at, CASE WHEN first_at > window_start THEN first_at ELSE window_start END)";
/// What an entry of usage that Stripe already has says.
const ENTERED_BY: &str = "usage-server restore";
const ENTERED_WHY: &str = "at Stripe, and not in the restored backup";

/// The reports of a stream with events in one hour.
#[derive(Clone, Debug, Default)]
pub(crate) struct HourReports {
    /// The total that Stripe is known to have.
    pub(crate) accepted: i64,
    /// The total that was entered as already sent.
    pub(crate) already_sent: i64,
    /// The total of other reports that Stripe may have: without an answer, or accepted so recently that its total may
    /// lack them. Nothing can be decided then.
    pub(crate) uncertain: i64,
    /// Whether there is any of them.
    pub(crate) has_uncertain: bool,
    /// The reports to decide.
    pub(crate) candidates: Vec<Report>,
    /// The minutes that have an event, each once.
    pub(crate) taken: Vec<Millis>,
}

impl HourReports {
    /// Adds a report with an event timestamp. One to decide only takes its minute.
    fn add_event(&mut self, report: &Report, restored_at: Option<Millis>) {
        let minute = report.event_timestamp.map(|at| minute_of(at).start);
        if let Some(minute) = minute.filter(|minute| self.taken.last() != Some(minute)) {
            self.taken.push(minute);
        }
        if is_candidate(report, restored_at) {
            return;
        }
        let quantity = report.quantity;
        let is_recent = restored_at.is_some() && report.reported_at >= restored_at;
        match report.state {
            State::Accepted | State::Confirmed if report.kind == Kind::AlreadySent => {
                self.already_sent = self.already_sent.saturating_add(quantity);
            }
            State::Confirmed => self.accepted = self.accepted.saturating_add(quantity),
            State::Accepted if !is_recent => {
                self.accepted = self.accepted.saturating_add(quantity);
            }
            State::Accepted | State::Missing | State::Sending | State::Unknown => {
                self.has_uncertain = true;
                self.uncertain = self.uncertain.saturating_add(quantity);
            }
            _ => {}
        }
    }

    /// The reports to decide, as the rule takes them.
    pub(crate) fn to_decide(&self, restored_at: Option<Millis>) -> Vec<Candidate> {
        let of_one = |report: &Report| Candidate {
            quantity: report.quantity,
            is_repeated: report.kind == Kind::Usage
                && report.attempts == 0
                && report.first_sent_at.is_none()
                && report.closed_at > restored_at,
        };
        self.candidates.iter().map(of_one).collect()
    }
}

/// The decisions of one hour.
#[derive(Clone, Debug)]
pub(crate) struct HourDecision<'a> {
    /// The reports, and what Stripe has of each.
    pub(crate) reports: &'a [(Report, AtStripe)],
    /// The minutes that have an event.
    pub(crate) taken: Vec<Millis>,
    /// Why reports stay undecided.
    pub(crate) why: String,
}

impl Store {
    /// The start of the oldest hour of a stream with a report to decide.
    pub(crate) async fn oldest_candidate_hour(
        &self,
        stream: &Stream,
        restored_at: Option<Millis>,
    ) -> Result<Option<Millis>> {
        let Some(restored_at) = restored_at else {
            return Ok(None);
        };
        let adopted_at = self.sending().await?.adopted_at;
        let oldest: Option<Option<Millis>> = candidates(stream, restored_at, adopted_at)
            .select_only()
            .column_as(Expr::cust(format!("MIN({EVENT_AT})")), "at")
            .into_tuple()
            .one(&self.reader)
            .await?;
        let oldest = oldest.flatten();
        Ok(oldest.map(|at| at.saturating_sub(at.rem_euclid(HOUR_MS))))
    }

    /// The reports of a stream by the hour of their events. The range is from one full hour to another.
    pub(crate) async fn hours_of(
        &self,
        stream: &Stream,
        range: Interval,
        restored_at: Option<Millis>,
    ) -> Result<BTreeMap<Millis, HourReports>> {
        let adopted_at = self.sending().await?.adopted_at;
        let mut hours: BTreeMap<Millis, HourReports> = BTreeMap::new();
        let mut after: Option<(Millis, Uuid)> = None;
        // Each page begins after the last one, so this ends with the range.
        loop {
            let page = self.events_after(stream, range, after, adopted_at).await?;
            for report in &page {
                let hour = hours.entry(report.event_hour()).or_default();
                hour.add_event(report, restored_at);
            }
            match page.last() {
                Some(last) if is_full(&page) => {
                    after = last.event_timestamp.map(|at| (at, last.id));
                }
                _ => break,
            }
        }
        let Some(restored_at) = restored_at else {
            return Ok(hours);
        };
        let found = self.read_candidates(stream, range, restored_at, adopted_at);
        for report in found.await? {
            let hour = hours.entry(report.event_hour()).or_default();
            hour.candidates.push(report);
        }
        Ok(hours)
    }

    /// One page of the reports of a stream with an event timestamp in a range, ordered by timestamp and id.
    async fn events_after(
        &self,
        stream: &Stream,
        range: Interval,
        after: Option<(Millis, Uuid)>,
        adopted_at: Option<Millis>,
    ) -> Result<Vec<Report>> {
        let start = after.map_or(range.start, |(at, _)| at);
        let mut query = usage_report::Entity::find()
            .filter(sent_since(adopted_at))
            .filter(Column::Customer.eq(&stream.customer))
            .filter(Column::Meter.eq(&stream.meter))
            .filter(Column::EventTimestamp.gte(start))
            .filter(Column::EventTimestamp.lt(range.end));
        if let Some((at, id)) = after {
            let is_after = Condition::any()
                .add(Column::EventTimestamp.gt(at))
                .add(Column::Id.gt(id));
            query = query.filter(is_after);
        }
        let page = query
            .order_by_asc(Column::EventTimestamp)
            .order_by_asc(Column::Id)
            .limit(PAGE)
            .all(&self.reader)
            .await?;
        Ok(rows::all(page))
    }

    /// The reports of a stream to decide in a range, oldest first.
    async fn read_candidates(
        &self,
        stream: &Stream,
        range: Interval,
        restored_at: Millis,
        adopted_at: Option<Millis>,
    ) -> Result<Vec<Report>> {
        let mut found: Vec<Report> = Vec::new();
        loop {
            let mut query = candidates(stream, restored_at, adopted_at)
                .filter(Expr::cust(EVENT_AT).gte(range.start))
                .filter(Expr::cust(EVENT_AT).lt(range.end));
            if let Some(last) = found.last() {
                query = query.filter(Column::Id.gt(last.id));
            }
            let page = query.order_by_asc(Column::Id).limit(PAGE);
            let page: Vec<Report> = rows::all(page.all(&self.reader).await?);
            let is_last = !is_full(&page);
            found.extend(page);
            if is_last {
                return Ok(found);
            }
            if found.len() > MAX_CANDIDATES {
                let why = format!(
                    "customer {}, meter {}: more than {MAX_CANDIDATES} reports of a few days wait for a comparison with Stripe; decide some of them with ResolveReport",
                    stream.customer, stream.meter
                );
                return Err(Error::Internal(why.into()));
            }
        }
    }

    /// Records what Stripe has of the reports of an hour. A report that changed meanwhile keeps its state.
    pub(crate) async fn record_look_up(
        &self,
        decision: &HourDecision<'_>,
        now: Millis,
    ) -> Result<()> {
        let tx = self.begin().await?;
        let mut taken = decision.taken.clone();
        let mut in_order: Vec<&(Report, AtStripe)> = decision.reports.iter().collect();
        in_order.sort_unstable_by_key(|(report, _)| report.id);
        for (report, at_stripe) in in_order {
            record(&tx, decision, (report, *at_stripe), &mut taken, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Sets how much of an hour was entered as already sent.
    pub(crate) async fn set_already_sent(
        &self,
        (stream, hour): (&Stream, Millis),
        account_id: &AccountId,
        quantity: i64,
        now: Millis,
    ) -> Result<()> {
        let tx = self.begin().await?;
        let known = usage_report::Entity::find()
            .filter(Column::Customer.eq(&stream.customer))
            .filter(Column::Meter.eq(&stream.meter))
            .filter(Column::EventTimestamp.eq(hour))
            .filter(Column::Kind.eq(UsageReportKind::AlreadySent))
            .lock_exclusive()
            .one(&tx)
            .await?;
        match known {
            Some(row) if quantity <= 0 => {
                usage_report::Entity::delete_by_id((row.account_id, row.id))
                    .exec(&tx)
                    .await?;
            }
            Some(row) => {
                usage_report::Entity::update_many()
                    .col_expr(Column::Quantity, Expr::value(quantity))
                    .filter(Column::AccountId.eq(row.account_id))
                    .filter(Column::Id.eq(row.id))
                    .exec(&tx)
                    .await?;
            }
            None if quantity <= 0 => {}
            None => {
                let row = already_sent(stream, hour, account_id, quantity, now);
                usage_report::Entity::insert(row)
                    .exec_without_returning(&tx)
                    .await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }
}

fn is_candidate(report: &Report, restored_at: Option<Millis>) -> bool {
    report.state == State::Unknown && report.needs_look_up(restored_at)
}

/// The reports of a stream to decide: those for which [`is_candidate`] holds.
fn candidates(
    stream: &Stream,
    restored_at: Millis,
    adopted_at: Option<Millis>,
) -> Select<usage_report::Entity> {
    usage_report::Entity::find()
        .filter(sent_since(adopted_at))
        .filter(Expr::cust(state_in(&[State::Unknown])))
        .filter(Column::Customer.eq(&stream.customer))
        .filter(Column::Meter.eq(&stream.meter))
        .filter(Column::FirstAt.lt(restored_at))
        .filter(
            Column::LookedUpAt
                .is_null()
                .or(Column::LookedUpAt.lt(restored_at)),
        )
}

fn is_full(page: &[Report]) -> bool {
    u64::try_from(page.len()).is_ok_and(|len| len >= PAGE)
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

async fn record(
    tx: &Transaction,
    decision: &HourDecision<'_>,
    (report, at_stripe): (&Report, AtStripe),
    taken: &mut Vec<Millis>,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let change = usage_report::Entity::update_many()
        .filter(Column::AccountId.eq(&report.account_id))
        .filter(Column::Id.eq(report.id))
        .filter(Column::State.eq(UsageReportState::from(report.state)))
        .filter(Column::Generation.eq(report.generation))
        .filter(Column::Attempts.eq(report.attempts));
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
            .col_expr(Column::LastError, Expr::value(decision.why.as_str()))
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
    let stamp = report.event_timestamp.unwrap_or_else(|| {
        let start = report.bill_at.unwrap_or(report.window_start);
        let end = Ord::min(
            report.event_hour().saturating_add(HOUR_MS),
            Ord::max(report.window_end, start.saturating_add(1)),
        );
        event_timestamp(Interval { start, end }, now, taken)
    });
    let minute = minute_of(stamp).start;
    if !taken.contains(&minute) {
        taken.push(minute);
    }
    stamp
}
