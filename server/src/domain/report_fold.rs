//! Folding: old reports that are finished become one row an account, meter, window, state and customer. Which reports are
//! folded, and which of them together. Where they are archived first is not decided here.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    DAY_MS, MINUTE_MS, Millis,
    account_id::AccountId,
    decision::{Decided, Decision},
    report::{Kind, MAX_EVENT_AGE_MS, Report, State},
    window::{Boundaries, Interval},
};

/// The lowest age in days at which reports are folded: longer than their keys are kept, and than Stripe takes events.
pub const MIN_FOLD_DAYS: i64 = 60;
/// States in which nothing more is expected to happen to a report.
pub const FINISHED: [State; 3] = [State::Invoiced, State::NotBillable, State::WrittenOff];

/// How long nothing may have happened to a report that is folded, however old its usage is.
const QUIET_MS: Millis = MIN_FOLD_DAYS.saturating_mul(DAY_MS);
/// How long before an adoption of another Stripe account usage may be from that is sent after it.
const AROUND_ADOPTION_MS: Millis = MAX_EVENT_AGE_MS.saturating_add(DAY_MS);

/// A report with everything that is stored of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedReport {
    /// The report.
    pub report: Report,
    /// When the sender may next send or check it.
    pub next_attempt_at: Option<Millis>,
    /// By when it should have been sent.
    pub send_by: Option<Millis>,
    /// The decisions of admins on it, oldest first.
    pub decisions: Vec<Decision>,
}

/// The sum of one or more reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldedReport {
    /// The account.
    pub account_id: AccountId,
    /// The id of the oldest of them.
    pub id: Uuid,
    /// The meter.
    pub meter: String,
    /// Their window.
    pub window: Interval,
    /// Their state.
    pub state: State,
    /// The Stripe customer that they are billed to.
    pub customer: Option<String>,
    /// Of usage that Stripe bills, also for another integration, a time that is billed with it.
    pub event_timestamp: Option<Millis>,
    /// The time that it is billed at, if that is not its window's.
    pub bill_at: Option<Millis>,
    /// When Stripe accepted the last of them, or it was first sent.
    pub sent_at: Option<Millis>,
    /// The sum of their quantities.
    pub quantity: i64,
    /// Their number.
    pub reports: i64,
    /// The earliest time of their increments.
    pub first_at: Millis,
    /// The latest time of their increments.
    pub last_at: Millis,
    /// What admins decided on them, oldest first.
    pub decisions: Vec<Decided>,
}

/// Folded reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// The rows, in the order of their accounts, windows and ids.
    pub rows: Vec<FoldedReport>,
    /// The id of the row that a report is in.
    pub row_of: HashMap<Uuid, Uuid>,
}

/// What decides which reports are folded together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoldContext {
    /// The boundaries of each account, at least since the first window.
    pub boundaries: HashMap<AccountId, Arc<Boundaries>>,
    /// When the present Stripe account was adopted, if it was.
    pub adopted_at: Option<Millis>,
}

/// Whether a report is folded: its usage is older than an age, and nothing has happened to it for a while. Corrections stay,
/// because their keys are kept for ever and name them; so does what a restore found. Both are few.
pub fn may_fold(finished: &FinishedReport, age_ms: Millis, now: Millis) -> bool {
    let report = &finished.report;
    let decided = finished.decisions.iter().map(|one| one.decided_at).max();
    let latest = [
        report.closed_at,
        report.event_timestamp,
        report.bill_at,
        report.last_sent_at,
        report.reported_at,
        report.confirmed_at,
        report.looked_up_at,
        decided,
    ];
    let latest = latest.into_iter().flatten().max();
    report.kind == Kind::Usage
        && FINISHED.contains(&report.state)
        && report.window_end <= now.saturating_sub(age_ms)
        && latest.is_none_or(|at| at <= now.saturating_sub(QUIET_MS))
}

/// What the reports of a row have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    account_id: &'a AccountId,
    window: Interval,
    meter: &'a str,
    state: State,
    customer: Option<&'a str>,
    /// Whether another integration bills it.
    is_billed_elsewhere: bool,
    /// The id of a report that is a row by itself.
    alone: Option<Uuid>,
}

/// Folds reports. No total that is read of them changes: neither one by window nor one by billing period.
pub fn fold<'a>(
    reports: impl IntoIterator<Item = &'a FinishedReport>,
    context: &FoldContext,
) -> Fold {
    let mut groups: BTreeMap<Key<'_>, Vec<&FinishedReport>> = BTreeMap::new();
    for finished in reports {
        let report = &finished.report;
        let key = Key {
            account_id: &report.account_id,
            window: window_of(report),
            meter: &report.meter,
            state: report.state,
            customer: report.customer.as_deref(),
            is_billed_elsewhere: report.is_billed_elsewhere(),
            alone: stays_alone(report, context).then_some(report.id),
        };
        groups.entry(key).or_default().push(finished);
    }
    let mut fold = Fold::default();
    for (key, reports) in groups {
        let Some(row) = row(&key, &reports) else {
            continue;
        };
        let of_row = reports.iter().map(|one| (one.report.id, row.id));
        fold.row_of.extend(of_row);
        fold.rows.push(row);
    }
    fold.rows
        .sort_unstable_by(|one, other| order_of(one).cmp(&order_of(other)));
    fold
}

fn order_of(row: &FoldedReport) -> (&AccountId, Millis, Uuid) {
    (&row.account_id, row.window.start, row.id)
}

fn window_of(report: &Report) -> Interval {
    Interval {
        start: report.window_start,
        end: report.window_end,
    }
}

/// Whether a report is not added to others of its window, because a total of a billing period could contain it and not them.
///
/// Stripe's totals are read by whole minutes, so a window that does not begin and end with a minute shares one with the next
/// period.
fn stays_alone(report: &Report, context: &FoldContext) -> bool {
    let window = window_of(report);
    let is_split = context
        .boundaries
        .get(&report.account_id)
        .is_some_and(|boundaries| boundaries.splits(window));
    let is_in_whole_minutes = [window.start, window.end]
        .iter()
        .all(|edge| edge.rem_euclid(MINUTE_MS) == 0);
    let is_billed_in_window = match report.event_timestamp {
        Some(at) => window.contains(at),
        None => report.state != State::Invoiced,
    };
    // Part of it may have gone to the former Stripe account.
    let is_around_adoption = context.adopted_at.is_some_and(|adopted_at| {
        let around = Interval {
            start: adopted_at.saturating_sub(AROUND_ADOPTION_MS),
            end: adopted_at,
        };
        around.contains(window.start)
    });
    report.bill_at.is_some()
        || report.straddled
        || is_split
        || !is_in_whole_minutes
        || !is_billed_in_window
        || is_around_adoption
}

fn row(key: &Key<'_>, finished: &[&FinishedReport]) -> Option<FoldedReport> {
    let reports: Vec<&Report> = finished.iter().map(|one| &one.report).collect();
    let decisions = finished.iter().flat_map(|one| &one.decisions);
    let mut decisions: Vec<Decided> = decisions.map(Decided::from).collect();
    decisions.sort_unstable();
    let first = reports.iter().min_by_key(|report| report.id)?;
    // Those that were folded together are billed together, wherever in their window their events are.
    let event_timestamp = match key.alone {
        Some(_) => first.event_timestamp,
        None if key.state == State::Invoiced || key.is_billed_elsewhere => Some(key.window.start),
        None => None,
    };
    let sent = |report: &&Report| report.reported_at.or(report.first_sent_at);
    let quantities = reports.iter().map(|report| report.quantity);
    Some(FoldedReport {
        account_id: first.account_id.clone(),
        id: first.id,
        meter: first.meter.clone(),
        window: key.window,
        state: key.state,
        customer: first.customer.clone(),
        event_timestamp,
        bill_at: first.bill_at,
        sent_at: reports.iter().filter_map(sent).max(),
        quantity: quantities.fold(0, i64::saturating_add),
        reports: i64::try_from(reports.len()).unwrap_or(i64::MAX),
        first_at: reports.iter().map(|report| report.first_at).min()?,
        last_at: reports.iter().map(|report| report.last_at).max()?,
        decisions,
    })
}

/// Whether two sums are of the same usage. The invoices of usage that was invoiced can change.
pub fn same_usage(one: &FoldedReport, other: &FoldedReport) -> bool {
    let parts = |row: &FoldedReport| {
        (
            row.account_id.clone(),
            row.id,
            row.meter.clone(),
            row.window,
            row.customer.clone(),
            (row.quantity, row.reports),
            (row.first_at, row.last_at),
        )
    };
    let state = |row: &FoldedReport| match row.state {
        State::Invoiced => State::Confirmed,
        state => state,
    };
    parts(one) == parts(other) && state(one) == state(other)
}
