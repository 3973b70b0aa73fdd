//! Shadow mode: the comparison with what another integration gave Stripe, and the moment of the switch-over.

use crate::{Error, proto, wire};
use chrono::{DateTime, Utc};

/// A question for the days on which what was counted is compared with Stripe's totals.
///
/// ```
/// use usage_client::CompareShadow;
///
/// let differing = CompareShadow::new().only_differences();
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct CompareShadow {
    from: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    stripe_customer: String,
    only_differences: bool,
    page_size: u32,
    page_token: String,
}

impl CompareShadow {
    /// The last seven days of all customers.
    pub fn new() -> Self {
        Self::default()
    }

    /// From the UTC day that contains this time.
    pub fn from(mut self, from: DateTime<Utc>) -> Self {
        self.from = Some(from);
        self
    }

    /// Until the UTC day that contains the moment before this time.
    pub fn until(mut self, until: DateTime<Utc>) -> Self {
        self.until = Some(until);
        self
    }

    /// Only this Stripe customer.
    pub fn stripe_customer(mut self, customer: impl Into<String>) -> Self {
        self.stripe_customer = customer.into();
        self
    }

    /// Only days that are not equal.
    pub fn only_differences(mut self) -> Self {
        self.only_differences = true;
        self
    }

    /// The maximum number of customers on a page: 20 if it is not set, 100 at most.
    pub fn page_size(mut self, customers: u32) -> Self {
        self.page_size = customers;
        self
    }

    /// The page after the one with this token.
    pub fn page_token(mut self, token: impl Into<String>) -> Self {
        self.page_token = token.into();
        self
    }

    pub(crate) fn into_wire(self) -> Result<proto::CompareShadowRequest, Error> {
        Ok(proto::CompareShadowRequest {
            from: wire::optional_time_to_wire(self.from, "from")?,
            until: wire::optional_time_to_wire(self.until, "until")?,
            stripe_customer: self.stripe_customer,
            only_differences: self.only_differences,
            page_size: wire::page_size_to_wire(self.page_size),
            page_token: self.page_token,
        })
    }
}

/// What the comparison of a day found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShadowFinding {
    /// Both have the same sum.
    Equal,
    /// Both have usage, and the sums differ.
    Differs,
    /// Stripe has nothing.
    OnlyHere,
    /// Nothing was counted here.
    OnlyAtStripe,
    /// Stripe's total could not be read.
    Unreadable,
    /// A finding that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl std::fmt::Display for ShadowFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Equal => "equal",
            Self::Differs => "differs",
            Self::OnlyHere => "only here",
            Self::OnlyAtStripe => "only at Stripe",
            Self::Unreadable => "unreadable",
            Self::Unrecognised(number) => return write!(f, "unknown ({number})"),
        })
    }
}

impl ShadowFinding {
    fn from_wire(number: i32) -> Self {
        use proto::ShadowFinding as Wire;
        match Wire::try_from(number) {
            Ok(Wire::Equal) => Self::Equal,
            Ok(Wire::Differs) => Self::Differs,
            Ok(Wire::OnlyHere) => Self::OnlyHere,
            Ok(Wire::OnlyAtStripe) => Self::OnlyAtStripe,
            Ok(Wire::Unreadable) => Self::Unreadable,
            Ok(Wire::Unspecified) | Err(_) => Self::Unrecognised(number),
        }
    }
}

/// The usage of a Stripe customer, a meter and a day of UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShadowDay {
    /// The customer, `cus_...`.
    pub stripe_customer: String,
    /// The meter.
    pub meter: String,
    /// The first moment of the day.
    pub day: DateTime<Utc>,
    /// What was counted here for the customer, by the links of its accounts. It includes usage of a trial, and of a time that
    /// no subscription charges: the sender would not send these.
    pub counted: i64,
    /// Stripe's total, or why it could not be read.
    pub stripe_total: Result<i64, String>,
    /// What both figures show.
    pub finding: ShadowFinding,
    /// Whether the day is not over, or has ended less than an hour ago.
    pub preliminary: bool,
    /// The accounts whose usage was counted.
    pub account_ids: Vec<String>,
    /// Whether no account was ever linked to the customer, so that nothing can be counted for it.
    pub unlinked: bool,
}

/// A page of compared days.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShadowPage {
    /// By customer, meter and day.
    pub days: Vec<ShadowDay>,
    /// For the next page; none on the last one, and on one whose customers could not be listed (`unlinked_error`): what is after
    /// them was not compared. The same question, with the token of this page, goes on from there.
    pub next_page_token: Option<String>,
    /// The first moment of the first day that was compared.
    pub from: DateTime<Utc>,
    /// The end of the last one.
    pub until: DateTime<Utc>,
    /// Whether another integration bills now.
    pub shadow: bool,
    /// From when on the service bills; none if no moment was named, or none is needed.
    pub bill_from: Option<DateTime<Utc>>,
    /// Why not all customers of this page that no account is linked to are shown: they could not be listed, or a subscription
    /// could not be read. None if nothing is missing, or if it was not their turn. Each page says it of its own.
    pub unlinked_error: Option<String>,
}

impl ShadowPage {
    pub(crate) fn from_wire(response: proto::CompareShadowResponse) -> Result<Self, Error> {
        let days = response.days.into_iter().map(|day| {
            let stripe_total = day.stripe_total.ok_or(day.stripe_error);
            Ok(ShadowDay {
                stripe_customer: day.stripe_customer,
                meter: day.meter,
                day: wire::required_time(day.day, "days.day")?,
                counted: day.counted,
                stripe_total,
                finding: ShadowFinding::from_wire(day.finding),
                preliminary: day.preliminary,
                account_ids: day.account_ids,
                unlinked: day.unlinked,
            })
        });
        let token = response.next_page_token;
        Ok(Self {
            days: days.collect::<Result<_, Error>>()?,
            next_page_token: (!token.is_empty()).then_some(token),
            from: wire::required_time(response.from, "from")?,
            until: wire::required_time(response.until, "until")?,
            shadow: response.shadow,
            bill_from: wire::optional_time(response.bill_from, "bill_from")?,
            unlinked_error: (!response.unlinked_error.is_empty())
                .then_some(response.unlinked_error),
        })
    }
}

/// The moment from which on the service bills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BillingSwitch {
    /// The moment.
    pub bill_from: DateTime<Utc>,
    /// The one that was named before.
    pub former_bill_from: Option<DateTime<Utc>>,
}

impl BillingSwitch {
    pub(crate) fn from_wire(response: proto::SwitchBillingResponse) -> Result<Self, Error> {
        let former = response.former_bill_from;
        Ok(Self {
            bill_from: wire::required_time(response.bill_from, "bill_from")?,
            former_bill_from: wire::optional_time(former, "former_bill_from")?,
        })
    }
}
