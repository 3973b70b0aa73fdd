//! Property tests of what the sender does next.

use super::*;
use crate::domain::{DAY_MS, HOUR_MS, account_id::AccountId, report::Kind};
use proptest::prelude::*;
use uuid::Uuid;

const NOW: Millis = 1_800_000_000_000;

fn past() -> impl Strategy<Value = Millis> {
    (0..40 * 24_i64).prop_map(|hours| NOW - hours * HOUR_MS)
}

fn report() -> impl Strategy<Value = Report> {
    let state = prop_oneof![
        Just(State::Closed),
        Just(State::Sending),
        Just(State::Unknown),
        Just(State::Uncharged)
    ];
    let sent = proptest::option::of(past());
    let looked_up = proptest::option::of(past());
    (state, past(), sent, looked_up).prop_map(|(state, first_at, first_sent_at, looked_up_at)| {
        Report {
            account_id: AccountId::parse("account").unwrap(),
            id: Uuid::nil(),
            meter: "calls".to_owned(),
            window_start: first_at,
            window_end: first_at + HOUR_MS,
            period_end: Some(first_at + HOUR_MS),
            closed_at: Some(first_at + HOUR_MS),
            quantity: 1,
            first_at,
            last_at: first_at,
            state,
            straddled: false,
            generation: 0,
            event_timestamp: first_sent_at.map(|_| first_at),
            customer: Some("cus_1".to_owned()),
            attempts: 0,
            first_sent_at,
            last_sent_at: first_sent_at,
            reported_at: None,
            last_error: None,
            run_id: None,
            kind: Kind::Usage,
            note: None,
            entered_by: None,
            bill_at: None,
            confirmed_at: None,
            looked_up_at,
        }
    })
}

fn decision() -> impl Strategy<Value = SendDecision> {
    prop_oneof![
        Just(SendDecision::Send { not_before: None }),
        Just(SendDecision::SendAt(NOW)),
        Just(SendDecision::TooLate),
        Just(SendDecision::CustomerDeleted),
        Just(SendDecision::NotBillable),
        Just(SendDecision::Uncharged {
            until: NOW + 1,
            sync: None
        }),
        Just(SendDecision::Wait {
            until: NOW + 1,
            sync: None
        }),
    ]
}

proptest! {
    #[test]
    fn nothing_that_stripe_may_have_forgotten_is_sent(
        report in report(),
        decision in decision(),
        restored_at in proptest::option::of(past()),
    ) {
        let step = next_step(&report, Some(&decision), restored_at, NOW);
        if let NextStep::Send { bill_at, .. } = step {
            prop_assert!(report.state != State::Unknown);
            prop_assert!(!report.needs_look_up(restored_at));
            prop_assert!(report.first_sent_at.is_none_or(|at| NOW - at < NO_RESPONSE_MS));
            // In another period it would be billed twice.
            prop_assert!(bill_at.is_none() || report.first_sent_at.is_none());
            prop_assert!(bill_at.is_none() || restored_at.is_none_or(|at| report.first_at >= at));
        }
    }

    #[test]
    fn what_may_have_arrived_is_checked_before_it_is_given_up(
        report in report(),
        decision in decision(),
        restored_at in proptest::option::of(past()),
    ) {
        let step = next_step(&report, Some(&decision), restored_at, NOW);
        if let NextStep::Skip(Skip { transition, .. }) = &step {
            prop_assert!(report.state.after(transition).is_some(), "{transition:?}");
            let is_given_up = matches!(
                transition,
                Transition::MarkTooLate | Transition::MarkCustomerDeleted
            );
            let is_of_before = restored_at.is_some_and(|at| report.first_at < at);
            prop_assert!(!is_given_up || report.first_sent_at.is_none() || is_of_before);
        }
    }

    #[test]
    fn an_unknown_report_is_only_checked(
        report in report(),
        decision in proptest::option::of(decision()),
        restored_at in proptest::option::of(past()),
    ) {
        let report = Report { state: State::Unknown, ..report };
        let step = next_step(&report, decision.as_ref(), restored_at, NOW);
        let expected = match restored_at.filter(|_| report.needs_look_up(restored_at)) {
            Some(at) => NextStep::LookUp(at),
            None => NextStep::CheckDelivery,
        };
        prop_assert_eq!(step, expected);
    }

    #[test]
    fn nothing_waits_without_end(
        report in report(), restored_at in proptest::option::of(past()), is_held: bool,
    ) {
        let until = NOW + HOUR_MS;
        let wait = if is_held {
            SendDecision::Uncharged { until, sync: None }
        } else {
            SendDecision::Wait { until, sync: None }
        };
        let step = next_step(&report, Some(&wait), restored_at, NOW);
        // What was sent waits while Stripe knows its identifier, and is checked after that.
        let is_known = report.first_sent_at.is_some_and(|at| NOW - at < NO_RESPONSE_MS);
        let is_old = report.window_end < NOW - 35 * DAY_MS && !is_known;
        prop_assert!(!(is_old && matches!(step, NextStep::Wait(_) | NextStep::Hold(_))), "{step:?}");
        let is_young = report.window_end >= NOW - 35 * DAY_MS;
        let is_given_up = matches!(
            step,
            NextStep::Skip(Skip { transition: Transition::MarkTooLate, .. })
        );
        prop_assert!(!(is_young && is_given_up), "{step:?}");
    }

    #[test]
    fn only_what_was_never_sent_is_too_old(report in report(), age in 0_i64..70) {
        let stamp = NOW - age * DAY_MS;
        let skipped = skip_if_too_old(&report, stamp, NOW).is_some();
        prop_assert_eq!(skipped, age > 35 && report.first_sent_at.is_none());
    }
}
