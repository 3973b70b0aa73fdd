//! The fullest hour in simulated time: by the rules for the order and the rate, all usage of periods that end together is
//! sent while their invoices are drafts.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use proptest::prelude::*;

use super::*;
use crate::domain::{
    DAY_MS, HOUR_MS, Millis,
    billed_usage::BilledUsage,
    billing_period::InvoicePeriod,
    closing::AFTER_PERIOD_END_MS,
    invoice_deadline::{BillingContext, SendDecision, decide},
    invoice_draft::{DRAFT_MARGIN_MS, InvoiceState},
    late_usage::LateUsage,
    send_load::{PeriodEnds, SendLoad},
    window::{Interval, Slots},
};
use crate::workers::sender::in_turn;

/// When the periods end.
const END: Millis = 1_800_000_000_000 - 1_800_000_000_000 % HOUR_MS;
/// The default of `STRIPE_CONCURRENCY`.
const CONCURRENCY: usize = 128;
/// How long a request takes.
const LATENCY: Duration = Duration::from_millis(100);

/// The usage to send: streams with the same number of windows, and how many of the streams are due now.
struct Load {
    due: usize,
    later: usize,
    windows: i64,
    per_sec: u32,
}

/// What a simulation shows.
struct Outcome {
    sent: u64,
    /// When the last report that is due now was answered, and the last of all.
    due_done: Millis,
    all_done: Millis,
    /// Whether a report of a later period was sent while one that was due now could have been.
    is_out_of_order: bool,
}

fn context(end: Millis) -> BillingContext {
    let draft = InvoiceState::Draft {
        until: Some(end + HOUR_MS),
    };
    BillingContext {
        periods: vec![InvoicePeriod {
            interval: Interval {
                start: end - 30 * DAY_MS,
                end,
            },
            bills_from: None,
            is_trial: false,
            is_paused: false,
            invoice_state: draft,
            subscription: "sub".to_owned(),
            ended_at: None,
            is_end_requested: false,
            relinked_from: None,
            synced_at: END,
            customer_deleted_at: None,
        }],
        ..BillingContext::default()
    }
}

fn usage(window: i64, windows: i64) -> BilledUsage {
    let window_start = END - (windows - window) * HOUR_MS;
    BilledUsage {
        window_start,
        first_at: window_start,
        last_at: window_start + HOUR_MS - 1,
        bill_at: None,
        event_timestamp: None,
        quantity: 1,
    }
}

/// Sends the load from five minutes after the period's end on. Stripe has refused as many requests as `refused` says for
/// the time since then.
fn simulate(load: &Load, refused: impl Fn(Duration) -> u64) -> Outcome {
    let (due, later) = (context(END), context(END + DAY_MS));
    let begun = Instant::now();
    let mut rate = SendRate::new(load.per_sec, begun);
    // As in the queue: of each stream without a request the first report, by when it should be sent. The later ones come
    // first by their names.
    let head = |stream: usize, window: i64| {
        let context = if stream < load.later { &later } else { &due };
        (context.send_by(usage(window, load.windows)), stream, window)
    };
    let streams = load.due + load.later;
    let mut heads: BTreeSet<(Millis, usize, i64)> =
        (0..streams).map(|stream| head(stream, 0)).collect();
    let mut in_progress: BinaryHeap<Reverse<(Instant, usize, i64)>> = BinaryHeap::new();
    let mut now = begun;
    let moment = |at: Instant| {
        let passed = Millis::try_from((at - begun).as_millis()).unwrap();
        END + AFTER_PERIOD_END_MS + passed
    };
    let mut outcome = Outcome {
        sent: 0,
        due_done: END,
        all_done: END,
        is_out_of_order: false,
    };
    loop {
        rate.adjust(refused(now - begun), now);
        while in_progress.len() < CONCURRENCY.min(in_turn(rate.per_sec()))
            && let Some((send_by, stream, window)) = heads.pop_first()
        {
            let next_is_due = heads.first().is_some_and(|next| next.0 < send_by);
            outcome.is_out_of_order |= next_is_due;
            let at = rate.take_turn(now);
            let context = if stream < load.later { &later } else { &due };
            let decision = decide(
                usage(window, load.windows),
                context,
                LateUsage::Hold,
                moment(at),
            );
            assert!(
                matches!(decision, SendDecision::Send { .. }) || stream >= load.later,
                "{decision:?}"
            );
            in_progress.push(Reverse((at + LATENCY, stream, window)));
        }
        let Some(Reverse((answered, stream, window))) = in_progress.pop() else {
            return outcome;
        };
        now = now.max(answered);
        outcome.sent += 1;
        outcome.all_done = moment(answered);
        if stream >= load.later {
            outcome.due_done = moment(answered);
        }
        if window + 1 < load.windows {
            heads.insert(head(stream, window + 1));
        }
    }
}

/// Whether the rule says that the load is sent in time.
fn is_said_to_be_in_time(load: &Load) -> bool {
    let ends = PeriodEnds {
        hour: END,
        streams: u64::try_from(load.due).unwrap(),
    };
    let slots = Slots::from_mins(60).unwrap();
    SendLoad::new(ends, slots, load.windows * HOUR_MS, load.per_sec).is_in_time()
}

#[test]
fn a_day_of_50_000_accounts_with_one_anchor_is_sent_within_the_drafts_hour() {
    let load = Load {
        due: 50_000,
        later: 5_000,
        windows: 24,
        per_sec: 900,
    };
    assert!(is_said_to_be_in_time(&load));
    // Stripe refuses requests a few times in between.
    let refused = |passed: Duration| passed.as_secs() / 300;
    let outcome = simulate(&load, refused);
    assert_eq!(outcome.sent, 55_000 * 24);
    assert!(!outcome.is_out_of_order);
    let deadline = END + HOUR_MS - DRAFT_MARGIN_MS;
    assert!(
        outcome.due_done < deadline,
        "{}",
        deadline - outcome.due_done
    );
    // 1.2 million at 900 a second take 22 minutes; and what is due later is sent afterwards.
    assert!(outcome.due_done > END + AFTER_PERIOD_END_MS + 22 * 60_000);
    assert!(outcome.all_done > outcome.due_done);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_said_to_be_in_time_is_sent_in_time(
        due in 1_usize..400,
        later in 0_usize..50,
        windows in 1_i64..=24,
        per_sec in 1_u32..6,
    ) {
        let load = Load { due, later, windows, per_sec };
        let outcome = simulate(&load, |_| 0);
        let deadline = END + HOUR_MS - DRAFT_MARGIN_MS;
        let late = outcome.due_done - deadline;
        if is_said_to_be_in_time(&load) {
            // The last streams send one report at a time, each behind what was begun before: five seconds at most.
            let latency = Millis::try_from(LATENCY.as_millis()).unwrap();
            prop_assert!(late <= windows * (5_000 + latency), "{late} ms late");
        } else {
            prop_assert!(late > 0, "{late} ms late");
        }
        prop_assert!(!outcome.is_out_of_order);
    }
}
