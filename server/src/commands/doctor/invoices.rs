//! Checks whether invoices charge what was reported.

use super::finding::{Finding, cause_of};
use crate::{
    commands::reconcile::describe_difference,
    domain::{
        DAY_MS, Millis,
        invoice_comparison::{InvoiceFinding, PeriodComparison},
        period::rfc3339,
    },
    store::Store,
};

const CHECK: &str = "invoices";
/// How long a difference is shown after it last changed.
const SHOWN_MS: Millis = 70 * DAY_MS;
/// Differences in one line.
const MAX_SHOWN: usize = 3;

pub(super) async fn check(store: &Store, now: Millis, findings: &mut Vec<Finding>) {
    let since = now.saturating_sub(SHOWN_MS);
    findings.push(match store.invoice_differences(since, MAX_SHOWN).await {
        Ok((number, first)) => check_differences(number, &first),
        Err(error) => Finding::unchecked(CHECK, &cause_of(&error)),
    });
}

fn check_differences(number: usize, first: &[PeriodComparison]) -> Finding {
    if number == 0 {
        return Finding::ok(
            CHECK,
            "those that were compared charge what was reported; one that cannot be read is in the log",
        );
    }
    let shown: Vec<String> = first.iter().map(describe).collect();
    let more = number.saturating_sub(shown.len());
    let more = if more == 0 {
        String::new()
    } else {
        format!("; and {more} more")
    };
    let fact = format!(
        "of {number} billing periods they do not charge what was reported: {}{more}",
        shown.join("; ")
    );
    // A person has decided that these are not paid.
    let is_decided = |one: &PeriodComparison| {
        matches!(
            one.compared.finding,
            InvoiceFinding::Void | InvoiceFinding::Uncollectible
        )
    };
    let advice = "compare the invoice with the customer's usage (`reconcile`), and charge or credit the rest by an invoice item in Stripe's dashboard";
    if first.iter().all(is_decided) && first.len() == number {
        Finding::warn(CHECK, fact, advice)
    } else {
        Finding::bad(CHECK, fact, advice)
    }
}

fn describe(one: &PeriodComparison) -> String {
    format!(
        "{}, {} since {}: {}",
        one.account_id,
        one.meter,
        rfc3339(one.period.start),
        describe_difference(one)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commands::doctor::finding::Severity,
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
        }
    }

    #[test]
    fn a_difference_is_shown_with_both_figures_and_the_invoice() {
        assert_eq!(check_differences(0, &[]).severity, Severity::Ok);
        let finding = check_differences(2, &[difference(InvoiceFinding::Differs)]);
        assert_eq!(finding.severity, Severity::Bad);
        for part in [
            "2 billing periods",
            "acct",
            "11 reported, 5 invoiced",
            "in_1 paid",
            "1 more",
        ] {
            assert!(finding.fact.contains(part), "{finding}");
        }
        let void = [difference(InvoiceFinding::Void)];
        assert_eq!(check_differences(1, &void).severity, Severity::Warn);
        assert_eq!(
            check_differences(4, &void).severity,
            Severity::Bad,
            "not all are known"
        );
    }
}
