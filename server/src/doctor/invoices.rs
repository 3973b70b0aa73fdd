//! Checks whether invoices charge what was reported.

use std::collections::BTreeMap;

use super::finding::{Finding, Severity, cause_of};
use crate::{
    commands::reconcile::{describe_difference, describe_waiting},
    domain::{
        DAY_MS, Millis,
        difference_id::DifferenceId,
        invoice_comparison::{InvoiceFinding, PeriodComparison},
        period::rfc3339,
        waiting_comparison::WaitingComparison,
    },
    store::{
        Store,
        invoice_comparison::{Differences, RowCount},
    },
};

const CHECK: &str = "invoices";
const WAITING: &str = "comparisons";
/// Differences in one line.
const MAX_SHOWN: usize = 3;
/// From then on a comparison that waits is bad.
const WAITS_LONG_MS: Millis = DAY_MS;

/// Findings with the same advice.
struct Group {
    check: &'static str,
    severity: Severity,
    findings: &'static [InvoiceFinding],
    fact: &'static str,
    advice: &'static str,
}

const GROUPS: [Group; 6] = [
    Group {
        check: CHECK,
        severity: Severity::Bad,
        findings: &[
            InvoiceFinding::Differs,
            InvoiceFinding::Unreadable,
            InvoiceFinding::Unverified,
            InvoiceFinding::Overdue,
        ],
        fact: "billing periods do not charge what was reported",
        advice: "compare the invoice with the customer's usage (`reconcile`), and charge or credit the rest by an invoice item in Stripe's dashboard; what is unverified is first to be verified",
    },
    // A person has paused the collection, or does not charge who does not pay.
    Group {
        check: "kept drafts",
        severity: Severity::Warn,
        findings: &[InvoiceFinding::KeptDraft],
        fact: "billing periods are not charged, because their invoices are kept as drafts: their automatic finalization is off, as while collection is paused (pause_collection with keep_as_draft) or a subscription is unpaid",
        advice: "resume the collection and finalize the drafts in Stripe's dashboard, unless they are not to be charged",
    },
    // A person has decided that these are not paid.
    Group {
        check: CHECK,
        severity: Severity::Warn,
        findings: &[InvoiceFinding::Void, InvoiceFinding::Uncollectible],
        fact: "billing periods do not charge what was reported, because their invoices are void or uncollectible",
        advice: "charge it by another invoice, unless it is not to be paid",
    },
    Group {
        check: "price splits",
        severity: Severity::Warn,
        findings: &[InvoiceFinding::PriceSplit],
        fact: "billing periods charge all usage, but some of it at another price: a price was replaced before the sync found it",
        advice: "nothing was lost, so charge nothing again; a tier may differ: compare the amounts of both prices, and credit a difference if you want",
    },
    Group {
        check: "charged twice",
        severity: Severity::Bad,
        findings: &[InvoiceFinding::ChargedTwice],
        fact: "billing periods charge usage that another item of the customer charges too",
        advice: "credit what is charged above the figure that is reported here, and remove one of the items of the meter (line `subscriptions`)",
    },
    Group {
        check: "unassigned usage",
        severity: Severity::Bad,
        findings: &[InvoiceFinding::NoPeriod],
        fact: "times without a billing period have usage in Stripe's totals that is compared with no invoice",
        advice: "look in Stripe's dashboard for an invoice that charges it; if there is none, charge it by an invoice item",
    },
];

pub(super) async fn check(store: &Store, now: Millis, findings: &mut Vec<Finding>) {
    let limit = u64::try_from(MAX_SHOWN).unwrap_or(u64::MAX);
    match store.open_differences(limit).await {
        Ok(differences) => findings.extend(check_differences(&differences)),
        Err(error) => findings.push(Finding::unchecked(CHECK, &cause_of(&error))),
    }
    findings.push(match store.waiting_comparisons(now, MAX_SHOWN).await {
        Ok((count, first)) => check_waiting(count, &first, now),
        Err(error) => Finding::unchecked(WAITING, &cause_of(&error)),
    });
}

fn check_differences(differences: &BTreeMap<InvoiceFinding, Differences>) -> Vec<Finding> {
    let found: Vec<Finding> = GROUPS
        .iter()
        .filter_map(|group| check_group(group, differences))
        .collect();
    if found.iter().any(|finding| finding.check == CHECK) {
        return found;
    }
    let ok = Finding::ok(CHECK, "no difference that is not acknowledged");
    [ok].into_iter().chain(found).collect()
}

fn check_group(
    group: &Group,
    differences: &BTreeMap<InvoiceFinding, Differences>,
) -> Option<Finding> {
    let own = group.findings.iter().filter_map(|one| differences.get(one));
    let (mut count, mut units, mut shown) = (RowCount::default(), 0_i64, Vec::new());
    for one in own {
        count.number = count.number.saturating_add(one.count.number);
        count.is_more |= one.count.is_more;
        units = units.saturating_add(one.units);
        shown.extend(one.first.iter().map(describe));
    }
    shown.truncate(MAX_SHOWN);
    if count.number == 0 {
        return None;
    }
    let fact = format!(
        "{count} {}, {units} units: {}{}",
        group.fact,
        shown.join("; "),
        and_more(count, shown.len())
    );
    Some(Finding {
        check: group.check,
        severity: group.severity,
        fact,
        advice: Some(format!(
            "{}; then `usagectl acknowledge` it by the name in brackets",
            group.advice
        )),
    })
}

fn check_waiting(count: RowCount, first: &[WaitingComparison], now: Millis) -> Finding {
    let Some(oldest) = first.first() else {
        return Finding::ok(
            WAITING,
            "every comparison with invoices that is due was made",
        );
    };
    let shown: Vec<String> = first
        .iter()
        .map(|one| {
            format!(
                "{}, {} until {}: {}",
                one.account_id,
                one.meter,
                rfc3339(one.period.end),
                describe_waiting(one)
            )
        })
        .collect();
    let fact = format!(
        "{count} billing periods are due and not compared with their invoices: {}{}",
        shown.join("; "),
        and_more(count, shown.len())
    );
    let advice = "check that a server runs, and that its key may read invoices; correct the object that is named at Stripe, or compare by hand";
    if now.saturating_sub(oldest.since) >= WAITS_LONG_MS {
        Finding::bad(WAITING, fact, advice)
    } else {
        Finding::warn(WAITING, fact, advice)
    }
}

fn and_more(count: RowCount, shown: usize) -> String {
    let rest = RowCount {
        number: count.number.saturating_sub(shown),
        ..count
    };
    if rest.number == 0 {
        return String::new();
    }
    format!("; and {rest} more")
}

fn describe(one: &PeriodComparison) -> String {
    format!(
        "{}, {} since {}: {} [{}]",
        one.account_id,
        one.meter,
        rfc3339(one.period.start),
        describe_difference(one),
        DifferenceId::of(one)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::finding::Severity,
        domain::{
            account_id::AccountId, invoice_comparison::Compared, invoice_line::InvoiceStatus,
            window::Interval,
        },
    };

    fn difference(finding: InvoiceFinding) -> PeriodComparison {
        PeriodComparison {
            account_id: AccountId::parse("acct").unwrap(),
            item: "si".to_owned(),
            price: None,
            meter: "calls".to_owned(),
            customer: "cus".to_owned(),
            period: Interval { start: 0, end: 1 },
            compared: Compared {
                finding,
                reported: 11,
                invoiced: Some(5),
            },
            changed_at: 0,
            invoices: vec![("in_1".to_owned(), InvoiceStatus::Paid)],
            acknowledged: None,
        }
    }

    #[test]
    fn a_difference_is_shown_with_both_figures_and_the_invoice() {
        let ok = check_differences(&BTreeMap::new());
        assert_eq!(ok[0].severity, Severity::Ok);
        let found = |finding, number| {
            let differences = Differences {
                count: RowCount {
                    number,
                    is_more: number > 9,
                },
                units: 22,
                first: vec![difference(finding)],
            };
            let mut found = check_differences(&[(finding, differences)].into());
            found.pop().unwrap()
        };
        let bad = found(InvoiceFinding::Differs, 2);
        assert_eq!(bad.severity, Severity::Bad);
        for part in [
            "2 billing periods",
            "22 units",
            "acct",
            "11 reported, 5 invoiced",
            "in_1 paid",
            "1 more",
        ] {
            assert!(bad.fact.contains(part), "{bad}");
        }
        assert_eq!(found(InvoiceFinding::Void, 4).severity, Severity::Warn);
        let kept = found(InvoiceFinding::KeptDraft, 10).to_string();
        for part in ["at least 10 billing", "pause_collection", "at least 9 more"] {
            assert!(kept.contains(part), "{kept}");
        }
        let split = found(InvoiceFinding::PriceSplit, 1).to_string();
        assert!(split.contains("charge nothing again"), "{split}");
    }

    #[test]
    fn every_finding_but_equal_has_an_advice() {
        for finding in InvoiceFinding::ALL {
            let groups = GROUPS
                .iter()
                .filter(|group| group.findings.contains(&finding));
            let expected = usize::from(finding != InvoiceFinding::Equal);
            assert_eq!(groups.count(), expected, "{finding:?}");
        }
    }

    #[test]
    fn a_comparison_that_waits_for_a_day_is_bad() {
        let waiting = WaitingComparison {
            account_id: AccountId::parse("acct").unwrap(),
            item: "si".to_owned(),
            meter: "calls".to_owned(),
            period: Interval { start: 0, end: 1 },
            since: 5,
            why: Some("invoice in_1 cannot be read".to_owned()),
        };
        let count = |number| RowCount {
            number,
            is_more: false,
        };
        assert_eq!(check_waiting(count(0), &[], 9).severity, Severity::Ok);
        let waiting = [waiting];
        let early = check_waiting(count(1), &waiting, 4 + DAY_MS);
        assert_eq!(early.severity, Severity::Warn);
        let late = check_waiting(count(7), &waiting, 5 + DAY_MS);
        assert_eq!(late.severity, Severity::Bad);
        for part in ["7 billing periods", "acct", "in_1 cannot be read", "6 more"] {
            assert!(late.fact.contains(part), "{late}");
        }
    }
}
