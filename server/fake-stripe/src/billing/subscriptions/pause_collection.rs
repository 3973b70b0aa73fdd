//! `pause_collection`: the subscription stays active, but its invoices are kept as drafts, marked uncollectible or voided
//! when they are created, until `resumes_at` or until it is unset.
//!
//! Stripe documents that such invoices are "immediately" voided or marked as uncollectible. What that means for usage that
//! arrives within the hour in which the invoice would be a draft is not documented; here it is on no invoice.

use serde_json::{Value, json};

use crate::errors::StripeError;
use crate::params::Params;

/// What happens to invoices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    KeepAsDraft,
    MarkUncollectible,
    Void,
}

/// The paused collection of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PauseCollection {
    pub(crate) behavior: Behavior,
    pub(crate) resumes_at: Option<i64>,
}

/// What an update does to the pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PauseChange {
    Keep,
    Unset,
    Set(PauseCollection),
}

impl PauseChange {
    /// Takes `pause_collection`; an empty text unsets it.
    pub(crate) fn take(params: &mut Params, now: i64) -> Result<PauseChange, StripeError> {
        if params.is_text("pause_collection") {
            return match params.text("pause_collection")? {
                None => Ok(PauseChange::Unset),
                Some(_) => Err(StripeError::invalid("Invalid object").param("pause_collection")),
            };
        }
        let Some(mut pause) = params.nested("pause_collection")? else {
            return Ok(PauseChange::Keep);
        };
        let name = pause.name("behavior");
        let behavior =
            match pause.one_of("behavior", &["keep_as_draft", "mark_uncollectible", "void"])? {
                Some("keep_as_draft") => Behavior::KeepAsDraft,
                Some("mark_uncollectible") => Behavior::MarkUncollectible,
                Some(_) => Behavior::Void,
                None => return Err(StripeError::missing_param(&name)),
            };
        let resumes_at = pause.integer("resumes_at")?;
        if resumes_at.is_some_and(|at| at <= now) {
            return Err(StripeError::invalid("resumes_at must be in the future.")
                .param(pause.name("resumes_at")));
        }
        pause.finish()?;
        Ok(PauseChange::Set(PauseCollection {
            behavior,
            resumes_at,
        }))
    }

    pub(crate) fn applied_to(self, before: Option<PauseCollection>) -> Option<PauseCollection> {
        match self {
            PauseChange::Keep => before,
            PauseChange::Unset => None,
            PauseChange::Set(pause) => Some(pause),
        }
    }
}

impl PauseCollection {
    pub(crate) fn json(self) -> Value {
        let behavior = match self.behavior {
            Behavior::KeepAsDraft => "keep_as_draft",
            Behavior::MarkUncollectible => "mark_uncollectible",
            Behavior::Void => "void",
        };
        json!({ "behavior": behavior, "resumes_at": self.resumes_at })
    }
}
