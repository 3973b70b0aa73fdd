//! Usage that the items of several subscriptions may charge, because they charge one meter of a customer at the same time.
//! Stripe bills it by each of them that is neither paused nor in its trial. Each unit is compared with one invoice line:
//! that of the item that charged it first. Another line that charges it too is a difference. Pure.

use std::collections::HashSet;

use uuid::Uuid;

use super::{
    DAY_MS, HOUR_MS, Millis,
    billing_period::BillingPeriod,
    invoice_comparison::{
        Compared, FIRST_READ_MS, InvoiceFinding, Judgement, LONGEST_DRAFT_MS, LONGEST_WAIT_MS,
        PeriodReports, compare,
    },
    invoice_line::{Invoice, InvoiceLine},
    report::State,
    report_figure::ReportFigure,
};

/// How long a difference waits until it is known whether another item charges the usage.
const MAX_WAIT_MS: Millis = 40 * DAY_MS;

/// A billing period of another item of the same customer and meter that shares time with the one that is compared.
#[derive(Clone, Debug)]
pub struct OtherPeriod {
    /// The period.
    pub period: BillingPeriod,
    /// The reports that its invoices charge, as far as that is certain; `None` while it is not compared.
    pub charged: Option<HashSet<Uuid>>,
}

impl OtherPeriod {
    /// Whether its invoices are known to charge a report.
    fn charges(&self, report: &ReportFigure) -> bool {
        let charged = self.charged.as_ref();
        charged.is_some_and(|charged| charged.contains(&report.id))
    }
}

/// The reports of a period that its invoices charge: all of them, or those that were found on them before others came.
pub fn charged_reports(reports: &PeriodReports, invoiced: Option<i64>) -> HashSet<Uuid> {
    let is_invoiced = |report: &&ReportFigure| report.state == State::Invoiced;
    let quantities = |all: &[&ReportFigure]| {
        let quantities = all.iter().map(|report| report.usage.quantity);
        quantities.fold(0, i64::saturating_add)
    };
    let all: Vec<&ReportFigure> = reports.confirmed.iter().collect();
    let found: Vec<&ReportFigure> = reports.confirmed.iter().filter(is_invoiced).collect();
    let charged = [all, found];
    let charged = charged
        .iter()
        .find(|some| Some(quantities(some)) == invoiced);
    let ids = charged.into_iter().flatten().map(|report| report.id);
    ids.collect()
}

/// Places periods in the order in which their invoices charge usage.
fn place(period: &BillingPeriod) -> (Millis, Millis, &str) {
    (period.period_end, period.period_start, &period.item)
}

/// Takes the usage of a period out that other items charge, and changes the judgement as that says. `lines` are those of
/// the period.
pub fn without_shared(
    (period, lines): (&BillingPeriod, &[(&Invoice, &InvoiceLine)]),
    own: Judgement,
    reports: PeriodReports,
    others: &[OtherPeriod],
    now: Millis,
) -> (Judgement, PeriodReports) {
    let Some(compared) = own.compared else {
        return (own, reports);
    };
    if compared.finding == InvoiceFinding::Equal {
        judge_equal(period, (own, compared), reports, others, now)
    } else {
        judge_different((period, lines), (own, compared), reports, others, now)
    }
}

/// Whether the invoices of another period charge usage before those of a period.
fn is_earlier(other: &OtherPeriod, period: &BillingPeriod) -> bool {
    place(&other.period) < place(period)
}

/// The judgement of a period whose invoices charge all of its usage: earlier ones may charge some of it too.
fn judge_equal(
    period: &BillingPeriod,
    (own, compared): (Judgement, Compared),
    reports: PeriodReports,
    others: &[OtherPeriod],
    now: Millis,
) -> (Judgement, PeriodReports) {
    let all = others.iter();
    let earlier: Vec<&OtherPeriod> = all.filter(|other| is_earlier(other, period)).collect();
    let undecided = Undecided::of(&reports, &earlier, now);
    let judgement = Judgement {
        again_at: [own.again_at, undecided.look_at]
            .into_iter()
            .flatten()
            .min(),
        ..own
    };
    let rest = without_charged(&reports, &earlier);
    if rest.confirmed.len() == reports.confirmed.len() {
        return (judgement, reports);
    }
    let twice = Compared {
        finding: InvoiceFinding::ChargedTwice,
        reported: rest.reported,
        ..compared
    };
    (with(judgement, twice), rest)
}

/// The judgement of a period whose invoices charge more or less than its usage: other items may charge the rest.
fn judge_different(
    (period, lines): (&BillingPeriod, &[(&Invoice, &InvoiceLine)]),
    (own, compared): (Judgement, Compared),
    reports: PeriodReports,
    others: &[OtherPeriod],
    now: Millis,
) -> (Judgement, PeriodReports) {
    let all: Vec<&OtherPeriod> = others.iter().collect();
    // It charges what was found on its invoices before other usage came late. If later invoices charge that too, those are
    // told.
    let own_ones = charged_reports(&reports, compared.invoiced);
    let rest = only(&reports, |report| {
        let is_own = own_ones.contains(&report.id);
        let charging = others.iter().filter(|other| other.charges(report));
        charging
            .filter(|other| !is_own || is_earlier(other, period))
            .count()
            == 0
    });
    let are_all_charged = rest
        .confirmed
        .iter()
        .all(|report| own_ones.contains(&report.id));
    if compared.finding == InvoiceFinding::Differs && !own_ones.is_empty() && are_all_charged {
        let found = only(&reports, |report| own_ones.contains(&report.id));
        let equal = Compared {
            finding: InvoiceFinding::Equal,
            reported: found.reported,
            ..compared
        };
        return (with(own, equal), found);
    }
    let finding = match compared.finding {
        // Whatever a person decides on these says what is charged.
        found @ (InvoiceFinding::Overdue | InvoiceFinding::KeptDraft) => found,
        _ => match compare(rest.reported, lines).finding {
            InvoiceFinding::Differs if reports.is_unverified => InvoiceFinding::Unverified,
            found => found,
        },
    };
    let undecided = Undecided::of(&rest, &all, now);
    let may_explain = compared.invoiced.is_some_and(|invoiced| {
        let lacks = rest.reported.saturating_sub(invoiced);
        0 < lacks && lacks <= undecided.units
    });
    let may_wait = now < period.period_end.saturating_add(MAX_WAIT_MS) && may_explain;
    if finding == InvoiceFinding::Differs
        && let Some(again_at) = undecided.look_at.filter(|_| may_wait)
    {
        let waits = Judgement {
            compared: None,
            again_at: Some(again_at),
        };
        return (waits, reports);
    }
    let without = Compared {
        finding,
        reported: rest.reported,
        ..compared
    };
    (with(own, without), rest)
}

fn with(own: Judgement, compared: Compared) -> Judgement {
    Judgement {
        compared: Some(compared),
        ..own
    }
}

/// Usage of which it is not known yet whether other items charge it.
struct Undecided {
    units: i64,
    /// When their results are looked at; `None` if there is nothing to wait for.
    look_at: Option<Millis>,
}

impl Undecided {
    fn of(reports: &PeriodReports, others: &[&OtherPeriod], now: Millis) -> Self {
        let is_awaited = |other: &&&OtherPeriod| {
            let latest = other.period.period_end.saturating_add(LONGEST_DRAFT_MS);
            other.charged.is_none() && now < latest.saturating_add(DAY_MS)
        };
        let awaited: Vec<&&OtherPeriod> = others.iter().filter(is_awaited).collect();
        let in_one = |report: &&ReportFigure| awaited.iter().any(|other| is_in(report, other));
        let shared: Vec<&ReportFigure> = reports.confirmed.iter().filter(in_one).collect();
        let quantities = shared.iter().map(|report| report.usage.quantity);
        let ends = awaited
            .iter()
            .filter(|other| shared.iter().any(|report| is_in(report, other)))
            .map(|other| other.period.period_end);
        Self {
            units: quantities.fold(0, i64::saturating_add),
            look_at: ends.min().map(|end| {
                end.saturating_add(FIRST_READ_MS)
                    .min(now.saturating_add(LONGEST_WAIT_MS))
                    .max(now.saturating_add(HOUR_MS))
            }),
        }
    }
}

fn is_in(report: &ReportFigure, other: &OtherPeriod) -> bool {
    other
        .period
        .interval()
        .contains(report.usage.billed_at_stripe())
}

/// Reports without those that other items charge.
fn without_charged(reports: &PeriodReports, others: &[&OtherPeriod]) -> PeriodReports {
    only(reports, |report| {
        others.iter().all(|other| !other.charges(report))
    })
}

/// The reports that fulfil a condition.
fn only(reports: &PeriodReports, is_one: impl Fn(&ReportFigure) -> bool) -> PeriodReports {
    let some = reports.confirmed.iter().filter(|report| is_one(report));
    let confirmed: Vec<ReportFigure> = some.cloned().collect();
    let quantities = confirmed.iter().map(|report| report.usage.quantity);
    PeriodReports {
        reported: quantities.fold(0, i64::saturating_add),
        confirmed,
        ..reports.clone()
    }
}

#[cfg(test)]
mod tests;
