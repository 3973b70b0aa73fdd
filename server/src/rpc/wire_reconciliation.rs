//! Reconciliation on the wire. The command with `--server` reads rows back.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use usage_proto::v1;

use super::wire;
use crate::{
    domain::{
        DAY_MS, Millis,
        account_id::AccountId,
        audit::Actor,
        correction::{check_reason, check_requested_by},
        difference_id::DifferenceId,
        invoice_comparison::{Acknowledgement, Compared, InvoiceFinding, PeriodComparison},
        invoice_line::InvoiceStatus,
        period::{MAX_PERIOD_MS, rfc3339},
        violation::Violation,
        waiting_comparison::WaitingComparison,
        window::Interval,
    },
    error::{Error, Result},
    reconciliation::{ReconciliationQuery, Row},
    store::invoice_comparison::acknowledge::NewAcknowledgement,
};

/// Accounts on a page if the request does not say. Each costs requests to Stripe.
const DEFAULT_ACCOUNTS: u64 = 10;
/// Accounts on the largest page.
const MAX_ACCOUNTS: u64 = 50;

/// The query of a request.
pub(super) fn query(request: &v1::ReconcileRequest) -> Result<ReconciliationQuery> {
    let account_id = (!request.account_id.is_empty()).then(|| request.account_id.clone());
    if let Some(account) = &account_id {
        AccountId::parse(account)?;
    }
    let period = period_of(request.period.as_ref())?;
    Ok(ReconciliationQuery { account_id, period })
}

/// The period of a request, with the limit of its length.
pub(super) fn period_of(period: Option<&v1::Period>) -> Result<Option<Interval>> {
    let period = period
        .map(|period| wire::interval("period", period))
        .transpose()?;
    if let Some(period) = period
        && period.end.saturating_sub(period.start) > MAX_PERIOD_MS
    {
        let days = MAX_PERIOD_MS.div_euclid(DAY_MS);
        return Err(Violation::invalid(
            "period",
            format!(
                "period from {} to {} is too long; at most {days} days are allowed",
                rfc3339(period.start),
                rfc3339(period.end)
            ),
        )
        .into());
    }
    Ok(period)
}

/// The page size of a request, in accounts; 0 means the default.
pub(super) fn page_size(requested: i32) -> std::result::Result<u64, Violation> {
    match u64::try_from(requested) {
        Ok(0) => Ok(DEFAULT_ACCOUNTS),
        Ok(size) => Ok(size.min(MAX_ACCOUNTS)),
        Err(_) => Err(Violation::invalid(
            "page_size",
            format!(
                "page_size is {requested}; it must be 0 for {DEFAULT_ACCOUNTS}, or 1 to {MAX_ACCOUNTS}"
            ),
        )),
    }
}

/// A row on the wire.
pub(super) fn row(row: Row) -> v1::ReconciledUsage {
    let (stripe_total, stripe_error) = match row.stripe_total {
        Ok(total) => (Some(total), String::new()),
        Err(error) => (None, error),
    };
    let states = row
        .states
        .iter()
        .map(|(state, (reports, quantity))| v1::ReportStateCount {
            state: wire::state_number(*state),
            count: Some(v1::ReportCount {
                reports: *reports,
                quantity: *quantity,
            }),
        });
    v1::ReconciledUsage {
        states: states.collect(),
        invoices: row.invoices.into_iter().map(comparison).collect(),
        waiting: row.waiting.into_iter().map(waiting).collect(),
        account_id: row.account_id,
        stripe_customer: row.customer,
        meter: row.meter,
        period: Some(wire::period(row.period)),
        is_billing_period: row.is_billing_period,
        counted: row.counted,
        reported: row.reported,
        stripe_total,
        stripe_error,
    }
}

/// A row that a server answered.
///
/// # Errors
/// One sentence that says what cannot be read.
pub(crate) fn read_row(row: v1::ReconciledUsage) -> Result<Row, String> {
    let account = AccountId::parse(&row.account_id).map_err(|violation| violation.message)?;
    let mut states = BTreeMap::new();
    for one in row.states {
        let state = wire::state(one.state).map_err(|violation| violation.message)?;
        let count = one.count.unwrap_or_default();
        states.insert(state, (count.reports, count.quantity));
    }
    let invoices = row
        .invoices
        .into_iter()
        .map(|one| read_comparison(one, &account, &row.meter, &row.stripe_customer));
    let invoices: Result<Vec<_>, String> = invoices.collect();
    let waiting = row
        .waiting
        .into_iter()
        .map(|one| read_waiting(one, &account, &row.meter));
    let waiting: Result<Vec<_>, String> = waiting.collect();
    Ok(Row {
        states,
        invoices: invoices?,
        waiting: waiting?,
        period: read_period(row.period.as_ref())?,
        account_id: row.account_id,
        customer: row.stripe_customer,
        meter: row.meter,
        is_billing_period: row.is_billing_period,
        counted: row.counted,
        reported: row.reported,
        stripe_total: row.stripe_total.ok_or(row.stripe_error),
    })
}

fn read_comparison(
    from: v1::InvoiceComparison,
    account: &AccountId,
    meter: &str,
    customer: &str,
) -> Result<PeriodComparison, String> {
    let known = InvoiceFinding::ALL.into_iter();
    let mut known = known.filter(|finding| i32::from(finding_on_wire(*finding)) == from.finding);
    let finding = known.next().ok_or_else(|| {
        format!("the server found something that this program does not know ({}); use one of its version", from.finding)
    })?;
    let invoices = from.invoices.into_iter().map(|one| {
        let known = InvoiceStatus::ALL.into_iter();
        let mut known = known.filter(|status| status.name() == one.status);
        let status = known.next();
        status.map(|status| (one.id, status)).ok_or_else(|| {
            format!(
                "the server answered an unknown status of an invoice: {}",
                one.status
            )
        })
    });
    let acknowledged = from.acknowledged.map(|own| {
        Ok::<_, String>(Acknowledgement {
            at: read_time(own.acknowledged_at.as_ref())?,
            by: own.requested_by,
            reason: own.reason,
        })
    });
    Ok(PeriodComparison {
        account_id: account.clone(),
        item: from.item,
        price: Some(from.price).filter(|price| !price.is_empty()),
        meter: meter.to_owned(),
        customer: customer.to_owned(),
        period: read_period(from.period.as_ref())?,
        compared: Compared {
            finding,
            reported: from.reported,
            invoiced: from.invoiced,
        },
        changed_at: read_time(from.changed_at.as_ref())?,
        invoices: invoices.collect::<Result<_, String>>()?,
        acknowledged: acknowledged.transpose()?,
    })
}

fn read_waiting(
    from: v1::WaitingComparison,
    account: &AccountId,
    meter: &str,
) -> Result<WaitingComparison, String> {
    Ok(WaitingComparison {
        account_id: account.clone(),
        item: from.item,
        meter: meter.to_owned(),
        period: read_period(from.period.as_ref())?,
        since: read_time(from.since.as_ref())?,
        why: Some(from.reason).filter(|reason| !reason.is_empty()),
    })
}

fn read_time(at: Option<&Timestamp>) -> Result<Millis, String> {
    let at = at.ok_or("the server answered a row without a time")?;
    wire::millis("time", at).map_err(|violation| violation.message)
}

fn read_period(period: Option<&v1::Period>) -> Result<Interval, String> {
    let period = period.ok_or("the server answered a row without a period")?;
    wire::interval("period", period).map_err(|violation| violation.message)
}

fn waiting(from: WaitingComparison) -> v1::WaitingComparison {
    v1::WaitingComparison {
        item: from.item,
        period: Some(wire::period(from.period)),
        since: Some(wire::timestamp(from.since)),
        reason: from.why.unwrap_or_default(),
    }
}

/// The acknowledgement of a request.
pub(super) fn new_acknowledgement(
    request: v1::AcknowledgeDifferenceRequest,
    actor: &Actor,
) -> Result<NewAcknowledgement> {
    let account_id = AccountId::parse(&request.account_id)?;
    check_reason(&request.reason)?;
    check_requested_by(&request.requested_by)?;
    let id = DifferenceId::parse(&request.difference_id)
        .ok_or(Error::DifferenceNotFound(request.difference_id))?;
    Ok(NewAcknowledgement {
        account_id,
        id,
        reason: request.reason,
        requested_by: actor.requester(&request.requested_by),
    })
}

/// A comparison on the wire.
pub(super) fn comparison(from: PeriodComparison) -> v1::InvoiceComparison {
    let difference_id = if from.is_difference() {
        DifferenceId::of(&from).to_string()
    } else {
        String::new()
    };
    let acknowledged = from.acknowledged.map(|own| v1::DifferenceAcknowledgement {
        reason: own.reason,
        requested_by: own.by,
        acknowledged_at: Some(wire::timestamp(own.at)),
    });
    let finding = finding_on_wire(from.compared.finding);
    let invoices = from.invoices.into_iter().map(|(id, status)| {
        let status = status.name().to_owned();
        v1::ComparedInvoice { id, status }
    });
    v1::InvoiceComparison {
        item: from.item,
        price: from.price.unwrap_or_default(),
        period: Some(wire::period(from.period)),
        finding: finding.into(),
        reported: from.compared.reported,
        invoiced: from.compared.invoiced,
        invoices: invoices.collect(),
        changed_at: Some(wire::timestamp(from.changed_at)),
        difference_id,
        acknowledged,
    }
}

fn finding_on_wire(finding: InvoiceFinding) -> v1::InvoiceFinding {
    match finding {
        InvoiceFinding::Equal => v1::InvoiceFinding::Equal,
        InvoiceFinding::Differs => v1::InvoiceFinding::Differs,
        InvoiceFinding::Unreadable => v1::InvoiceFinding::Unreadable,
        InvoiceFinding::Unverified => v1::InvoiceFinding::Unverified,
        InvoiceFinding::Uncollectible => v1::InvoiceFinding::Uncollectible,
        InvoiceFinding::Void => v1::InvoiceFinding::Void,
        InvoiceFinding::Overdue => v1::InvoiceFinding::Overdue,
        InvoiceFinding::KeptDraft => v1::InvoiceFinding::KeptDraft,
        InvoiceFinding::PriceSplit => v1::InvoiceFinding::PriceSplit,
        InvoiceFinding::ChargedTwice => v1::InvoiceFinding::ChargedTwice,
        InvoiceFinding::NoPeriod => v1::InvoiceFinding::NoPeriod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::report::State;

    fn comparison_of(finding: InvoiceFinding) -> PeriodComparison {
        PeriodComparison {
            account_id: AccountId::parse("acct").unwrap(),
            item: "si".to_owned(),
            price: (finding != InvoiceFinding::NoPeriod).then(|| "price".to_owned()),
            meter: "calls".to_owned(),
            customer: "cus".to_owned(),
            period: Interval { start: 0, end: 7 },
            compared: Compared {
                finding,
                reported: 11,
                invoiced: Some(5),
            },
            changed_at: 9,
            invoices: vec![("in_1".to_owned(), InvoiceStatus::Paid)],
            acknowledged: Some(Acknowledgement {
                at: 10,
                by: "key admin".to_owned(),
                reason: "known".to_owned(),
            }),
        }
    }

    #[test]
    fn a_row_is_read_as_it_was_answered() {
        let states: BTreeMap<State, (i64, i64)> = State::ALL
            .into_iter()
            .zip(1..)
            .map(|(state, number)| (state, (number, -number)))
            .collect();
        let mut sent = Row {
            account_id: "acct".to_owned(),
            customer: "cus".to_owned(),
            meter: "calls".to_owned(),
            period: Interval { start: 1, end: 2 },
            is_billing_period: true,
            counted: 3,
            reported: 4,
            stripe_total: Ok(5),
            states,
            invoices: InvoiceFinding::ALL.into_iter().map(comparison_of).collect(),
            waiting: vec![WaitingComparison {
                account_id: AccountId::parse("acct").unwrap(),
                item: "si".to_owned(),
                meter: "calls".to_owned(),
                period: Interval { start: 1, end: 2 },
                since: 3,
                why: None,
            }],
        };
        assert_eq!(read_row(row(sent.clone())), Ok(sent.clone()));
        sent.stripe_total = Err("no answer".to_owned());
        assert_eq!(read_row(row(sent.clone())), Ok(sent));
    }

    #[test]
    fn a_finding_that_is_not_known_is_an_error() {
        let mut answer = comparison(comparison_of(InvoiceFinding::Equal));
        answer.finding = 99;
        let account = AccountId::parse("acct").unwrap();
        let error = read_comparison(answer, &account, "calls", "cus").unwrap_err();
        assert!(error.contains("99"), "{error}");
    }
}
