//! Reconciliation on the wire.

use usage_proto::v1;

use super::wire;
use crate::{
    domain::{
        DAY_MS,
        account_id::AccountId,
        audit::Actor,
        correction::{check_reason, check_requested_by},
        difference_id::DifferenceId,
        invoice_comparison::{InvoiceFinding, PeriodComparison},
        period::{MAX_PERIOD_MS, rfc3339},
        violation::Violation,
        waiting_comparison::WaitingComparison,
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
    let period = request
        .period
        .as_ref()
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
    Ok(ReconciliationQuery { account_id, period })
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
    let finding = match from.compared.finding {
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
    };
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
