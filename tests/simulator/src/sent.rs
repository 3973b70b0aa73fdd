//! What must be at Stripe: each report as exactly one meter event, or not at all and in a state that says why.

use std::collections::BTreeSet;

use fake_stripe::StoredEvent;
use usage_client::{ReportState, UsageReport};

use crate::{
    checks::{AT_STRIPE, Ends, TOLD, show, window},
    oracle::{Account, Billing, Oracle},
    terms::Charge,
    time::{DAY, HOUR, MINUTE, SECOND},
    world::{METERS, Outcome},
};

/// A window without any more usage is closed so long after its start.
const CLOSED_AFTER: i64 = 2 * HOUR;

/// States in which usage is not at Stripe, for certain; at the end, without faults.
const NOT_AT_STRIPE: [ReportState; 6] = [
    ReportState::NotBillable,
    ReportState::NoCustomer,
    ReportState::Rejected,
    ReportState::CustomerDeleted,
    ReportState::Missing,
    ReportState::TooLate,
];
/// What Stripe accepted is compared with its totals so long after that.
const COMPARED_AFTER: i64 = 2 * DAY;

/// Checks all reports and all meter events.
pub(crate) fn check(ends: &Ends, oracle: &Oracle) -> Outcome<()> {
    let mut sent = BTreeSet::new();
    for (account, reports) in ends.reports.iter().enumerate() {
        let known = &oracle.accounts[account];
        for report in reports {
            let event = ends.events.get(&report.identifier);
            let is_before = is_looked_up(report, oracle);
            let checked = check_report(ends, (report, is_before), event, known);
            if let Err(why) = checked.and_then(|()| check_compared(ends, report, event)) {
                let event = event.map_or("none", |event| event.customer.as_str());
                return Err(format!(
                    "{why}: {}, its event {event}, of {known}",
                    show(report)
                ));
            }
            if event.is_some() {
                sent.insert(report.identifier.as_str());
            }
            // What was sent before an admin decided.
            if !report.decisions.is_empty() {
                let first = format!("usage_{}", report.id.replace('-', ""));
                let own = ends.events.keys().filter(|event| event.starts_with(&first));
                sent.extend(own.map(String::as_str));
            }
        }
    }
    // A restored database does not know those that were sent after the backup.
    let is_forgotten = |event: &StoredEvent| {
        let restored = oracle.restored.as_ref();
        restored.is_some_and(|one| (one.backup_at..=one.at).contains(&event.received_at_ms))
    };
    let mut all = ends.events.iter();
    match all
        .find(|(identifier, event)| !sent.contains(identifier.as_str()) && !is_forgotten(event))
    {
        Some((_, event)) => Err(format!("no report has sent {event:?}")),
        None => Ok(()),
    }
}

/// Whether a restore looked for a report at Stripe: it is of the time before, and the backup did not know that Stripe had it.
fn is_looked_up(report: &UsageReport, oracle: &Oracle) -> bool {
    let Some(restored) = &oracle.restored else {
        return false;
    };
    let reported_at = report.reported_at.map(|at| at.timestamp_millis());
    restored.is_before(window(report).start)
        && reported_at.is_none_or(|at| at >= restored.backup_at)
}

/// `is_before`: it is usage from before a restore, whose event may have another identifier, and more than it has.
fn check_report(
    ends: &Ends,
    (report, is_before): (&UsageReport, bool),
    event: Option<&StoredEvent>,
    known: &Account,
) -> Outcome<()> {
    let start = report.window.start.timestamp_millis();
    let billing = known.billing_at(start);
    let meter = usize::from(report.meter != METERS[0].0);
    let is_unsure = known.is_blurred || known.is_straddled(meter, &window(report));
    let charge = known.terms.charge_at(meter, start);
    let is_there = event.is_some_and(|event| !event.cancelled);
    if is_there && !is_before && NOT_AT_STRIPE.contains(&report.state) {
        return Err("at Stripe, and the state says that it is not".to_owned());
    }
    match report.state {
        ReportState::Rejected if ends.refusals.contains(&report.identifier) => Ok(()),
        // Else Stripe refuses no event, and deletes no customer; but an admin may bill at a wrong clock's time.
        ReportState::Rejected | ReportState::CustomerDeleted if report.bill_at.is_none() => {
            Err("Stripe did not refuse it".to_owned())
        }
        state if AT_STRIPE.contains(&state) => {
            if !is_before {
                check_event(report, event.ok_or("not at Stripe")?, known)?;
            }
            // One that was moved has another time.
            let is_charged = charge == Charge::Charged || report.bill_at.is_some();
            match billing {
                _ if is_unsure => Ok(()),
                Billing::Customer if is_charged => Ok(()),
                Billing::Customer => Err("usage that nothing charges is at Stripe".to_owned()),
                _ => Err("free usage is at Stripe".to_owned()),
            }
        }
        ReportState::NotBillable if billing == Billing::Free || is_unsure => Ok(()),
        ReportState::NotBillable if charge == Charge::Trial => Ok(()),
        ReportState::NoCustomer if billing == Billing::NoCustomer || is_unsure => Ok(()),
        ReportState::WrittenOff if !report.decisions.is_empty() => Ok(()),
        ReportState::Open if ends.now_ms < start + CLOSED_AFTER => Ok(()),
        state if TOLD.contains(&state) => Ok(()),
        _ => Err("a report is in the wrong state".to_owned()),
    }
}

/// What Stripe's totals lack is noticed, and what they have is confirmed.
fn check_compared(ends: &Ends, report: &UsageReport, event: Option<&StoredEvent>) -> Outcome<()> {
    let Some(event) = event else {
        return Ok(());
    };
    // An admin's decision may have sent it again in the same minute.
    let is_lost = event.cancelled && report.decisions.is_empty();
    let is_confirmed = [ReportState::Confirmed, ReportState::Invoiced].contains(&report.state);
    if is_lost && is_confirmed {
        return Err("Stripe lost it, and the state says that its totals include it".to_owned());
    }
    let age = ends.now_ms - event.received_at_ms;
    if report.state != ReportState::Accepted || age <= COMPARED_AFTER {
        return Ok(());
    }
    // The total of a minute with a loss and several events may have several explanations.
    let minute = |event: &StoredEvent| (event.timestamp * SECOND).div_euclid(MINUTE);
    let mut beside = ends.events.values().filter(|other| {
        (&other.customer, &other.event_name, minute(other))
            == (&event.customer, &event.event_name, minute(event))
    });
    if beside.nth(1).is_some() && ends.events.values().any(|event| event.cancelled) {
        return Ok(());
    }
    Err("never compared with Stripe's totals".to_owned())
}

/// The event has the report's quantity, customer and time.
fn check_event(report: &UsageReport, event: &StoredEvent, known: &Account) -> Outcome<()> {
    let (start, end) = (report.window.start, report.window.end.timestamp());
    let time = start.timestamp_millis().div_euclid(SECOND)..end;
    // One that was moved to another period has the time of the decision.
    let is_in_time = time.contains(&event.timestamp) || report.bill_at.is_some();
    if event.value == report.quantity && event.customer == known.customer() && is_in_time {
        Ok(())
    } else {
        Err("something else is at Stripe".to_owned())
    }
}
