//! Checks for reports that wait for a decision or are near a deadline, and the ledger check.

use super::finding::{Finding, cause_of, first_names};
use crate::{
    domain::{
        DAY_MS, MINUTE_MS, Millis, closing::CLOSE_AT_ONCE_MS, meter::Meters, period::rfc3339,
        report::State,
    },
    planted_defects::{Defect, planted},
    store::{
        Store,
        doctor::{GroupTotals, ReportGroup},
        ledger_check::LedgerTotals,
        near_deadlines::NEAR_DRAFT_END_MS,
    },
};

const CHECK: &str = "reports";
/// From this age on, a report that is not at Stripe is near its deadline.
const OLD_MS: Millis = 30 * DAY_MS;

pub(super) async fn check(
    store: &Store,
    meters: &Meters,
    now: Millis,
    findings: &mut Vec<Finding>,
) {
    match store.other_meters(&meters.names_of_all()).await {
        Ok(others) => findings.extend(check_meters(&others)),
        Err(error) => findings.push(Finding::unchecked("meters", &cause_of(&error))),
    }
    let before = findings.len();
    for state in State::NEEDS_DECISION {
        if planted(Defect::DoctorSilent) && state == State::TooLate {
            continue;
        }
        match store.group_totals(&ReportGroup::InState(state)).await {
            Ok(totals) => findings.extend(check_state(state, &totals)),
            Err(error) => findings.push(Finding::unchecked(CHECK, &cause_of(&error))),
        }
    }
    let near = ReportGroup::NotSentSince(now.saturating_sub(OLD_MS));
    match store.group_totals(&near).await {
        Ok(totals) => findings.extend(check_age(&totals, now)),
        Err(error) => findings.push(Finding::unchecked(CHECK, &cause_of(&error))),
    }
    match store.near_draft_end(&State::NOT_SENT, now).await {
        Ok(reports) => findings.extend(check_draft(&GroupTotals::of(&reports))),
        Err(error) => findings.push(Finding::unchecked(CHECK, &cause_of(&error))),
    }
    if findings.len() == before {
        findings.push(Finding::ok(
            CHECK,
            "none waits for a decision, none is near a deadline",
        ));
    }
    findings.push(match store.ledger_totals().await {
        Ok(totals) => check_ledger(&totals),
        Err(error) => Finding::unchecked("ledger check", &cause_of(&error)),
    });
}

fn check_meters(others: &[String]) -> Option<Finding> {
    (!others.is_empty()).then(|| {
        Finding::bad(
            "meters",
            format!(
                "usage that is not at Stripe belongs to meters that are not configured: {}; it is given up when it is older than 35 days",
                others.join(", ")
            ),
            "configure them (METERS) and restart",
        )
    })
}

/// `3 reports, 12 units, of acct_1, acct_2 and 1 more`.
fn summary(totals: &GroupTotals) -> String {
    format!(
        "{} reports, {} units, of {}",
        totals.reports,
        totals.quantity,
        first_names(&totals.first, totals.accounts)
    )
}

fn check_state(state: State, totals: &GroupTotals) -> Option<Finding> {
    if totals.reports == 0 {
        return None;
    }
    let (fact, advice) = match state {
        State::Rejected => ("Stripe refused them", "fix what Stripe says, then retry"),
        State::CustomerDeleted => (
            "their customer was deleted at Stripe",
            "link the account to another customer and retry, or write them off",
        ),
        State::Unknown => (
            "Stripe did not answer for 23 h, or has them from before a restore, and its totals do not show it",
            "compare with the customer's meter events in Stripe's dashboard; a retry looks them up again if they are from before a restore. Bill them in the current period only if Stripe lacks them, else write them off",
        ),
        State::Missing => (
            "Stripe accepted them, but its totals do not contain them",
            "read Stripe's meter error reports, then retry, bill in the current period or write them off",
        ),
        State::Uncharged => (
            "no item of a living subscription of their customer charges their meter at their time",
            "give the customer a subscription with a price on the meter; usage from before it is billed with BILL_IN_CURRENT_PERIOD, or written off",
        ),
        _ => (
            "they are too old for Stripe, or their invoice is final",
            "bill them in the current period or write them off",
        ),
    };
    let error = totals
        .error
        .as_ref()
        .map(|error| format!("; for example: {error}"));
    Some(Finding::bad(
        CHECK,
        format!(
            "{}: {}: {fact}{}",
            state.name(),
            summary(totals),
            error.unwrap_or_default()
        ),
        format!("{advice} (ResolveReport)"),
    ))
}

fn check_age(totals: &GroupTotals, now: Millis) -> Option<Finding> {
    let oldest = totals.oldest?;
    let fact = format!(
        "{}: not at Stripe, which refuses usage older than 35 days, and counted since {}",
        summary(totals),
        rfc3339(oldest)
    );
    let advice =
        "link their accounts, check that a server runs with a Stripe key, then call ForceReport";
    Some(if now.saturating_sub(oldest) >= CLOSE_AT_ONCE_MS {
        Finding::bad(CHECK, fact, advice)
    } else {
        Finding::warn(CHECK, fact, advice)
    })
}

fn check_draft(totals: &GroupTotals) -> Option<Finding> {
    (totals.reports > 0).then(|| {
        Finding::bad(
            CHECK,
            format!(
                "{}: not at Stripe, and the draft of their invoice ends within {} minutes or has ended",
                summary(totals),
                NEAR_DRAFT_END_MS.div_euclid(MINUTE_MS)
            ),
            "call ForceReport for these accounts now",
        )
    })
}

fn check_ledger(totals: &LedgerTotals) -> Finding {
    let (committed, counted) = (totals.committed, totals.counted());
    if totals.is_balanced() {
        Finding::ok(
            "ledger check",
            format!("{committed} units acknowledged, all of them in reports"),
        )
    } else {
        Finding::bad(
            "ledger check",
            format!(
                "it fails: {committed} units acknowledged, {counted} in reports, difference {}",
                counted.saturating_sub(committed)
            ),
            "stop the service, copy the database, and find out what changed it",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    fn totals(reports: i64, oldest: Option<Millis>) -> GroupTotals {
        GroupTotals {
            accounts: 1,
            reports,
            quantity: 5,
            oldest,
            first: vec![crate::domain::account_id::AccountId::parse("acct").unwrap()],
            error: Some("Stripe answered 400: no".to_owned()),
        }
    }

    #[test]
    fn a_report_that_needs_a_decision_is_bad_and_has_a_reason() {
        for state in State::NEEDS_DECISION {
            assert_eq!(check_state(state, &totals(0, None)), None);
            let finding = check_state(state, &totals(1, Some(0))).unwrap();
            assert_eq!(finding.severity, Severity::Bad);
            assert!(finding.fact.starts_with(state.name()), "{finding}");
            assert!(finding.fact.contains("acct") && finding.fact.contains("no"));
        }
    }

    #[test]
    fn a_report_not_at_stripe_is_bad_at_33_days() {
        let severity = |age| check_age(&totals(1, Some(0)), age).unwrap().severity;
        assert_eq!(severity(OLD_MS), Severity::Warn);
        assert_eq!(severity(CLOSE_AT_ONCE_MS - 1), Severity::Warn);
        assert_eq!(severity(CLOSE_AT_ONCE_MS), Severity::Bad);
        assert_eq!(check_age(&totals(0, None), 0), None);
    }

    #[test]
    fn a_failed_ledger_check_states_the_difference() {
        let totals = |committed| LedgerTotals {
            committed,
            reports: [("open".to_owned(), 7_i128)].into(),
            corrections: 5,
        };
        assert_eq!(check_ledger(&totals(7)).severity, Severity::Ok);
        let finding = check_ledger(&totals(10));
        assert_eq!(finding.severity, Severity::Bad);
        assert!(finding.fact.contains("difference -3"), "{finding}");
    }
}
