//! Records that an admin knows a difference and has dealt with it.

use sea_orm::{
    ActiveModelTrait as _, ActiveValue::Set, EntityTrait as _, IntoActiveModel as _,
    QuerySelect as _,
};

use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        difference_id::DifferenceId,
        invoice_comparison::{InvoiceFinding, PeriodComparison},
    },
    entity::invoice_comparison,
    error::{Error, Result},
    store::Store,
};

/// An acknowledgement to record.
#[derive(Clone, Debug)]
pub(crate) struct NewAcknowledgement {
    /// The account.
    pub(crate) account_id: AccountId,
    /// The difference.
    pub(crate) id: DifferenceId,
    /// Why.
    pub(crate) reason: String,
    /// Who acknowledges it.
    pub(crate) requested_by: String,
}

impl Store {
    /// Acknowledges a difference. If that was done already, changes nothing and returns true with the difference.
    pub(crate) async fn acknowledge(
        &self,
        new: &NewAcknowledgement,
        now: Millis,
    ) -> Result<(PeriodComparison, bool)> {
        let tx = self.begin().await?;
        let id = &new.id;
        let key = (
            new.account_id.clone(),
            id.item.clone(),
            id.period_start,
            id.meter.clone(),
        );
        let row = invoice_comparison::Entity::find_by_id(key)
            .lock_exclusive()
            .one(&tx)
            .await?;
        let row = row.filter(|row| {
            row.changed_at == id.changed_at
                && InvoiceFinding::from(row.finding) != InvoiceFinding::Equal
        });
        let Some(row) = row else {
            tx.rollback().await?;
            return Err(Error::DifferenceNotFound(id.to_string()));
        };
        if row.acknowledged_at.is_some() {
            tx.rollback().await?;
            return Ok((self.with_invoices(row).await?, true));
        }
        let mut change = row.into_active_model();
        change.acknowledged_at = Set(Some(now));
        change.acknowledged_by = Set(Some(new.requested_by.clone()));
        change.acknowledged_reason = Set(Some(new.reason.clone()));
        let row = change.update(&tx).await?;
        tx.commit().await?;
        Ok((self.with_invoices(row).await?, false))
    }
}
