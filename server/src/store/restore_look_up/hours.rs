//! Reads the reports of a stream by the hour of their events.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    Select,
    sea_query::{Condition, Expr, ExprTrait as _},
};
use uuid::Uuid;

use crate::{
    domain::{
        HOUR_MS, Millis,
        account::{BillingTarget, billing_target_at},
        account_id::AccountId,
        report::{Kind, Report, State},
        restore::Candidate,
        start_of,
        stream::Stream,
        window::{Interval, minute_of},
    },
    entity::usage_report::{self, Column},
    error::{Error, Result},
    store::{
        Store,
        links::{accounts_of_customer, read_links},
        report_rules::{EVENT_AT, needs_look_up},
        report_states::state_in,
        rows,
        stripe_account::sent_since,
    },
};

/// The number of reports that one query reads.
const PAGE: u64 = 5_000;
/// The maximum number of reports to decide that are read for one range. In the ranges of `restore_look_up` it is more than one
/// every two seconds.
const MAX_CANDIDATES: usize = 200_000;

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
    /// The total of reports that were sent, and then written off: Stripe may have them.
    pub(crate) given_up: i64,
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
            State::Accepted | State::Confirmed | State::Invoiced
                if report.kind == Kind::AlreadySent =>
            {
                self.already_sent = self.already_sent.saturating_add(quantity);
            }
            State::Confirmed | State::Invoiced => {
                self.accepted = self.accepted.saturating_add(quantity);
            }
            State::Accepted if !is_recent => {
                self.accepted = self.accepted.saturating_add(quantity);
            }
            State::Accepted | State::Missing | State::Sending | State::Unknown => {
                self.has_uncertain = true;
                self.uncertain = self.uncertain.saturating_add(quantity);
            }
            State::WrittenOff if report.first_sent_at.is_some() => {
                self.given_up = self.given_up.saturating_add(quantity);
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

impl Store {
    /// The account whose usage of a time was billed to a customer, if there was one.
    pub(crate) async fn account_billed_at(
        &self,
        customer: &str,
        at: Millis,
    ) -> Result<Option<AccountId>> {
        let accounts = accounts_of_customer(&self.reader, customer).await?;
        let links = read_links(&self.reader, accounts.iter()).await?;
        let billed = BillingTarget::Billed(customer.to_owned());
        let mut then = accounts.into_iter().filter(|account| {
            let own = links.get(account);
            own.is_some_and(|own| billing_target_at(own, at) == billed)
        });
        Ok(then.next())
    }

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
        Ok(oldest.map(|at| start_of(HOUR_MS, at)))
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
        .filter(needs_look_up(restored_at))
}

fn is_full(page: &[Report]) -> bool {
    u64::try_from(page.len()).is_ok_and(|len| len >= PAGE)
}
