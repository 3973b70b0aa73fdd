//! Which billing periods may charge one report, before the reports of any period are read.

use uuid::Uuid;

use crate::{
    domain::{account_id::AccountId, billing_period::BillingPeriod},
    error::Result,
    store::snapshot::Snapshot,
};

/// Those of some billing periods, in the order of their accounts, that contain the time at which Stripe bills a report. None
/// if no account of theirs has the report.
pub(super) async fn periods_of_report(
    snapshot: &Snapshot,
    mut periods: Vec<BillingPeriod>,
    report_id: Uuid,
) -> Result<Vec<BillingPeriod>> {
    let accounts = periods.iter().map(|period| period.account_id.clone());
    let mut accounts: Vec<AccountId> = accounts.collect();
    accounts.dedup();
    for account in accounts {
        if let Some((meter, at)) = snapshot.find_billed(&account, report_id).await? {
            periods.retain(|period| {
                period.account_id == account
                    && period.meter.as_ref() == Some(&meter)
                    && period.interval().contains(at)
            });
            return Ok(periods);
        }
    }
    Ok(Vec::new())
}
