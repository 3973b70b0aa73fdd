//! `usagectl accounts --usage`: accounts with their recent usage.

use super::{Listed, billing};
use crate::{
    RecentUsage,
    cli::output::{Rows, rfc3339, rfc3339_or_null},
};
use serde_json::{Value, json};

/// A row is an account and a meter, or an account without recent usage.
const COLUMNS: [&str; 11] = [
    "account_id",
    "billing",
    "customer",
    "meter",
    "period_start",
    "period_end",
    "quantity",
    "previous_start",
    "previous_end",
    "previous_quantity",
    "last_30_days",
];

/// The rows of accounts. JSON has the usage of each of the last days, and other formats their sum.
pub(super) fn rows(accounts: &[(Listed, Vec<RecentUsage>)], is_json: bool) -> Rows {
    let mut rows = Rows::new(&COLUMNS);
    for (account, usage) in accounts {
        for one in usage {
            rows.push(row(account, Some(one), is_json));
        }
        if usage.is_empty() {
            rows.push(row(account, None, is_json));
        }
    }
    rows
}

/// The values of [`COLUMNS`].
fn row(account: &Listed, usage: Option<&RecentUsage>, is_json: bool) -> Vec<Value> {
    let (billing, customer) = match account {
        Listed::Linked(account) => (
            billing(account),
            account.stripe().map(|stripe| stripe.customer.as_str()),
        ),
        Listed::Counted(_) => ("never linked", None),
    };
    let mut row = vec![json!(account.id()), json!(billing), json!(customer)];
    if let Some(usage) = usage {
        let previous = usage.previous_period;
        let sum = || usage.days.iter().copied().fold(0, i64::saturating_add);
        row.extend([
            json!(usage.meter),
            rfc3339(usage.period.start),
            rfc3339(usage.period.end),
            json!(usage.quantity),
            rfc3339_or_null(previous.map(|of| of.start)),
            rfc3339_or_null(previous.map(|of| of.end)),
            json!(usage.previous_quantity),
            if is_json {
                json!(usage.days)
            } else {
                json!(sum())
            },
        ]);
    }
    row.resize(COLUMNS.len(), Value::Null);
    row
}
