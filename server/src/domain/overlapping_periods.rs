//! Usage that the items of several subscriptions may charge, because they charge one meter of a customer at the same time.
//! Stripe bills it by each of them that is neither paused nor in its trial. Each unit is compared with one invoice line:
//! that of the item that charged it first. Another line that charges it too is a difference. Pure.

use super::{
    HOUR_MS, Millis,
    billing_period::BillingPeriod,
    invoice_comparison::{
        Compared, FIRST_READ_MS, InvoiceFinding, Judgement, LONGEST_WAIT_MS, OVERLAP_WAIT_MS,
        PeriodReports,
    },
    report_figure::ReportFigure,
};

/// A billing period of another item of the same customer and meter that shares time with the one that is compared.
#[derive(Clone, Debug)]
pub struct OtherPeriod {
    /// The period.
    pub period: BillingPeriod,
    /// Whether its invoices charge all usage of its time; `None` while that is not compared.
    pub charges_all: Option<bool>,
}

/// Places periods in the order in which their invoices charge usage.
fn place(period: &BillingPeriod) -> (Millis, Millis, &str) {
    (period.period_end, period.period_start, &period.item)
}

/// Takes the usage of a period out that other items charge, and changes the judgement as that says.
pub fn without_shared(
    period: &BillingPeriod,
    own: Judgement,
    reports: PeriodReports,
    others: &[OtherPeriod],
    now: Millis,
) -> (Judgement, PeriodReports) {
    let Some(compared) = own.compared else {
        return (own, reports);
    };
    let is_earlier = |other: &&OtherPeriod| place(&other.period) < place(period);
    let undecided_at = |is_one: &dyn Fn(&&OtherPeriod) -> bool| {
        let undecided = others.iter().filter(|other| other.charges_all.is_none());
        let shared = undecided
            .filter(|other| is_one(other))
            .filter(|other| reports.confirmed.iter().any(|report| is_in(report, other)));
        let ends = shared.map(|other| other.period.period_end);
        ends.min().map(|end| look_at(end, now))
    };
    let charging = |is_one: &dyn Fn(&&OtherPeriod) -> bool| -> Vec<&OtherPeriod> {
        let all = others
            .iter()
            .filter(|other| other.charges_all == Some(true));
        all.filter(|other| is_one(other)).collect()
    };
    match compared.finding {
        InvoiceFinding::Equal => {
            let again_at = [own.again_at, undecided_at(&is_earlier)];
            let judgement = Judgement {
                again_at: again_at.into_iter().flatten().min(),
                ..own
            };
            let rest = without(&reports, &charging(&is_earlier));
            if rest.reported == reports.reported {
                return (judgement, reports);
            }
            let finding = InvoiceFinding::ChargedTwice;
            (found(judgement, compared, finding, &rest), rest)
        }
        InvoiceFinding::Differs => {
            let rest = without(&reports, &charging(&|_| true));
            if compared.invoiced == Some(rest.reported) && rest.reported != reports.reported {
                return (found(own, compared, InvoiceFinding::Equal, &rest), rest);
            }
            let may_wait = now < period.period_end.saturating_add(OVERLAP_WAIT_MS);
            match undecided_at(&|_| true).filter(|_| may_wait) {
                Some(again_at) => {
                    let waits = Judgement {
                        compared: None,
                        again_at: Some(again_at),
                    };
                    (waits, reports)
                }
                None => (own, reports),
            }
        }
        _ => (own, reports),
    }
}

fn found(
    own: Judgement,
    compared: Compared,
    finding: InvoiceFinding,
    rest: &PeriodReports,
) -> Judgement {
    Judgement {
        compared: Some(Compared {
            finding,
            reported: rest.reported,
            ..compared
        }),
        ..own
    }
}

/// When the result of another period is looked at.
fn look_at(period_end: Millis, now: Millis) -> Millis {
    period_end
        .saturating_add(FIRST_READ_MS)
        .min(now.saturating_add(LONGEST_WAIT_MS))
        .max(now.saturating_add(HOUR_MS))
}

fn is_in(report: &ReportFigure, other: &OtherPeriod) -> bool {
    other
        .period
        .interval()
        .contains(report.usage.billed_at_stripe())
}

/// Reports without those in the time of other periods.
fn without(reports: &PeriodReports, others: &[&OtherPeriod]) -> PeriodReports {
    let is_own = |report: &&ReportFigure| others.iter().all(|other| !is_in(report, other));
    let confirmed: Vec<ReportFigure> = reports.confirmed.iter().filter(is_own).cloned().collect();
    let quantities = confirmed.iter().map(|report| report.usage.quantity);
    PeriodReports {
        reported: quantities.fold(0, i64::saturating_add),
        confirmed,
        ..reports.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        DAY_MS, account_id::AccountId, billed_usage::BilledUsage, invoice_draft::InvoiceState,
        report::State,
    };
    use uuid::Uuid;

    const NOW: Millis = 50 * DAY_MS;

    fn period(item: &str, start: Millis, end: Millis) -> BillingPeriod {
        BillingPeriod {
            account_id: AccountId::parse("acct").unwrap(),
            item: item.to_owned(),
            period_start: start * DAY_MS,
            period_end: end * DAY_MS,
            recorded_at: 0,
            subscription: Some(format!("sub_{item}")),
            meter: Some("m".to_owned()),
            price: Some("price".to_owned()),
            bills_from: None,
            invoice: None,
            invoice_state: InvoiceState::Unknown,
            invoice_read_at: None,
        }
    }

    fn other(item: &str, start: Millis, end: Millis, charges_all: Option<bool>) -> OtherPeriod {
        OtherPeriod {
            period: period(item, start, end),
            charges_all,
        }
    }

    /// Reports of some days, with a unit of each day's number.
    fn reports(days: &[i64]) -> PeriodReports {
        let confirmed = days.iter().map(|day| ReportFigure {
            account_id: AccountId::parse("acct").unwrap(),
            id: Uuid::nil(),
            meter: "m".to_owned(),
            state: State::Confirmed,
            customer: Some("cus".to_owned()),
            usage: usage(*day),
        });
        PeriodReports {
            reported: days.iter().sum(),
            confirmed: confirmed.collect(),
            ..PeriodReports::default()
        }
    }

    fn usage(day: i64) -> BilledUsage {
        let at = day * DAY_MS;
        BilledUsage {
            window_start: at,
            first_at: at,
            last_at: at,
            bill_at: None,
            event_timestamp: Some(at),
            quantity: day,
        }
    }

    fn judged(finding: InvoiceFinding, reported: i64, invoiced: i64) -> Judgement {
        Judgement {
            compared: Some(Compared {
                finding,
                reported,
                invoiced: Some(invoiced),
            }),
            again_at: None,
        }
    }

    /// The result for the period from day 10 to day 20 with usage on days 11 and 15, whose invoices charge some units.
    fn result(
        invoiced: i64,
        others: &[OtherPeriod],
        now: Millis,
    ) -> (Option<(InvoiceFinding, i64)>, Option<Millis>, usize) {
        let finding = if invoiced == 26 {
            InvoiceFinding::Equal
        } else {
            InvoiceFinding::Differs
        };
        let own = judged(finding, 26, invoiced);
        let (judgement, rest) =
            without_shared(&period("own", 10, 20), own, reports(&[11, 15]), others, now);
        let found = judgement.compared.map(|one| (one.finding, one.reported));
        (found, judgement.again_at, rest.confirmed.len())
    }

    #[test]
    fn usage_that_an_earlier_invoice_charges_is_charged_twice() {
        use InvoiceFinding::{ChargedTwice, Equal};
        let earlier = |charges_all| other("b", 13, 19, charges_all);
        assert_eq!(result(26, &[], NOW), (Some((Equal, 26)), None, 2));
        assert_eq!(
            result(26, &[earlier(Some(true))], NOW),
            (Some((ChargedTwice, 11)), None, 1)
        );
        assert_eq!(
            result(26, &[earlier(Some(false))], NOW),
            (Some((Equal, 26)), None, 2)
        );
        // It is looked at again once the other one is known.
        let at = NOW + HOUR_MS;
        assert_eq!(
            result(26, &[earlier(None)], NOW),
            (Some((Equal, 26)), Some(at), 2)
        );
        // The later one tells it.
        let later = |charges_all| other("b", 13, 23, charges_all);
        assert_eq!(
            result(26, &[later(Some(true))], NOW),
            (Some((Equal, 26)), None, 2)
        );
        assert_eq!(
            result(26, &[later(None)], NOW),
            (Some((Equal, 26)), None, 2)
        );
        // Of two with the same period, that with the greater id.
        let (a, z) = (
            other("a", 10, 20, Some(true)),
            other("z", 10, 20, Some(true)),
        );
        assert_eq!(result(26, &[a], NOW), (Some((ChargedTwice, 0)), None, 0));
        assert_eq!(result(26, &[z], NOW), (Some((Equal, 26)), None, 2));
        // Time without usage is of no matter.
        assert_eq!(
            result(26, &[other("b", 12, 14, Some(true))], NOW),
            (Some((Equal, 26)), None, 2)
        );
    }

    #[test]
    fn usage_that_only_another_item_charges_is_no_difference() {
        use InvoiceFinding::{Differs, Equal};
        for end in [19, 23] {
            let of = |charges_all| [other("b", 13, end, charges_all)];
            assert_eq!(
                result(11, &of(Some(true)), NOW),
                (Some((Equal, 11)), None, 1)
            );
            assert_eq!(
                result(11, &of(Some(false)), NOW),
                (Some((Differs, 26)), None, 2)
            );
            assert_eq!(
                result(10, &of(Some(true)), NOW),
                (Some((Differs, 26)), None, 2)
            );
            // It waits for the other one, and not for ever.
            assert_eq!(result(11, &of(None), NOW), (None, Some(NOW + HOUR_MS), 2));
            let late = 20 * DAY_MS + OVERLAP_WAIT_MS;
            assert_eq!(result(11, &of(None), late), (Some((Differs, 26)), None, 2));
        }
        let both = [
            other("b", 10, 12, Some(true)),
            other("c", 15, 40, Some(true)),
        ];
        assert_eq!(result(0, &both, NOW), (Some((Equal, 0)), None, 0));
    }
}
