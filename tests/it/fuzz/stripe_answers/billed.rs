//! What must be true of usage after Stripe's answers were broken: once they are whole again, it is billed exactly once.

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use usage_client::{Error, ErrorKind, ReportState, ResolveAction, ResolveReport, UsageReport};

use super::proxy::AnswerProxy;
use crate::support::world::World;

/// The meters, each with the name of its events.
pub(super) const METERS: [(&str, &str); 2] = [("api_calls", "api_calls"), ("tokens", "llm_tokens")];
/// Steps after which everything must be billed once answers are whole again.
const MAX_STEPS: usize = 30;

/// What was counted, by account and meter.
pub(super) type Counted = BTreeMap<(String, &'static str), i64>;

/// An error that says what is wrong with Stripe or the request; never a defect.
pub(super) fn assert_told(error: &Error, proxy: &AnswerProxy) {
    let is_defect = matches!(error.kind(), ErrorKind::Internal);
    assert!(!is_defect, "{error:?} after\n{}", proxy.last());
}

/// Waits until the service asks nothing more for a moment, at most some seconds: it may retry for as long as it likes.
pub(super) async fn until_quiet(proxy: &AnswerProxy) {
    const STEP: Duration = Duration::from_millis(10);
    let (mut before, mut quiet) = (proxy.answers(), 0);
    for _ in 0..300 {
        tokio::time::sleep(STEP).await;
        let answers = proxy.answers();
        quiet = if answers == before { quiet + 1 } else { 0 };
        before = answers;
        if quiet >= 8 {
            return;
        }
    }
}

/// Lets time pass with whole answers, and decides what waits for a decision, until everything is at Stripe.
pub(super) async fn bill_the_rest(world: &World, proxy: &AnswerProxy, accounts: &[String]) {
    for step in 0..MAX_STEPS {
        world
            .move_clocks(world.now() + TimeDelta::minutes(61))
            .await;
        world.start_run().await;
        until_quiet(proxy).await;
        let mut left = 0;
        for account in accounts {
            for report in world.reports(account).await {
                left += usize::from(!report.reported);
                if step > 10 && needs_decision(&report) {
                    let retry = ResolveReport::new(
                        account,
                        &report.id,
                        ResolveAction::Retry,
                        "whole again",
                    );
                    drop(world.client().resolve_report(retry).await);
                }
            }
        }
        // Until the invoices of the billing periods that end meanwhile were read.
        if left == 0 && step > 8 {
            return;
        }
    }
}

fn needs_decision(report: &UsageReport) -> bool {
    matches!(
        report.state,
        ReportState::Rejected | ReportState::CustomerDeleted | ReportState::TooLate
    )
}

/// Asserts that all that was counted is at Stripe exactly once, or has a state that says why it is not.
pub(super) async fn check(world: &World, proxy: &AnswerProxy, counted: &Counted, place: &str) {
    for ((account, meter), all) in counted {
        let reports = world.reports(account).await;
        let whose = format!(
            "{place}: {account} {meter}, last changes:\n{}",
            proxy.last()
        );
        let of_meter = || reports.iter().filter(|report| report.meter == *meter);
        let sum = |is_in: fn(&UsageReport) -> bool| -> i64 {
            of_meter()
                .filter(|report| is_in(report))
                .map(|report| report.quantity)
                .sum()
        };
        assert_eq!(sum(|_| true), *all, "lost: {whose}");
        for report in of_meter().filter(|report| !report.reported) {
            eprintln!(
                "{account} {meter}: {:?} {:?}",
                report.state, report.last_error
            );
            assert!(says_why(report), "{whose}: {report:#?}");
        }
        // Whether Stripe has what it did not confirm is not known.
        let open =
            sum(|report| matches!(report.state, ReportState::Unknown | ReportState::Missing));
        let reported = sum(|report| report.reported);
        let at_stripe = world
            .stripe_total(&format!("cus_{account}"), event_name(meter))
            .await;
        assert!(
            (reported..=reported + open).contains(&at_stripe),
            "{at_stripe} at Stripe, {reported} reported and {open} open: {whose}"
        );
    }
}

fn says_why(report: &UsageReport) -> bool {
    match report.state {
        ReportState::Uncharged | ReportState::TooLate | ReportState::Unknown => true,
        ReportState::Rejected | ReportState::Missing | ReportState::CustomerDeleted => {
            report.last_error.is_some()
        }
        _ => false,
    }
}

fn event_name(meter: &str) -> &'static str {
    let found = METERS.iter().find(|(name, _)| *name == meter);
    found.expect("a meter").1
}
