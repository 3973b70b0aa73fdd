//! The draft invoice of a billing period: when it ends, and how long usage can still be added to it. The sync reads it
//! from Stripe (`stripe/invoices.rs`).

use super::{HOUR_MS, MINUTE_MS, Millis};

/// How long after a period's end its invoice is certainly a draft. Stripe keeps drafts for at least an hour.
pub const SURELY_DRAFT_MS: Millis = 50 * MINUTE_MS;
/// How long Stripe keeps an automatically finalized draft, unless its date says otherwise.
const DRAFT_MS: Millis = HOUR_MS;
/// How long before finalization the last event is sent: the request has to arrive, and Stripe has to count it.
pub const DRAFT_MARGIN_MS: Millis = 2 * MINUTE_MS;

/// The state of a billing period's invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvoiceState {
    /// Unknown, or the invoice does not exist yet.
    Unknown,
    /// Usage of its period is still added to it.
    Draft {
        /// When it becomes final; `None` while its automatic finalization is off.
        until: Option<Millis>,
    },
    /// It no longer changes.
    Final,
}

/// Whether usage of a billing period may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// Yes: its invoice is a draft for long enough.
    InTime,
    /// Unknown: the invoice has to be read from Stripe first.
    AskFirst,
    /// No: its invoice is final.
    TooLate,
}

impl InvoiceState {
    /// When the draft of a period that ends at `period_end` becomes final, as far as is known. `None` if it is final
    /// already, or not finalized automatically.
    pub fn draft_end(self, period_end: Millis) -> Option<Millis> {
        match self {
            Self::Unknown => Some(period_end.saturating_add(DRAFT_MS)),
            Self::Draft { until } => until,
            Self::Final => None,
        }
    }

    /// Whether usage of a period that ends at `period_end` may be sent now.
    pub fn timing(self, period_end: Millis, now: Millis) -> Timing {
        if now < period_end {
            return Timing::InTime;
        }
        let is_fresh = now < period_end.saturating_add(SURELY_DRAFT_MS);
        match self {
            Self::Final => Timing::TooLate,
            Self::Draft { until: Some(until) } if now < until.saturating_sub(DRAFT_MARGIN_MS) => {
                Timing::InTime
            }
            Self::Draft { until: None } => Timing::InTime,
            Self::Unknown if is_fresh => Timing::InTime,
            Self::Draft { .. } | Self::Unknown => Timing::AskFirst,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_in_time_until_shortly_before_its_draft_ends() {
        let end = 1_000_000_000;
        let draft = InvoiceState::Draft {
            until: Some(end + 60 * MINUTE_MS),
        };
        assert_eq!(draft.timing(end, end - 1), Timing::InTime);
        assert_eq!(draft.timing(end, end + 57 * MINUTE_MS), Timing::InTime);
        assert_eq!(draft.timing(end, end + 58 * MINUTE_MS), Timing::AskFirst);
        assert_eq!(InvoiceState::Final.timing(end, end - 1), Timing::InTime);
        assert_eq!(InvoiceState::Final.timing(end, end), Timing::TooLate);
    }

    #[test]
    fn a_draft_ends_at_its_date_or_after_an_hour() {
        assert_eq!(InvoiceState::Unknown.draft_end(7), Some(7 + HOUR_MS));
        assert_eq!(InvoiceState::Draft { until: Some(9) }.draft_end(7), Some(9));
        assert_eq!(InvoiceState::Draft { until: None }.draft_end(7), None);
        assert_eq!(InvoiceState::Final.draft_end(7), None);
    }

    #[test]
    fn an_unknown_invoice_is_read_before_it_can_be_final() {
        let unknown = InvoiceState::Unknown;
        assert_eq!(unknown.timing(0, 49 * MINUTE_MS), Timing::InTime);
        assert_eq!(unknown.timing(0, 50 * MINUTE_MS), Timing::AskFirst);
        let held = InvoiceState::Draft { until: None };
        assert_eq!(held.timing(0, 51 * MINUTE_MS), Timing::InTime);
    }
}
