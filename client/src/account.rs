//! Accounts: whom an account bills to.

use crate::{
    Error, Period, Subscription, proto,
    wire::{self, non_empty, page_size_to_wire},
};
use chrono::{DateTime, Utc};
use proto::put_account_request;

/// Says whom an account bills to from now on: a Stripe customer, or nobody because it is free.
///
/// ```
/// use usage_client::PutAccount;
///
/// let paying = PutAccount::stripe("acct_42", "cus_NffrFeUfNV2Hib").subscription("sub_1MowQV");
/// let free = PutAccount::free("acct_43");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing changes before it is sent"]
pub struct PutAccount {
    account_id: String,
    customer: Option<String>,
    subscription: Option<String>,
    current_period: Option<Period>,
    bill_from: Option<DateTime<Utc>>,
    etag: String,
}

impl PutAccount {
    /// The account bills to this Stripe customer, `cus_...`. A customer belongs to one account at a
    /// time.
    pub fn stripe(account_id: impl Into<String>, customer: impl Into<String>) -> Self {
        Self {
            customer: Some(customer.into()),
            ..Self::free(account_id)
        }
    }

    /// The account is free: counted and shown, never reported to Stripe and never billed.
    pub fn free(account_id: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            customer: None,
            subscription: None,
            current_period: None,
            bill_from: None,
            etag: String::new(),
        }
    }

    /// The Stripe subscription, `sub_...`. Not for a free account.
    pub fn subscription(mut self, subscription: impl Into<String>) -> Self {
        self.subscription = Some(subscription.into());
        self
    }

    /// The current billing period of the subscription's metered item: usage on both sides of its
    /// edges goes to different invoices. Not for a free account.
    pub fn current_period(
        mut self,
        start: impl Into<DateTime<Utc>>,
        end: impl Into<DateTime<Utc>>,
    ) -> Self {
        self.current_period = Some(Period::new(start, end));
        self
    }

    /// From when usage is billed to the customer. Left out, it is the start of the current period
    /// where that is known, else the moment of the call. Not for a free account.
    pub fn bill_from(mut self, bill_from: impl Into<DateTime<Utc>>) -> Self {
        self.bill_from = Some(bill_from.into());
        self
    }

    /// Takes effect only if the account still has this [`Account::etag`].
    pub fn etag(mut self, etag: impl Into<String>) -> Self {
        self.etag = etag.into();
        self
    }

    pub(crate) fn into_wire(self) -> Result<proto::PutAccountRequest, Error> {
        let billing = match self.customer {
            Some(customer) => {
                let current_period = self.current_period.map(|period| {
                    wire::period_to_wire(
                        period,
                        "stripe.current_period.start",
                        "stripe.current_period.end",
                    )
                });
                let bill_from = self
                    .bill_from
                    .map(|time| wire::time_to_wire(time, "stripe.bill_from"));
                put_account_request::Billing::Stripe(proto::StripeBilling {
                    customer,
                    subscription: self.subscription.unwrap_or_default(),
                    current_period: current_period.transpose()?,
                    bill_from: bill_from.transpose()?,
                })
            }
            None if self.subscription.is_none()
                && self.current_period.is_none()
                && self.bill_from.is_none() =>
            {
                put_account_request::Billing::Free(proto::FreeBilling {})
            }
            None => {
                return Err(Error::invalid(
                    "free",
                    "a free account has no subscription, billing period or start of billing",
                ));
            }
        };
        Ok(proto::PutAccountRequest {
            account_id: self.account_id,
            etag: self.etag,
            billing: Some(billing),
        })
    }
}

/// An account and whom it bills to now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// The caller's own id for who uses something.
    pub account_id: String,
    /// Whom it bills to.
    pub billing: Billing,
    /// Changes whenever the account changes; opaque.
    pub etag: String,
    /// From when the present billing is in force.
    pub valid_from: DateTime<Utc>,
    /// When the present billing was put.
    pub updated_at: DateTime<Utc>,
    /// What Stripe last said of the subscription that the account follows.
    pub subscription: Option<Subscription>,
}

/// Whom an account bills to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Billing {
    /// A Stripe customer.
    Stripe(StripeBilling),
    /// Nobody: it is free.
    Free,
    /// A way of billing that this version of the client does not know.
    Unrecognised,
}

/// Billed through Stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StripeBilling {
    /// The Stripe customer, `cus_...`.
    pub customer: String,
    /// The Stripe subscription, `sub_...`, where one was given.
    pub subscription: Option<String>,
    /// The current billing period, where it is known.
    pub current_period: Option<Period>,
    /// From when usage is billed to the customer.
    pub bill_from: Option<DateTime<Utc>>,
}

impl Account {
    /// How an account is billed through Stripe; none if it is not.
    pub fn stripe(&self) -> Option<&StripeBilling> {
        match &self.billing {
            Billing::Stripe(stripe) => Some(stripe),
            Billing::Free | Billing::Unrecognised => None,
        }
    }

    /// Whether the account was said to be free.
    pub fn is_free(&self) -> bool {
        self.billing == Billing::Free
    }

    pub(crate) fn from_wire(account: Option<proto::Account>) -> Result<Self, Error> {
        let account = account.ok_or_else(|| Error::malformed("`account` is absent"))?;
        Ok(Self {
            account_id: account.account_id,
            billing: Billing::from_wire(account.billing)?,
            etag: account.etag,
            valid_from: wire::required_time(account.valid_from, "account.valid_from")?,
            updated_at: wire::required_time(account.updated_at, "account.updated_at")?,
            subscription: account
                .subscription
                .map(Subscription::from_wire)
                .transpose()?,
        })
    }
}

impl Billing {
    fn from_wire(billing: Option<proto::account::Billing>) -> Result<Self, Error> {
        Ok(match billing {
            Some(proto::account::Billing::Stripe(stripe)) => Self::Stripe(StripeBilling {
                customer: stripe.customer,
                subscription: non_empty(stripe.subscription),
                current_period: stripe
                    .current_period
                    .map(|period| wire::required_period(Some(period), "account.current_period"))
                    .transpose()?,
                bill_from: wire::optional_time(stripe.bill_from, "account.bill_from")?,
            }),
            Some(proto::account::Billing::Free(proto::FreeBilling {})) => Self::Free,
            None => Self::Unrecognised,
        })
    }
}

/// Which page of the accounts is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "nothing is listed before it is sent"]
pub struct ListAccounts {
    page_size: u32,
    page_token: String,
}

impl ListAccounts {
    /// The first page, with 100 accounts at most.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most this many, up to 1,000.
    pub fn page_size(mut self, page_size: u32) -> Self {
        self.page_size = page_size;
        self
    }

    /// The page after the one that gave this [`AccountPage::next_page_token`].
    pub fn page_token(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = page_token.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::ListAccountsRequest {
        proto::ListAccountsRequest {
            page_size: page_size_to_wire(self.page_size),
            page_token: self.page_token,
        }
    }
}

/// One page of the accounts that were put, ordered by their id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountPage {
    /// The accounts.
    pub accounts: Vec<Account>,
    /// What to ask the next page with; none on the last page.
    pub next_page_token: Option<String>,
}

impl AccountPage {
    pub(crate) fn from_wire(response: proto::ListAccountsResponse) -> Result<Self, Error> {
        let accounts = response.accounts.into_iter().map(Some);
        Ok(Self {
            accounts: accounts.map(Account::from_wire).collect::<Result<_, _>>()?,
            next_page_token: non_empty(response.next_page_token),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn wire(billing: Option<proto::account::Billing>) -> proto::Account {
        proto::Account {
            account_id: "a".to_owned(),
            etag: "e".to_owned(),
            valid_from: Some(prost_types::Timestamp::default()),
            updated_at: Some(prost_types::Timestamp::default()),
            billing,
            subscription: None,
        }
    }

    #[test]
    fn a_free_account_takes_nothing_of_stripes() {
        let error = PutAccount::free("a")
            .subscription("sub_1")
            .into_wire()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let wire = PutAccount::free("a").into_wire().unwrap();
        let free = put_account_request::Billing::Free(proto::FreeBilling {});
        assert_eq!(wire.billing, Some(free));
    }

    #[test]
    fn an_account_that_gave_no_subscription_has_none() {
        let billing = proto::account::Billing::Stripe(proto::StripeBilling {
            customer: "cus_1".to_owned(),
            ..Default::default()
        });
        let account = Account::from_wire(Some(wire(Some(billing)))).unwrap();
        let stripe = account.stripe().unwrap();
        assert_eq!(stripe.customer, "cus_1");
        assert_eq!(stripe.subscription, None);
        assert_eq!(stripe.current_period, None);
    }

    #[test]
    fn billing_from_a_newer_server_is_not_taken_for_free() {
        let account = Account::from_wire(Some(wire(None))).unwrap();
        assert_eq!(account.billing, Billing::Unrecognised);
        assert!(!account.is_free());
    }
}
