//! Why a linked customer is read from Stripe by itself at each poll, beside the lists of all subscriptions.

use super::violation::{Reason, Violation, quoted};

/// Why a linked customer is read by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Stripe could not be asked about it when it was linked.
    Unverified,
    /// It belongs to a test clock, so the lists of all leave it out.
    TestClock,
    /// Its account cannot be synced as its link says: in one sentence.
    Problem(String),
}

/// What Stripe says about the subscription that a link names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NamedSubscription {
    /// It belongs to the customer, or none is named.
    #[default]
    Fits,
    /// It does not exist.
    NotFound(String),
    /// It belongs to another customer.
    OfAnother {
        /// `sub_...`
        subscription: String,
        /// `cus_...`
        customer: String,
    },
}

impl NamedSubscription {
    /// What is wrong, if something is.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Fits => None,
            Self::NotFound(subscription) => Some(format!(
                "Stripe has no subscription {}",
                quoted(subscription)
            )),
            Self::OfAnother {
                subscription,
                customer,
            } => Some(format!(
                "subscription {} belongs to another customer, {customer:?}",
                quoted(subscription)
            )),
        }
    }

    /// Refuses a link to a subscription that does not fit.
    ///
    /// # Errors
    /// The subscription does not exist or belongs to another customer.
    pub fn check(&self) -> Result<(), Violation> {
        match self.problem() {
            None => Ok(()),
            Some(problem) => Err(Violation::new(
                Reason::UnknownSubscription,
                "stripe.subscription",
                format!("{problem}; leave it out to use the customer's"),
            )),
        }
    }
}

/// A link to a customer that Stripe does not know, or that was deleted there.
pub fn unknown_customer(customer: &str, was_deleted: bool) -> Violation {
    let message = if was_deleted {
        format!("customer {} was deleted at Stripe", quoted(customer))
    } else {
        format!(
            "Stripe has no customer {}; check that the server's key belongs to its account and mode",
            quoted(customer)
        )
    };
    Violation::new(Reason::UnknownCustomer, "stripe.customer", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_subscription_of_the_customer_is_accepted() {
        assert_eq!(NamedSubscription::Fits.check(), Ok(()));
        let missing = NamedSubscription::NotFound("sub_a".to_owned());
        let violation = missing.check().unwrap_err();
        assert_eq!(violation.reason, Reason::UnknownSubscription);
        assert!(violation.message.contains("no subscription \"sub_a\""));
        let foreign = NamedSubscription::OfAnother {
            subscription: "sub_a".to_owned(),
            customer: "cus_b".to_owned(),
        };
        assert!(foreign.check().unwrap_err().message.contains("cus_b"));
    }
}
