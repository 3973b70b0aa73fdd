//! Property tests of the decision whether a report may be sent.

use super::*;
use crate::domain::{invoice_draft::InvoiceState, window::Interval};
use proptest::prelude::*;

/// Times in a small range, so that edges meet often.
fn time() -> impl Strategy<Value = Millis> {
    (0_i64..40).prop_map(|steps| steps * 10 * MINUTE_MS)
}

fn invoice_state() -> impl Strategy<Value = InvoiceState> {
    prop_oneof![
        Just(InvoiceState::Unknown),
        Just(InvoiceState::Final),
        proptest::option::of(time()).prop_map(|until| InvoiceState::Draft { until }),
    ]
}

fn period() -> impl Strategy<Value = InvoicePeriod> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let charging = (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        any::<bool>(),
    );
    (
        time(),
        1_i64..12,
        invoice_state(),
        time(),
        (flags, charging),
    )
        .prop_map(
            |(
                start,
                length,
                invoice_state,
                synced_at,
                (flags, (is_trial, is_paused, is_end_requested)),
            )| {
                let (is_later, has_ended, is_deleted) = flags;
                let end = start + length * 10 * MINUTE_MS;
                InvoicePeriod {
                    interval: Interval { start, end },
                    bills_from: is_later.then_some(start + SECOND_MS),
                    is_trial,
                    is_paused,
                    invoice_state,
                    subscription: "sub".to_owned(),
                    ended_at: has_ended.then_some(end),
                    is_end_requested,
                    relinked_from: None,
                    synced_at,
                    customer_deleted_at: is_deleted.then_some(end),
                }
            },
        )
}

fn context() -> impl Strategy<Value = BillingContext> {
    let step = prop_oneof![Just(Step::Draining), Just(Step::Changing)];
    let change =
        (time(), step).prop_map(|(boundary_at, step)| ChangeInProgress { boundary_at, step });
    (
        proptest::collection::vec(period(), 0..5),
        proptest::option::weighted(0.2, change),
    )
        .prop_map(|(mut periods, change)| {
            // The periods of one meter begin at different times.
            periods.sort_by_key(|period| period.interval.start);
            periods.dedup_by_key(|period| period.interval.start);
            BillingContext {
                periods,
                change,
                synced: None,
            }
        })
}

fn usage() -> impl Strategy<Value = BilledUsage> {
    (time(), 0_i64..60, proptest::option::of(time()), -3_i64..4).prop_map(
        |(first_at, minutes, bill_at, quantity)| BilledUsage {
            window_start: first_at,
            first_at,
            last_at: first_at + minutes * MINUTE_MS,
            bill_at,
            event_timestamp: None,
            quantity,
        },
    )
}

fn late_usage() -> impl Strategy<Value = LateUsage> {
    prop_oneof![Just(LateUsage::Hold), Just(LateUsage::CurrentPeriod)]
}

proptest! {
    #[test]
    fn nothing_is_sent_to_a_final_invoice(
        usage in usage(), context in context(), late in late_usage(), now in time(),
    ) {
        let billed_at = match decide(usage, &context, late, now) {
            SendDecision::Send { .. } => usage.billed_at(),
            SendDecision::SendAt(at) => at,
            _ => return Ok(()),
        };
        if let Some(period) = period_at(&context.periods, billed_at) {
            prop_assert_eq!(period.timing(now), Timing::InTime);
        }
    }

    #[test]
    fn an_event_is_never_dated_before_its_period_charges(
        usage in usage(), context in context(), late in late_usage(), now in time(),
    ) {
        let (billed_at, earliest) = match decide(usage, &context, late, now) {
            SendDecision::Send { not_before } => {
                let at = usage.billed_at();
                (at, at.max(not_before.unwrap_or(at)))
            }
            SendDecision::SendAt(at) => (at, at),
            _ => return Ok(()),
        };
        if let Some(period) = period_at(&context.periods, billed_at) {
            prop_assert!(earliest >= period.billed_from());
        }
    }

    #[test]
    fn a_wait_ends_in_the_future(
        usage in usage(), context in context(), late in late_usage(), now in time(),
    ) {
        if let SendDecision::Wait { until, .. } = decide(usage, &context, late, now) {
            prop_assert!(until > now);
        }
    }

    #[test]
    fn a_report_that_is_too_late_stays_too_late(
        usage in usage(), context in context(), now in time(), later in 0_i64..1_000,
    ) {
        let decision = decide(usage, &context, LateUsage::Hold, now);
        if matches!(decision, SendDecision::TooLate | SendDecision::CustomerDeleted) {
            let later = now + later * MINUTE_MS;
            prop_assert_eq!(decide(usage, &context, LateUsage::Hold, later), decision);
        }
    }

    #[test]
    fn usage_waits_while_its_subscription_is_changed(
        usage in usage(), context in context(), late in late_usage(), now in time(),
    ) {
        let is_waiting = matches!(
            decide(usage, &context, late, now),
            SendDecision::Wait { sync: None, .. }
        );
        if context.change.is_some_and(|change| change.step == Step::Changing) {
            prop_assert!(is_waiting);
        }
    }

    #[test]
    fn a_negative_quantity_never_moves_to_the_current_period(
        usage in usage(), context in context(), now in time(),
    ) {
        let usage = BilledUsage { quantity: -1, last_at: usage.first_at, ..usage };
        let decision = decide(usage, &context, LateUsage::CurrentPeriod, now);
        prop_assert_eq!(decision, decide(usage, &context, LateUsage::Hold, now));
    }

    #[test]
    fn the_order_of_the_periods_does_not_matter(
        usage in usage(), context in context(), late in late_usage(), now in time(),
    ) {
        let mut reversed = context.clone();
        reversed.periods.reverse();
        prop_assert_eq!(
            decide(usage, &context, late, now),
            decide(usage, &reversed, late, now)
        );
    }

    #[test]
    fn a_report_is_only_sent_to_a_period_that_charges(
        usage in usage(), context in context(), late in late_usage(), now in time(),
    ) {
        let billed_at = match decide(usage, &context, late, now) {
            SendDecision::Send { .. } => usage.billed_at(),
            SendDecision::SendAt(at) => at,
            _ => return Ok(()),
        };
        let period = period_at(&context.periods, billed_at);
        prop_assert!(period.is_some_and(InvoicePeriod::is_charged));
    }

    #[test]
    fn a_report_without_periods_waits(
        usage in usage(), late in late_usage(), now in time(),
        synced in proptest::option::of(Just("sub".to_owned())),
    ) {
        let context = BillingContext { synced: synced.clone(), ..BillingContext::default() };
        let until = now + UNCHARGED_WAIT_MS;
        let held = SendDecision::Uncharged { until, sync: synced };
        prop_assert_eq!(decide(usage, &context, late, now), held);
    }

    #[test]
    fn the_cause_of_an_end_decides_on_usage_after_it(
        usage in usage(), late in late_usage(), period in period(), now in time(),
        is_end_requested: bool, relinked_from in proptest::option::of(time()),
    ) {
        let end = period.interval.end;
        let ended = InvoicePeriod {
            ended_at: Some(end),
            is_end_requested,
            relinked_from,
            customer_deleted_at: None,
            ..period
        };
        let context = BillingContext { periods: vec![ended.clone()], ..BillingContext::default() };
        let until = now + UNCHARGED_WAIT_MS;
        let held = SendDecision::Uncharged { until, sync: None };
        if usage.billed_at() >= end {
            let is_billed_again = relinked_from.is_some_and(|from| from <= usage.billed_at());
            let expected = if is_end_requested && !is_billed_again { SendDecision::NotBillable } else { held };
            prop_assert_eq!(decide(usage, &context, late, now), expected);
            // What another subscription of the customer charges is charged all the same.
            let other = InvoicePeriod {
                interval: Interval { start: end, end: usage.billed_at() + 1 + HOUR_MS * 100 },
                bills_from: None,
                is_trial: false,
                is_paused: false,
                invoice_state: InvoiceState::Unknown,
                subscription: "other".to_owned(),
                ended_at: None,
                ..ended
            };
            let context = BillingContext {
                periods: vec![context.periods[0].clone(), other],
                ..BillingContext::default()
            };
            let sent = SendDecision::Send { not_before: None };
            prop_assert_eq!(decide(usage, &context, late, now), sent);
        }
    }

    #[test]
    fn usage_of_a_trial_is_not_billable(
        usage in usage(), context in context(), late in late_usage(), now in time(),
    ) {
        let period = period_at(&context.periods, usage.billed_at());
        let is_trial = period.is_some_and(|period| period.is_trial);
        if is_trial && context.change.is_none() {
            prop_assert_eq!(decide(usage, &context, late, now), SendDecision::NotBillable);
        }
    }
}

fn at(first_at: Millis) -> BilledUsage {
    BilledUsage {
        window_start: first_at,
        first_at,
        last_at: first_at,
        bill_at: None,
        event_timestamp: None,
        quantity: 1,
    }
}

#[test]
fn usage_should_be_sent_by_the_end_of_its_draft() {
    let period = |invoice_state| InvoicePeriod {
        interval: Interval {
            start: 0,
            end: 10 * DAY_MS,
        },
        bills_from: None,
        is_trial: false,
        is_paused: false,
        invoice_state,
        subscription: "sub".to_owned(),
        ended_at: None,
        is_end_requested: false,
        relinked_from: None,
        synced_at: 0,
        customer_deleted_at: None,
    };
    let context = |invoice_state| BillingContext {
        periods: vec![period(invoice_state)],
        change: None,
        synced: None,
    };
    let until = 10 * DAY_MS + 3 * HOUR_MS;
    for (state, send_by) in [
        (InvoiceState::Unknown, 10 * DAY_MS + HOUR_MS),
        (InvoiceState::Draft { until: Some(until) }, until),
        (InvoiceState::Draft { until: None }, 10 * DAY_MS),
        (InvoiceState::Final, 10 * DAY_MS),
    ] {
        assert_eq!(context(state).send_by(at(DAY_MS)), send_by, "{state:?}");
    }
    // What is billed in another period is due with that one.
    let moved = BilledUsage {
        bill_at: Some(9 * DAY_MS),
        ..at(-20 * DAY_MS)
    };
    assert_eq!(
        context(InvoiceState::Unknown).send_by(moved),
        10 * DAY_MS + HOUR_MS
    );
    let unknown = at(12 * DAY_MS + 7 * HOUR_MS);
    assert_eq!(
        context(InvoiceState::Unknown).send_by(unknown),
        (12 + 33) * DAY_MS
    );
}

#[test]
fn usage_before_a_change_is_due_at_the_change() {
    let context = BillingContext {
        periods: Vec::new(),
        change: Some(ChangeInProgress {
            boundary_at: 5 * DAY_MS,
            step: Step::Draining,
        }),
        synced: None,
    };
    assert_eq!(context.send_by(at(5 * DAY_MS - 1)), 5 * DAY_MS);
    assert_eq!(context.send_by(at(5 * DAY_MS)), (5 + 33) * DAY_MS);
}
