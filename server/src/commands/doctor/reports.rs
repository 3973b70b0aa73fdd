//! Reports that nobody will send by themselves, those that run out of time, and the ledger check.

use super::{Finding, some, why};
use crate::{
    domain::{
        DAY_MS, MINUTE_MS, Millis,
        period::rfc3339,
        report::{CLOSE_AT_ONCE_MS, State},
    },
    store::{
        Store,
        doctor::{Held, Holding},
        ledger_check::LedgerTotals,
    },
};

const CHECK: &str = "reports";
/// From here on a report runs out of time.
const NEAR_MS: Millis = 30 * DAY_MS;
/// How long before the end of an invoice's draft what is not sent is worth a line.
const DRAFT_NEAR_MS: Millis = 15 * MINUTE_MS;

pub(super) async fn check(store: &Store, now: Millis, findings: &mut Vec<Finding>) {
    let before = findings.len();
    for state in State::UNDECIDED {
        match store.holding(&Held::In(state)).await {
            Ok(holding) => findings.extend(check_state(state, &holding)),
            Err(error) => findings.push(Finding::unchecked(CHECK, &why(&error))),
        }
    }
    let near = Held::NotSentSince(now.saturating_sub(NEAR_MS));
    match store.holding(&near).await {
        Ok(holding) => findings.extend(check_age(&holding, now)),
        Err(error) => findings.push(Finding::unchecked(CHECK, &why(&error))),
    }
    let draft = Held::NotSentInDraftUntil(now.saturating_add(DRAFT_NEAR_MS));
    match store.holding(&draft).await {
        Ok(holding) => findings.extend(check_draft(&holding)),
        Err(error) => findings.push(Finding::unchecked(CHECK, &why(&error))),
    }
    if findings.len() == before {
        findings.push(Finding::ok(
            CHECK,
            "none waits for a decision, none is near its deadline",
        ));
    }
    findings.push(match store.ledger_totals().await {
        Ok(law) => check_law(&law),
        Err(error) => Finding::unchecked("ledger check", &why(&error)),
    });
}

/// `3 reports, 12 units, of acct_1, acct_2 and 1 more`.
fn what(holding: &Holding) -> String {
    format!(
        "{} reports, {} units, of {}",
        holding.reports,
        holding.quantity,
        some(&holding.first, holding.accounts)
    )
}

fn check_state(state: State, holding: &Holding) -> Option<Finding> {
    if holding.reports == 0 {
        return None;
    }
    let (fact, advice) = match state {
        State::Rejected => ("Stripe refused them", "mend what Stripe says, then retry"),
        State::CustomerDeleted => (
            "their customer is gone from Stripe",
            "link the account to another customer, then retry, or write them off",
        ),
        State::Unknown => (
            "Stripe gave no answer for 23 h and cannot be seen to have them",
            "compare with the customer's meter events in Stripe's dashboard, then retry or write them off",
        ),
        State::Missing => (
            "Stripe took them and its totals lack them",
            "look into Stripe's meter error reports, then retry, bill in the current period or write them off",
        ),
        _ => (
            "they came too late for Stripe or for their invoice",
            "bill them in the current period or write them off",
        ),
    };
    let error = holding
        .error
        .as_ref()
        .map(|error| format!("; for example: {error}"));
    Some(Finding::bad(
        CHECK,
        format!(
            "{}: {}: {fact}{}",
            state.name(),
            what(holding),
            error.unwrap_or_default()
        ),
        format!("{advice} (ResolveReport)"),
    ))
}

fn check_age(holding: &Holding, now: Millis) -> Option<Finding> {
    let oldest = holding.oldest?;
    let fact = format!(
        "{}: not at Stripe, which takes no usage older than 35 days, and counted since {}",
        what(holding),
        rfc3339(oldest)
    );
    let advice = "link their accounts, see that a server runs with a Stripe key, and ForceReport";
    Some(if now.saturating_sub(oldest) >= CLOSE_AT_ONCE_MS {
        Finding::bad(CHECK, fact, advice)
    } else {
        Finding::warn(CHECK, fact, advice)
    })
}

fn check_draft(holding: &Holding) -> Option<Finding> {
    (holding.reports > 0).then(|| {
        Finding::bad(
            CHECK,
            format!(
                "{}: not at Stripe, and the draft of their invoice ends within {} minutes, or has ended",
                what(holding),
                DRAFT_NEAR_MS.div_euclid(MINUTE_MS)
            ),
            "ForceReport for these accounts now",
        )
    })
}

fn check_law(law: &LedgerTotals) -> Finding {
    let (committed, counted) = (law.committed, law.counted());
    if law.is_balanced() {
        Finding::ok(
            "ledger check",
            format!("it holds: {committed} units acknowledged, all in reports"),
        )
    } else {
        Finding::bad(
            "ledger check",
            format!(
                "it is broken: {committed} units acknowledged and {counted} in reports, {} apart",
                counted.saturating_sub(committed)
            ),
            "stop the service, keep a copy of the database, and find out who changed it",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Severity;

    fn holding(reports: i64, oldest: Option<Millis>) -> Holding {
        Holding {
            accounts: 1,
            reports,
            quantity: 5,
            oldest,
            first: vec![crate::domain::account_id::AccountId::parse("acct").unwrap()],
            error: Some("Stripe answered 400: no".to_owned()),
        }
    }

    #[test]
    fn what_waits_for_a_decision_is_bad_and_says_why() {
        for state in State::UNDECIDED {
            assert_eq!(check_state(state, &holding(0, None)), None);
            let finding = check_state(state, &holding(1, Some(0))).unwrap();
            assert_eq!(finding.mark, Severity::Bad);
            assert!(finding.fact.starts_with(state.name()), "{finding}");
            assert!(finding.fact.contains("acct") && finding.fact.contains("no"));
        }
    }

    #[test]
    fn time_runs_out_at_33_days() {
        let mark = |age| check_age(&holding(1, Some(0)), age).unwrap().mark;
        assert_eq!(mark(NEAR_MS), Severity::Warn);
        assert_eq!(mark(CLOSE_AT_ONCE_MS - 1), Severity::Warn);
        assert_eq!(mark(CLOSE_AT_ONCE_MS), Severity::Bad);
        assert_eq!(check_age(&holding(0, None), 0), None);
    }

    #[test]
    fn a_broken_law_says_by_how_much() {
        let law = |committed| LedgerTotals {
            committed,
            reports: [("open".to_owned(), 7_i128)].into(),
            corrections: 5,
        };
        assert_eq!(check_law(&law(7)).mark, Severity::Ok);
        let finding = check_law(&law(10));
        assert_eq!(finding.mark, Severity::Bad);
        assert!(finding.fact.contains("-3 apart"), "{finding}");
    }
}
