//! The moment from which this service bills, if the backup is from before it was named.

use serde_json::{Value, json};

use super::{super::offline::OfflineError, Restore};
use crate::{
    domain::{Millis, period::rfc3339},
    store::sending_state::Sending,
};

impl Restore<'_> {
    /// Takes the moment that was stated, or else the one that the database knows. Changes nothing.
    ///
    /// # Errors
    /// It cannot be the moment of this database.
    pub(super) fn set_moment(
        &mut self,
        sending: &Sending,
        last_change: Option<Millis>,
    ) -> Result<(), OfflineError> {
        let known = sending.billing_start;
        self.bills_since = match self.bill_from {
            None => known.moment(),
            Some(at) => {
                let checked = known.check_restored(at, last_change);
                checked.map_err(OfflineError::Failed)?;
                at
            }
        };
        Ok(())
    }

    /// What the audit table keeps of the command.
    pub(super) fn details(&self) -> Value {
        let backup_at = rfc3339(self.backup_at);
        match self.bill_from {
            None => json!({ "backup_at": backup_at }),
            Some(at) => json!({ "backup_at": backup_at, "bill_from": rfc3339(at) }),
        }
    }

    /// Names the moment that was stated. Sending is paused meanwhile, and what was counted of after it is compared with Stripe
    /// before it is sent.
    pub(super) async fn name_moment(&self) -> Result<(), OfflineError> {
        if let Some(at) = self.bill_from {
            self.store.restore_billing_start(at).await?;
        }
        Ok(())
    }
}
