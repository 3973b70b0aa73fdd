//! Reconciling on the wire.

use usage_proto::v1;

use super::wire;
use crate::{
    domain::{
        DAY_MS,
        account_id::AccountId,
        period::{MAX_PERIOD_MS, rfc3339},
        violation::Violation,
    },
    error::Result,
    reconciliation::{Question, Row},
};

/// How many accounts a page holds when nobody says, and at most: each costs reads at Stripe.
const DEFAULT_ACCOUNTS: u64 = 10;
const MAX_ACCOUNTS: u64 = 50;

/// What a request asks.
pub(super) fn question(request: &v1::ReconcileRequest) -> Result<Question> {
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
                "period from {} to {} is longer than {days} days",
                rfc3339(period.start),
                rfc3339(period.end)
            ),
        )
        .into());
    }
    Ok(Question { account_id, period })
}

/// How many accounts a request means.
pub(super) fn page_size(asked: i32) -> std::result::Result<u64, Violation> {
    match u64::try_from(asked) {
        Ok(0) => Ok(DEFAULT_ACCOUNTS),
        Ok(size) => Ok(size.min(MAX_ACCOUNTS)),
        Err(_) => Err(Violation::invalid(
            "page_size",
            format!(
                "page_size is {asked}; it must be 0 for {DEFAULT_ACCOUNTS}, or 1 to {MAX_ACCOUNTS}"
            ),
        )),
    }
}

/// The figures of one account, customer, meter and period.
pub(super) fn row(row: Row) -> v1::ReconciledUsage {
    let (stripe, stripe_error) = match row.stripe {
        Ok(stripe) => (Some(stripe), String::new()),
        Err(why) => (None, why),
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
        account_id: row.account_id,
        stripe_customer: row.customer,
        meter: row.meter,
        period: Some(wire::period(row.period)),
        is_billing_period: row.is_billing_period,
        counted: row.counted,
        reported: row.reported,
        stripe,
        stripe_error,
    }
}
