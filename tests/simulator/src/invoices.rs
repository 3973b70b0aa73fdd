//! What must be on invoices: each line charges the usage of its period, but for what a person was told of.

use std::{collections::BTreeSet, ops::Range};

use usage_client::{ReportState, UsageReport};

use crate::{
    admins::CHANGE_TAKES,
    checks::{Ends, TOLD, show, window},
    log,
    oracle::{Account, Bounds, Oracle, Unit},
    terms::Charge,
    time::{self, MINUTE, SECOND},
    world::{METERS, Outcome},
};

/// A period's invoice is final, and compared, so long after its end.
const FINAL_AFTER: i64 = 70 * MINUTE;

/// Usage of a period that its own invoice may lack.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// A person was told of it, or an admin moved it to another period.
    elsewhere: i64,
    /// A person was told of it, and it is at Stripe all the same. Or it came to Stripe when a change there had left it out,
    /// which the service could not know.
    unsure: Bounds,
    /// An admin moved it to this period.
    moved_here: i64,
}

/// Checks all lines of final invoices.
pub(crate) fn check(ends: &Ends, oracle: &Oracle) -> Outcome<()> {
    for (account, known) in oracle.accounts.iter().enumerate() {
        // It is not known what became of its subscription.
        if known.is_blurred {
            continue;
        }
        for meter in 0..known.meters {
            let periods = periods(oracle, (account, meter), ends.now_ms - FINAL_AFTER);
            for (start, end) in periods {
                check_line(ends, oracle, (account, meter), &(start..end))?;
            }
        }
    }
    Ok(())
}

fn check_line(
    ends: &Ends,
    oracle: &Oracle,
    whose: (usize, usize),
    time: &Range<i64>,
) -> Outcome<()> {
    let known = &oracle.accounts[whose.0];
    let reports: Vec<&UsageReport> = ends.reports[whose.0]
        .iter()
        .filter(|report| report.meter == METERS[whose.1].0)
        .collect();
    let charged = charged(ends, known, whose.1, time);
    let held = held(ends, oracle, whose, &reports, time);
    let expected = expected(oracle, whose, &reports, time);
    // A line of less than nothing charges nothing.
    let below: i64 = if charged == 0 {
        let own = reports.iter().filter(|report| report.quantity < 0);
        own.map(|report| report.quantity).sum()
    } else {
        0
    };
    let sum = charged + held.elsewhere - held.moved_here;
    let (least, most) = (sum + held.unsure.least + below, sum + held.unsure.most);
    if least <= expected.most && expected.least <= most {
        return Ok(());
    }
    for report in reports {
        log::note(&show(report));
    }
    Err(format!(
        "the invoice for {} from {} charges {charged}, expected {expected:?} but for {held:?}, of {known}",
        METERS[whose.1].0,
        time::text(time.start),
    ))
}

/// What the final invoices charge for a period. Where the price of an item was replaced in it, a line begins at that time too.
fn charged(ends: &Ends, known: &Account, meter: usize, time: &Range<i64>) -> i64 {
    let takes = if known.splits.contains(&time.start) {
        CHANGE_TAKES
    } else {
        0
    };
    let last = known.terms.last_swap(meter, time);
    let last = last.map_or(time.start + takes, |swap| swap.max(time.start + takes));
    let begins = time.start.div_euclid(SECOND)..=last.div_euclid(SECOND);
    let customer = known.customer();
    let invoices = ends.invoices.iter();
    let finals = invoices.filter(|one| one.customer == customer && one.finalized_at.is_some());
    finals
        .flat_map(|invoice| &invoice.lines)
        .filter(|line| line.event_name.as_deref() == Some(METERS[meter].1))
        .filter(|line| begins.contains(&line.period_start))
        .map(|line| line.quantity)
        .sum()
}

/// What callers used in a period. Usage of a window with a boundary inside may belong to another one.
fn expected(
    oracle: &Oracle,
    whose: (usize, usize),
    reports: &[&UsageReport],
    time: &Range<i64>,
) -> Bounds {
    let known = &oracle.accounts[whose.0];
    let windows = reports.iter().map(|report| window(report));
    let straddled: Vec<Range<i64>> = windows
        .filter(|window| known.is_straddled(whose.1, window))
        .collect();
    let is_own = |unit: &Unit| (unit.account, unit.meter) == whose;
    oracle.sum_of_some(
        |unit| is_own(unit) && time.contains(&unit.at) && known.is_charged(unit.meter, unit.at),
        |unit| is_own(unit) && straddled.iter().any(|window| window.contains(&unit.at)),
    )
}

fn held(
    ends: &Ends,
    oracle: &Oracle,
    (account, meter): (usize, usize),
    reports: &[&UsageReport],
    time: &Range<i64>,
) -> Held {
    let known = &oracle.accounts[account];
    let mut held = Held::default();
    for report in reports {
        let is_own = time.contains(&report.window.start.timestamp_millis());
        let is_told = TOLD.contains(&report.state) || report.state == ReportState::WrittenOff;
        let billed = report
            .bill_at
            .map(|at| time.contains(&at.timestamp_millis()));
        let event = ends.events.get(&report.identifier);
        let event = event.filter(|event| !event.cancelled);
        // Stripe may have it under an identifier that a restored database does not know.
        let is_before = oracle.is_before_restore(window(report).start);
        let may_be_lost = event.is_some_and(|event| known.terms.may_be_lost(meter, event));
        match (is_told, billed) {
            (true, _) if is_own && (event.is_some() || is_before) => {
                held.unsure.may_have(report.quantity);
            }
            (false, None | Some(true)) if is_own && may_be_lost => {
                held.unsure.may_have(report.quantity);
            }
            (false, Some(true)) if !is_own => {
                held.moved_here += report.quantity;
                if may_be_lost {
                    held.unsure.may_have(report.quantity);
                }
            }
            (true, _) | (false, Some(false)) if is_own => held.elsewhere += report.quantity,
            _ => {}
        }
    }
    held
}

/// The billing periods with usage of an account and meter that are charged and ended before a time.
fn periods(
    oracle: &Oracle,
    (account, meter): (usize, usize),
    ended_before: i64,
) -> BTreeSet<(i64, i64)> {
    let units = oracle.units.iter();
    units
        .filter(|unit| (unit.account, unit.meter) == (account, meter))
        .filter(|unit| {
            let terms = &oracle.accounts[account].terms;
            terms.charge_at(meter, unit.at) == Charge::Charged
        })
        .map(|unit| oracle.accounts[account].period_at(meter, unit.at))
        .filter(|(_, end)| *end < ended_before)
        .collect()
}
