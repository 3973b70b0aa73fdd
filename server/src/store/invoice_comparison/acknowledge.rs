//! Records that an admin knows a difference and has dealt with it.

use sea_orm::{
    ActiveModelTrait as _, ActiveValue::Set, ColumnTrait as _, DbErr, EntityTrait as _,
    IntoActiveModel as _, QueryFilter as _, QuerySelect as _, sea_query::Expr,
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
    store::{Store, connection::Transaction, retried::retried},
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
        let (row, is_duplicate) = retried(|| self.acknowledge_once(new, now)).await?;
        Ok((self.with_invoices(row).await?, is_duplicate))
    }

    async fn acknowledge_once(
        &self,
        new: &NewAcknowledgement,
        now: Millis,
    ) -> Result<(invoice_comparison::Model, bool)> {
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
        let row = match row {
            None => find_moved(&tx, new).await?,
            found => found,
        };
        let Some(row) = row else {
            tx.rollback().await?;
            return Err(Error::DifferenceNotFound(id.to_string()));
        };
        if row.acknowledged_at.is_some() {
            tx.rollback().await?;
            return Ok((row, true));
        }
        let mut change = row.into_active_model();
        change.acknowledged_at = Set(Some(now));
        change.acknowledged_by = Set(Some(new.requested_by.clone()));
        change.acknowledged_reason = Set(Some(new.reason.clone()));
        let row = change.update(&tx).await?;
        tx.commit().await?;
        Ok((row, false))
    }
}

/// The difference of usage in no billing period whose start has moved since its name was read: the only one of the same
/// age.
async fn find_moved(
    tx: &Transaction,
    new: &NewAcknowledgement,
) -> std::result::Result<Option<invoice_comparison::Model>, DbErr> {
    use invoice_comparison::Column as C;
    let mut found = invoice_comparison::Entity::find()
        // For the partial index.
        .filter(Expr::cust("finding = 'no_period'"))
        .filter(C::Customer.eq(&new.id.item))
        .filter(C::Meter.eq(&new.id.meter))
        .filter(C::AccountId.eq(&new.account_id))
        .filter(C::ChangedAt.eq(new.id.changed_at))
        .limit(2)
        .lock_exclusive()
        .all(tx)
        .await?;
    Ok(found.pop().filter(|_| found.is_empty()))
}
