//! The comparison of the usage that Stripe's totals contain with the lines of final invoices, one billing period of a
//! subscription item and price at a time.
//!
//! Which line bills which period is in `invoice_line`. Reading and recording belong to the job `invoice_comparison`.

#[cfg(test)]
mod tests;

use super::{
    DAY_MS, HOUR_MS, MINUTE_MS, Millis,
    account_id::AccountId,
    invoice_cycle::{closing_invoice, may_be_of},
    invoice_line::{Invoice, InvoiceLine, InvoiceStatus},
    names::names,
    report::State,
    report_figure::ReportFigure,
    window::Interval,
};

/// How much earlier than a period's end its invoice may have been created, because clocks differ.
pub const CLOCK_DIFFERENCE_MS: Millis = 5 * MINUTE_MS;
/// How long after a period's end its invoice is first read. It usually is a draft for an hour.
pub const FIRST_READ_MS: Millis = HOUR_MS.saturating_add(CLOCK_DIFFERENCE_MS);
/// How long after its last invoice a period waits for a draft to become final, and for reports to be verified; and how long
/// after the end of a billing period for its invoice. Stripe makes that within hours, and keeps drafts for at most three
/// days.
pub const LONGEST_DRAFT_MS: Millis = 4 * DAY_MS;
/// How long a period waits for an invoice if it is not known when its subscription's next billing period ends.
const UNKNOWN_CYCLE_MS: Millis = 40 * DAY_MS;
/// A period that ended longer ago is compared once a week, because its invoice may still become void.
const RECENT_MS: Millis = 40 * DAY_MS;
/// A period that ended longer ago is not compared again. What differs then stays told until it is acknowledged.
pub const OLDEST_MS: Millis = 400 * DAY_MS;
/// The longest time between two comparisons.
pub const LONGEST_WAIT_MS: Millis = 7 * DAY_MS;

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InvoiceFinding {
    /// The invoices charge what Stripe's totals contain.
    Equal,
    /// They charge more or less.
    Differs,
    /// The quantity of a line is absent or no whole number.
    Unreadable,
    /// They charge more or less, but Stripe's totals were not seen to contain everything that it accepted.
    Unverified,
    /// They would, but one of them is uncollectible.
    Uncollectible,
    /// They would, but one of them is void.
    Void,
    /// After days, an invoice is still a draft.
    Overdue,
    /// The same, because its automatic finalization is off: somebody has paused the collection, or it is unpaid.
    KeptDraft,
    /// They charge all usage of the item, divided otherwise between prices: one was replaced before the sync found it.
    PriceSplit,
    /// They also charge usage that an item of another period charges.
    ChargedTwice,
    /// Stripe's totals contain the usage, and it is in no billing period that is compared.
    NoPeriod,
}

names!(InvoiceFinding {
    Equal = "equal",
    Differs = "differs",
    Unreadable = "unreadable",
    Unverified = "unverified",
    Uncollectible = "uncollectible",
    Void = "void",
    Overdue = "overdue",
    KeptDraft = "kept_draft",
    PriceSplit = "price_split",
    ChargedTwice = "charged_twice",
    NoPeriod = "no_period",
});

/// The two figures of a billing period, compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// What their difference means.
    pub finding: InvoiceFinding,
    /// The units that Stripe's totals contain.
    pub reported: i64,
    /// The units on final invoices that are neither void nor uncollectible; `None` if a quantity cannot be read, or no
    /// invoice was compared.
    pub invoiced: Option<i64>,
}

/// The reports of a billing period, as far as its invoices are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeriodReports {
    /// The units that Stripe's totals contain.
    pub reported: i64,
    /// The reports of these.
    pub confirmed: Vec<ReportFigure>,
    /// Whether Stripe may have others, which its totals will show.
    pub is_unverified: bool,
    /// Whether Stripe's totals lack others that it accepted, and may show them later.
    pub has_missing: bool,
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The billing period.
    pub period: Interval,
    /// Its reports.
    pub reports: &'a PeriodReports,
    /// The invoices of the subscription since its start.
    pub invoices: &'a [Invoice],
    /// Those lines that bill its usage, with their invoices.
    pub lines: &'a [(&'a Invoice, &'a InvoiceLine)],
    /// When the subscription ended.
    pub ended_at: Option<Millis>,
    /// When its next billing period ends, at or after the end of this one, if that is known.
    pub cycle_end: Option<Millis>,
}

/// An admin's statement that a difference is known and was dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// When.
    pub at: Millis,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// The last comparison of a billing period of a subscription item and price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeriodComparison {
    /// The account.
    pub account_id: AccountId,
    /// `si_...`; empty for usage in no billing period.
    pub item: String,
    /// `price_...`
    pub price: Option<String>,
    /// The meter that the item charges for.
    pub meter: String,
    /// The Stripe customer.
    pub customer: String,
    /// The billing period.
    pub period: Interval,
    /// What was found.
    pub compared: Compared,
    /// When the finding or a figure last changed.
    pub changed_at: Millis,
    /// The invoices with a line for it, and their statuses when they were last read.
    pub invoices: Vec<(String, InvoiceStatus)>,
    /// Who has acknowledged it as it is.
    pub acknowledged: Option<Acknowledgement>,
}

impl PeriodComparison {
    /// Whether invoices do not charge what Stripe's totals contain.
    pub fn is_difference(&self) -> bool {
        self.compared.finding != InvoiceFinding::Equal
    }
}

/// What follows from a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The result; `None` while an invoice may still change, or a report is not verified.
    pub compared: Option<Compared>,
    /// When it is compared again; `None` if nothing can change any more.
    pub again_at: Option<Millis>,
}

impl PeriodReports {
    /// The reports of a stream whose usage Stripe bills in a period.
    pub fn of(figures: Vec<ReportFigure>, time: Interval) -> Self {
        let mut reports = Self::default();
        for figure in figures {
            if !time.contains(figure.usage.billed_at_stripe()) {
                continue;
            }
            match figure.state {
                State::Confirmed | State::Invoiced => {
                    reports.reported = reports.reported.saturating_add(figure.usage.quantity);
                    reports.confirmed.push(figure);
                }
                State::Accepted | State::Sending | State::Unknown => reports.is_unverified = true,
                State::Missing => reports.has_missing = true,
                // Of the period in which this service began to bill, the invoice charges both.
                State::NotBillable if figure.is_billed_elsewhere() => {
                    reports.reported = reports.reported.saturating_add(figure.usage.quantity);
                }
                _ => {}
            }
        }
        reports
    }
}

/// Compares a period, if the invoices that can charge its usage are final.
pub fn judge(candidate: &Candidate<'_>, now: Millis) -> Judgement {
    let Candidate {
        period,
        reports,
        invoices,
        lines,
        ended_at,
        cycle_end,
    } = *candidate;
    let last = closing_invoice(invoices, period.end);
    let drafts: Vec<&Invoice> = invoices
        .iter()
        .filter(|invoice| {
            !invoice.status.is_final()
                && last.is_none_or(|last| invoice.created <= last.created)
                && (may_be_of(invoice, period) || has_line(invoice, lines))
        })
        .collect();
    let deadline = match (last, ended_at, cycle_end) {
        (Some(last), _, _) => last.created.saturating_add(LONGEST_DRAFT_MS),
        (None, Some(ended_at), _) => ended_at.max(period.end).saturating_add(LONGEST_DRAFT_MS),
        (None, None, Some(cycle_end)) => cycle_end.saturating_add(LONGEST_DRAFT_MS),
        (None, None, None) => period.end.saturating_add(UNKNOWN_CYCLE_MS),
    };
    let is_late = now >= deadline;
    let has_all_invoices = last.is_some() || is_late;
    let both = compare(reports.reported, lines);
    let is_whole = both.finding == InvoiceFinding::Equal && !lines.is_empty();
    let is_soon = has_all_invoices || now < period.end.saturating_add(DAY_MS);
    let compared = if !drafts.is_empty() {
        is_late.then_some(Compared {
            finding: finding_of_drafts(&drafts),
            ..both
        })
    } else if reports.is_unverified && !is_late {
        None
    } else {
        // Without an invoice after the period, only what is complete already is known.
        (has_all_invoices || is_whole).then_some(Compared {
            // What is not verified may be the difference.
            finding: match both.finding {
                InvoiceFinding::Differs if reports.is_unverified => InvoiceFinding::Unverified,
                found => found,
            },
            ..both
        })
    };
    // An invoice that was expected may be late.
    let may_follow =
        last.is_none() && ended_at.is_none() && now < period.end.saturating_add(UNKNOWN_CYCLE_MS);
    let again_at = match compared {
        None => Some(wait_until(drafts.first().copied(), is_soon, deadline, now)),
        Some(compared) => {
            let may_change = lines.iter().any(|(invoice, _)| invoice.status.may_change())
                || reports.is_unverified
                || reports.has_missing;
            let is_done =
                compared.finding == InvoiceFinding::Equal && has_all_invoices && !may_change;
            match (is_done, is_late) {
                (true, true) if !may_follow => None,
                // Usage may still arrive that is sent for a draft which somebody finalized.
                (true, false) => Some(deadline.min(now.saturating_add(LONGEST_WAIT_MS))),
                _ => repeat_at(period.end, now),
            }
        }
    };
    Judgement { compared, again_at }
}

/// Whether some lines are on an invoice.
fn has_line(invoice: &Invoice, lines: &[(&Invoice, &InvoiceLine)]) -> bool {
    lines.iter().any(|(of, _)| std::ptr::eq(*of, invoice))
}

/// What drafts mean that should be final.
fn finding_of_drafts(drafts: &[&Invoice]) -> InvoiceFinding {
    let is_kept =
        |draft: &&Invoice| draft.status == InvoiceStatus::Draft && draft.draft_until.is_none();
    if drafts.iter().all(is_kept) {
        InvoiceFinding::KeptDraft
    } else {
        InvoiceFinding::Overdue
    }
}

/// Compares the units that Stripe's totals contain with those on final invoices.
pub fn compare(reported: i64, lines: &[(&Invoice, &InvoiceLine)]) -> Compared {
    let total = |counts: fn(InvoiceStatus) -> bool| {
        lines
            .iter()
            .filter(|(invoice, _)| counts(invoice.status))
            .try_fold(0_i64, |sum, (_, line)| sum.checked_add(line.quantity?))
    };
    let charged = total(InvoiceStatus::is_charged);
    let final_ones = total(InvoiceStatus::is_final);
    let not_void = total(|status| status.is_final() && status != InvoiceStatus::Void);
    let finding = if charged.is_none() || final_ones.is_none() {
        InvoiceFinding::Unreadable
    } else if charged == Some(reported) {
        InvoiceFinding::Equal
    } else if not_void == Some(reported) {
        InvoiceFinding::Uncollectible
    } else if final_ones == Some(reported) {
        InvoiceFinding::Void
    } else {
        InvoiceFinding::Differs
    };
    Compared {
        finding,
        reported,
        invoiced: charged,
    }
}

/// When a period that cannot be compared yet is looked at again.
fn wait_until(draft: Option<&Invoice>, is_soon: bool, deadline: Millis, now: Millis) -> Millis {
    let known = draft.and_then(|draft| draft.draft_until);
    let soon = now.saturating_add(if is_soon { HOUR_MS } else { DAY_MS });
    known
        .map(|until| until.saturating_add(CLOCK_DIFFERENCE_MS))
        .filter(|until| *until > now)
        .unwrap_or(soon)
        .min(deadline)
        .min(now.saturating_add(LONGEST_WAIT_MS))
        .max(now.saturating_add(MINUTE_MS))
}

/// When a compared period is compared again.
fn repeat_at(period_end: Millis, now: Millis) -> Option<Millis> {
    let age = now.saturating_sub(period_end);
    if age < RECENT_MS {
        Some(now.saturating_add(DAY_MS))
    } else {
        (age < OLDEST_MS).then(|| now.saturating_add(LONGEST_WAIT_MS))
    }
}
