//! Accounts and how they are billed.

use crate::{
    Error, Period, RecentUsage, Subscription, proto,
    wire::{self, non_empty, page_size_to_wire},
};
use chrono::{DateTime, Utc};
use proto::put_account_request;

/// Sets how an account is billed from now on: to a Stripe customer, or not at all because it is free.
///
/// ```
/// use usage_client::PutAccount;
///
/// let paying = PutAccount::stripe("acct_42", "cus_NffrFeUfNV2Hib").subscription("sub_1MowQV");
/// let free = PutAccount::free("acct_43");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing changes until it is sent"]
pub struct PutAccount {
    account_id: String,
    customer: Option<String>,
    subscription: Option<String>,
    current_period: Option<Period>,
    bill_from: Option<DateTime<Utc>>,
    etag: String,
    validate_only: bool,
}

impl PutAccount {
    /// Bills the account to this Stripe customer, `cus_...`. A customer can be linked to one account at a time.
    pub fn stripe(account_id: impl Into<String>, customer: impl Into<String>) -> Self {
        Self {
            customer: Some(customer.into()),
            ..Self::free(account_id)
        }
    }

    /// Makes the account free: its usage is counted and shown, never reported to Stripe.
    pub fn free(account_id: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            customer: None,
            subscription: None,
            current_period: None,
            bill_from: None,
            etag: String::new(),
            validate_only: false,
        }
    }

    /// The Stripe subscription, `sub_...`. Not for a free account.
    pub fn subscription(mut self, subscription: impl Into<String>) -> Self {
        self.subscription = Some(subscription.into());
        self
    }

    /// The current billing period of the subscription's metered item: usage before and after its start and end goes
    /// to different invoices. Not for a free account.
    pub fn current_period(
        mut self,
        start: impl Into<DateTime<Utc>>,
        end: impl Into<DateTime<Utc>>,
    ) -> Self {
        self.current_period = Some(Period::new(start, end));
        self
    }

    /// Usage from this time on is billed to the customer. By default the start of the current period if it is known,
    /// else the time of the call, but no time in which the account was free. Not for a free account.
    pub fn bill_from(mut self, bill_from: impl Into<DateTime<Utc>>) -> Self {
        self.bill_from = Some(bill_from.into());
        self
    }

    /// Only takes effect if the account still has this [`Account::etag`].
    pub fn etag(mut self, etag: impl Into<String>) -> Self {
        self.etag = etag.into();
        self
    }

    /// Changes nothing, and returns what would be.
    pub fn validate_only(mut self) -> Self {
        self.validate_only = true;
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
                let bill_from = wire::optional_time_to_wire(self.bill_from, "stripe.bill_from")?;
                put_account_request::Billing::Stripe(proto::StripeBilling {
                    customer,
                    subscription: self.subscription.unwrap_or_default(),
                    current_period: current_period.transpose()?,
                    bill_from,
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
                    "a free account cannot have a subscription, current_period or bill_from",
                ));
            }
        };
        Ok(proto::PutAccountRequest {
            account_id: self.account_id,
            etag: self.etag,
            billing: Some(billing),
            validate_only: self.validate_only,
        })
    }
}

/// The result of [`PutAccount`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountPut {
    /// The account after the call.
    pub account: Account,
    /// Usage from before the account's first link, by meter: it waited for a customer, and is not billed from now on. An
    /// earlier [`PutAccount::bill_from`] bills it.
    pub not_billed: Vec<UnbilledUsage>,
    /// Whether Stripe could not be asked about the customer and the subscription. The server asks it later. If neither
    /// [`PutAccount::bill_from`] nor [`PutAccount::current_period`] was given, the start of the link moves back then to
    /// the start of the subscription's current period.
    pub is_unverified: bool,
}

/// Usage of one meter that is not billed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnbilledUsage {
    /// The meter.
    pub meter: String,
    /// The units.
    pub quantity: i64,
}

impl AccountPut {
    pub(crate) fn from_wire(response: proto::PutAccountResponse) -> Result<Self, Error> {
        let not_billed = response.not_billed.into_iter();
        Ok(Self {
            is_unverified: response.unverified,
            account: Account::from_wire(response.account)?,
            not_billed: not_billed
                .map(|usage| UnbilledUsage {
                    meter: usage.meter,
                    quantity: usage.quantity,
                })
                .collect(),
        })
    }
}

/// An account and its current billing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// The caller's id for the user of the metered service.
    pub account_id: String,
    /// Its billing.
    pub billing: Billing,
    /// Opaque; changes whenever the account changes.
    pub etag: String,
    /// The time from which the current billing applies.
    pub valid_from: DateTime<Utc>,
    /// When the current billing was set.
    pub updated_at: DateTime<Utc>,
    /// The account's Stripe subscription as last read from Stripe, if it has one.
    pub subscription: Option<Subscription>,
}

/// How an account is billed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Billing {
    /// A Stripe customer.
    Stripe(StripeBilling),
    /// Not billed: it is free.
    Free,
    /// A kind of billing that this version of the client does not know.
    Unrecognised,
}

/// Billed through Stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StripeBilling {
    /// The Stripe customer, `cus_...`.
    pub customer: String,
    /// The Stripe subscription, `sub_...`, if one was set.
    pub subscription: Option<String>,
    /// The current billing period, if it is known.
    pub current_period: Option<Period>,
    /// Usage from this time on is billed to the customer.
    pub bill_from: Option<DateTime<Utc>>,
}

impl Account {
    /// The account's billing through Stripe, if it has any.
    pub fn stripe(&self) -> Option<&StripeBilling> {
        match &self.billing {
            Billing::Stripe(stripe) => Some(stripe),
            Billing::Free | Billing::Unrecognised => None,
        }
    }

    /// Whether the account is free.
    pub fn is_free(&self) -> bool {
        self.billing == Billing::Free
    }

    pub(crate) fn from_wire(account: Option<proto::Account>) -> Result<Self, Error> {
        let account = account.ok_or_else(|| Error::malformed("`account` is missing"))?;
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

/// Which page of accounts to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "nothing is listed until it is sent"]
pub struct ListAccounts {
    stripe_customer: String,
    account_prefix: String,
    include_counted: bool,
    include_usage: bool,
    page_size: u32,
    page_token: String,
}

impl ListAccounts {
    /// The first page of at most 100 accounts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only the account that is linked to this Stripe customer, `cus_...`, also if its subscription has ended.
    pub fn customer(mut self, customer: impl Into<String>) -> Self {
        self.stripe_customer = customer.into();
        self
    }

    /// Also accounts with usage that were never linked: [`AccountPage::counted`].
    pub fn include_counted(mut self) -> Self {
        self.include_counted = true;
        self
    }

    /// Also the recent usage of each account of the page: [`AccountPage::usage`]. A page then has at most 100 accounts.
    pub fn include_usage(mut self) -> Self {
        self.include_usage = true;
        self
    }

    /// Only accounts whose ids begin with this; not with [`Self::customer`].
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.account_prefix = prefix.into();
        self
    }

    /// The maximum number of accounts on the page, up to 1,000.
    pub fn page_size(mut self, page_size: u32) -> Self {
        self.page_size = page_size;
        self
    }

    /// The page that follows the one with this [`AccountPage::next_page_token`].
    pub fn page_token(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = page_token.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::ListAccountsRequest {
        proto::ListAccountsRequest {
            page_size: page_size_to_wire(self.page_size),
            page_token: self.page_token,
            stripe_customer: self.stripe_customer,
            include_counted: self.include_counted,
            include_usage: self.include_usage,
            account_prefix: self.account_prefix,
        }
    }
}

/// One page of the accounts that were put, ordered by id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountPage {
    /// The accounts.
    pub accounts: Vec<Account>,
    /// With [`ListAccounts::include_counted`]: the ids of the page's accounts that were only counted and never linked, in
    /// their order. All accounts of the next page come after these and [`Self::accounts`].
    pub counted: Vec<String>,
    /// With [`ListAccounts::include_usage`]: by account and meter, of those with usage in the last 70 days.
    pub usage: Vec<RecentUsage>,
    /// The token of the next page; none on the last page.
    pub next_page_token: Option<String>,
}

impl AccountPage {
    pub(crate) fn from_wire(response: proto::ListAccountsResponse) -> Result<Self, Error> {
        let accounts = response.accounts.into_iter().map(Some);
        let usage = response.usage.into_iter().map(RecentUsage::from_wire);
        Ok(Self {
            accounts: accounts.map(Account::from_wire).collect::<Result<_, _>>()?,
            counted: response.counted,
            usage: usage.collect::<Result<_, _>>()?,
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
    fn free_account_cannot_have_a_subscription() {
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
    fn empty_subscription_is_absent() {
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
    fn unknown_billing_of_a_newer_server_is_not_free() {
        let account = Account::from_wire(Some(wire(None))).unwrap();
        assert_eq!(account.billing, Billing::Unrecognised);
        assert!(!account.is_free());
    }
}
