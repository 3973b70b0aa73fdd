//! The moment from which this service bills, if the backup is from before it was named.

use std::io::{BufRead, Write};

use serde_json::{Value, json};

use super::{
    super::offline::{OfflineError, confirm},
    Restore,
};
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

    /// Whether the moment that was stated, if it is new to the database, may be named. Without `answers` it may not.
    pub(super) fn is_moment_confirmed(
        &self,
        sending: &Sending,
        out: &mut impl Write,
        answers: Option<&mut (impl BufRead + ?Sized)>,
    ) -> Result<bool, OfflineError> {
        let known = sending.billing_start.moment();
        let Some(at) = self.bill_from.filter(|at| *at != known) else {
            return Ok(true);
        };
        let question = format!(
            "Bill usage of {} and later, also what was not billable until now?",
            rfc3339(at)
        );
        Ok(confirm(&question, out, answers)?)
    }

    /// What a refusal to enter leaves as it is: the moment was named before it was asked for.
    pub(super) fn named_moment(&self) -> String {
        self.bill_from.map_or_else(String::new, |at| {
            let at = rfc3339(at);
            format!("The moment is named and stays: usage of {at} and later is billed. ")
        })
    }

    /// Names the moment that was stated. Sending is paused meanwhile, and what was counted of after it is compared with Stripe
    /// before it is sent.
    pub(super) async fn name_moment(&self, out: &mut impl Write) -> Result<(), OfflineError> {
        if let Some(at) = self.bill_from {
            let reports = self.store.restore_billing_start(at).await?;
            let at = rfc3339(at);
            writeln!(
                out,
                "billed from {at} on: {reports} reports were not billable and are now"
            )?;
        }
        Ok(())
    }
}
