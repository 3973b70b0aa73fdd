//! The status and the billing mode of a subscription at Stripe. A value that Stripe adds later stays visible under its
//! own name. Pure.

use std::fmt;

/// A subscription's `status` at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscriptionStatus {
    /// It bills.
    Active,
    /// It is in its trial.
    Trialing,
    /// An invoice is not paid.
    PastDue,
    /// Invoices are not paid, and new ones stay drafts.
    Unpaid,
    /// Its trial ended without a payment method.
    Paused,
    /// Its first invoice is not paid yet.
    Incomplete,
    /// Its first invoice was not paid in time.
    IncompleteExpired,
    /// It ended.
    Canceled,
    /// A status that this version does not know, with Stripe's name.
    Other(String),
}

impl SubscriptionStatus {
    /// Reads Stripe's name.
    pub fn parse(name: &str) -> Self {
        match name {
            "active" => Self::Active,
            "trialing" => Self::Trialing,
            "past_due" => Self::PastDue,
            "unpaid" => Self::Unpaid,
            "paused" => Self::Paused,
            "incomplete" => Self::Incomplete,
            "incomplete_expired" => Self::IncompleteExpired,
            "canceled" => Self::Canceled,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Stripe's name, such as `active`.
    pub fn name(&self) -> &str {
        match self {
            Self::Active => "active",
            Self::Trialing => "trialing",
            Self::PastDue => "past_due",
            Self::Unpaid => "unpaid",
            Self::Paused => "paused",
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Canceled => "canceled",
            Self::Other(name) => name,
        }
    }

    /// Whether the subscription bills, or may bill again. One with an unknown status may.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Canceled | Self::Incomplete | Self::IncompleteExpired => false,
            Self::Active
            | Self::Trialing
            | Self::PastDue
            | Self::Unpaid
            | Self::Paused
            | Self::Other(_) => true,
        }
    }
}

impl fmt::Display for SubscriptionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A subscription's `billing_mode` at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BillingMode {
    /// The usage of an item that is removed is still billed.
    Flexible,
    /// The usage of an item that is removed is lost.
    Classic,
    /// A mode that this version does not know, with Stripe's name.
    Other(String),
}

impl BillingMode {
    /// Reads Stripe's name.
    pub fn parse(name: &str) -> Self {
        match name {
            "flexible" => Self::Flexible,
            "classic" => Self::Classic,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Stripe's name, such as `flexible`.
    pub fn name(&self) -> &str {
        match self {
            Self::Flexible => "flexible",
            Self::Classic => "classic",
            Self::Other(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_as_stripe_sent_it() {
        let statuses = [
            "active",
            "trialing",
            "past_due",
            "unpaid",
            "paused",
            "incomplete",
            "incomplete_expired",
            "canceled",
        ];
        for name in statuses {
            let status = SubscriptionStatus::parse(name);
            assert_eq!(status.name(), name);
            assert!(!matches!(status, SubscriptionStatus::Other(_)), "{name}");
        }
        let new = SubscriptionStatus::parse("hibernating");
        assert_eq!(new.name(), "hibernating");
        assert!(new.is_live(), "it may bill");
        for name in ["flexible", "classic", "elastic"] {
            assert_eq!(BillingMode::parse(name).name(), name);
        }
    }
}
