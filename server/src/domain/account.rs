//! Accounts: the customer that usage is billed to, and the history of links that decides it.

use super::{
    Millis,
    account_id::AccountId,
    violation::{Violation, quoted},
    window::Interval,
};
use crate::planted_defects::{Defect, planted};

/// The longest Stripe id, in characters.
pub const MAX_STRIPE_ID_CHARS: usize = 255;

/// The billing of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Billing {
    /// Billed to a Stripe customer, through a subscription if it is known.
    Stripe {
        /// `cus_...`
        customer: String,
        /// `sub_...`
        subscription: Option<String>,
    },
    /// The customer's subscription ended. A new subscription bills to the customer again.
    Ended {
        /// `cus_...`
        customer: String,
        /// The subscription that ended, `sub_...`
        subscription: Option<String>,
        /// Whether the end was requested here: then usage after it is not billable. Else it was found at Stripe, and the
        /// usage is the customer's, which nothing charges.
        is_requested: bool,
    },
    /// Counted and shown, never billed.
    Free,
}

impl Billing {
    /// The Stripe customer that belongs to the account, if there is one.
    pub fn customer(&self) -> Option<&str> {
        match self {
            Self::Stripe { customer, .. } | Self::Ended { customer, .. } => Some(customer),
            Self::Free => None,
        }
    }

    /// The subscription that is synced, if it is known.
    pub fn subscription(&self) -> Option<&str> {
        match self {
            Self::Stripe { subscription, .. } | Self::Ended { subscription, .. } => {
                subscription.as_deref()
            }
            Self::Free => None,
        }
    }
}

/// The billing of an account from a time on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The number of the link within its account. Where several links apply, the one with the highest version is in
    /// force.
    pub version: i64,
    /// The time from which it applies.
    pub valid_from: Millis,
    /// The billing.
    pub billing: Billing,
    /// When it was recorded.
    pub recorded_at: Millis,
    /// Usage before this time is billed by another integration, whatever the link. It is the same for all links, see
    /// [`BillingStart`](super::billing_start::BillingStart).
    pub elsewhere_until: Millis,
}

/// An account as it is now.
#[derive(Clone, Debug)]
pub struct Account {
    /// The caller's own id.
    pub id: AccountId,
    /// The link in force.
    pub link: Link,
    /// The latest known billing period of the link.
    pub current_period: Option<Interval>,
}

impl Account {
    /// Changes whenever the account does.
    pub fn etag(&self) -> String {
        let period = self.current_period.unwrap_or(Interval { start: 0, end: 0 });
        format!("{}.{:x}.{:x}", self.link.version, period.start, period.end)
    }
}

/// The customer that the usage of a window is billed to, according to the links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BillingTarget {
    /// The account has no link yet: its reports wait.
    NoCustomer,
    /// Free, from before the account's first link, or after an end that was requested here.
    NotBillable,
    /// Billed to this Stripe customer.
    Billed(String),
    /// Billed to this Stripe customer by another integration: it is shown as what would be sent.
    Elsewhere(String),
}

impl BillingTarget {
    /// The Stripe customer, if it is billed to one.
    pub fn customer(&self) -> Option<&str> {
        match self {
            Self::Billed(customer) | Self::Elsewhere(customer) => Some(customer),
            Self::NoCustomer | Self::NotBillable => None,
        }
    }
}

/// The customer that usage at a time is billed to, according to the link in force at that time.
///
/// For a report, pass the time of its first increment. Usually the result is the same as for its window's start,
/// because no boundary lies in between. If a boundary became known late, usage that is entirely after it is still
/// billed as after it.
pub fn billing_target_at(links: &[Link], at: Millis) -> BillingTarget {
    let in_force = in_force_at(links, at);
    let is_elsewhere = in_force.is_some_and(|link| at < link.elsewhere_until);
    match in_force.map(|link| &link.billing) {
        Some(
            Billing::Stripe { customer, .. }
            | Billing::Ended {
                customer,
                is_requested: false,
                ..
            },
        ) if is_elsewhere => BillingTarget::Elsewhere(customer.clone()),
        Some(
            Billing::Stripe { customer, .. }
            | Billing::Ended {
                customer,
                is_requested: false,
                ..
            },
        ) => BillingTarget::Billed(customer.clone()),
        None if links.is_empty() => BillingTarget::NoCustomer,
        Some(Billing::Free | Billing::Ended { .. }) | None => BillingTarget::NotBillable,
    }
}

fn in_force_at(links: &[Link], at: Millis) -> Option<&Link> {
    if planted(Defect::BilledBeforeLink) {
        return links.iter().max_by_key(|link| link.version);
    }
    if planted(Defect::LinkEndIgnored) {
        return links.iter().find(|link| link.valid_from <= at);
    }
    links
        .iter()
        .filter(|link| link.valid_from <= at)
        .max_by_key(|link| link.version)
}

/// The time from which a new link to `customer` bills.
///
/// `bill_from` if given, else the start of the current period if it is known, else `now`. The link may cover earlier
/// time without a link or billed to the same customer, and time that was free only if `bill_from` says so. It never
/// covers time that is billed to another customer, nor time before `taken_until`, when the customer belonged to another
/// account.
///
/// # Errors
/// `bill_from` is in the future, or in time that is billed to another customer.
pub fn link_start(
    links: &[Link],
    customer: &str,
    taken_until: Millis,
    bill_from: Option<Millis>,
    period_start: Option<Millis>,
    now: Millis,
) -> Result<Millis, Violation> {
    let earliest = billed_until(links, now, |other| other != customer).max(taken_until);
    match bill_from {
        Some(from) if from > now => Err(Violation::invalid(
            "stripe.bill_from",
            format!(
                "bill_from {} is later than the server's clock {}; leave it out to bill from now",
                super::period::rfc3339(from),
                super::period::rfc3339(now)
            ),
        )),
        Some(from) if from < earliest => Err(Violation::invalid(
            "stripe.bill_from",
            format!(
                "bill_from {} reaches into time that another customer is billed for, which ends at {}",
                super::period::rfc3339(from),
                super::period::rfc3339(earliest)
            ),
        )),
        Some(from) => Ok(from),
        None => {
            let from = period_start.filter(|start| *start <= now).unwrap_or(now);
            Ok(from.max(earliest).max(free_until(links, now)))
        }
    }
}

/// The end of the last time up to `now` that the links bill to a matching customer; `Millis::MIN` if there is none. After
/// the customer's subscription ended, nothing is billed to it, so another link may cover that time.
pub fn billed_until(links: &[Link], now: Millis, is_such: impl Fn(&str) -> bool) -> Millis {
    let is_billed = |at| match in_force_at(links, at).map(|link| &link.billing) {
        Some(Billing::Stripe { customer, .. }) => is_such(customer),
        Some(Billing::Free | Billing::Ended { .. }) | None => false,
    };
    end_of_last(links, now, is_billed)
}

/// The time from which an account is free that is made free now: where its subscription was found to have ended at Stripe,
/// since that end, because the usage since then was to be billed to no customer.
pub fn free_since(links: &[Link], now: Millis) -> Millis {
    let latest = links.iter().max_by_key(|link| link.version);
    latest
        .filter(|link| {
            matches!(
                link.billing,
                Billing::Ended {
                    is_requested: false,
                    ..
                }
            )
        })
        .map_or(now, |link| link.valid_from.min(now))
}

/// The end of the last time up to `now` that the account was made free; `Millis::MIN` if there is none.
fn free_until(links: &[Link], now: Millis) -> Millis {
    let is_free =
        |at| in_force_at(links, at).is_some_and(|link| matches!(link.billing, Billing::Free));
    end_of_last(links, now, is_free)
}

/// The end of the last time up to `now` between two starts of links for which a condition holds at its beginning.
fn end_of_last(links: &[Link], now: Millis, holds_at: impl Fn(Millis) -> bool) -> Millis {
    let mut changes: Vec<Millis> = links
        .iter()
        .map(|link| link.valid_from)
        .filter(|at| *at <= now)
        .collect();
    changes.push(now);
    changes.sort_unstable();
    changes
        .windows(2)
        .filter_map(|pair| match pair {
            [start, end] if holds_at(*start) => Some(*end),
            _ => None,
        })
        .max()
        .unwrap_or(Millis::MIN)
}

/// The time before the account had any link, if its latest link is its earliest. Usage from then waited for a link, and
/// is not billed, although it was never made free.
pub fn not_billed_before(links: &[Link]) -> Option<Millis> {
    let latest = links.iter().max_by_key(|link| link.version)?;
    let is_first = links
        .iter()
        .all(|link| latest.valid_from <= link.valid_from);
    is_first.then_some(latest.valid_from)
}

/// Checks a Stripe id: 1 to 255 visible ASCII characters.
pub fn check_stripe_id(field: &str, id: &str) -> Result<(), Violation> {
    if (1..=MAX_STRIPE_ID_CHARS).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Ok(());
    }
    Err(Violation::invalid(
        field,
        format!(
            "{field} {} ({} bytes) must be 1 to {MAX_STRIPE_ID_CHARS} visible ASCII characters",
            quoted(id),
            id.len()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(version: i64, valid_from: Millis, customer: Option<&str>) -> Link {
        Link {
            version,
            valid_from,
            billing: customer.map_or(Billing::Free, |customer| Billing::Stripe {
                customer: customer.to_owned(),
                subscription: None,
            }),
            recorded_at: valid_from,
            elsewhere_until: Millis::MIN,
        }
    }

    #[test]
    fn usage_before_the_moment_is_billed_by_another_integration() {
        let until = |elsewhere_until| {
            let links = [link(1, 100, Some("cus_a")), link(2, 200, None)];
            links.map(|link| Link {
                elsewhere_until,
                ..link
            })
        };
        let elsewhere = BillingTarget::Elsewhere("cus_a".to_owned());
        let billed = BillingTarget::Billed("cus_a".to_owned());
        let links = until(150);
        assert_eq!(billing_target_at(&links, 99), BillingTarget::NotBillable);
        assert_eq!(billing_target_at(&links, 149), elsewhere);
        assert_eq!(billing_target_at(&links, 150), billed);
        assert_eq!(billing_target_at(&links, 200), BillingTarget::NotBillable);
        let links = until(Millis::MAX);
        assert_eq!(billing_target_at(&links, 199), elsewhere);
        assert_eq!(billing_target_at(&links, 200), BillingTarget::NotBillable);
    }

    #[test]
    fn a_window_belongs_to_the_link_in_force_at_its_start() {
        let links = [
            link(1, 100, Some("cus_a")),
            link(2, 200, None),
            link(3, 300, Some("cus_b")),
        ];
        let billed = |customer: &str| BillingTarget::Billed(customer.to_owned());
        assert_eq!(billing_target_at(&links, 99), BillingTarget::NotBillable);
        assert_eq!(billing_target_at(&links, 100), billed("cus_a"));
        assert_eq!(billing_target_at(&links, 200), BillingTarget::NotBillable);
        assert_eq!(billing_target_at(&links, 999), billed("cus_b"));
        assert_eq!(billing_target_at(&[], 999), BillingTarget::NoCustomer);
    }

    #[test]
    fn the_cause_of_an_end_decides_on_usage_after_it() {
        let ended = |is_requested| Link {
            billing: Billing::Ended {
                customer: "cus_a".to_owned(),
                subscription: None,
                is_requested,
            },
            ..link(2, 200, None)
        };
        let links = |is_requested| [link(1, 100, Some("cus_a")), ended(is_requested)];
        let billed = BillingTarget::Billed("cus_a".to_owned());
        assert_eq!(billing_target_at(&links(false), 250), billed);
        assert_eq!(
            billing_target_at(&links(true), 250),
            BillingTarget::NotBillable
        );
        for is_requested in [false, true] {
            let links = links(is_requested);
            assert_eq!(billing_target_at(&links, 150), billed);
            let from = |at| link_start(&links, "cus_b", Millis::MIN, Some(at), None, 500);
            assert_eq!(from(200), Ok(200), "nothing is billed since the end");
            assert!(from(199).is_err());
        }
        assert_eq!(free_since(&links(false), 500), 200);
        assert_eq!(free_since(&links(true), 500), 500);
        assert_eq!(free_since(&links(false)[..1], 500), 500);
        assert_eq!(free_since(&[], 500), 500);
    }

    #[test]
    fn a_backdated_link_takes_precedence_over_earlier_links() {
        let links = [link(1, 200, None), link(2, 100, Some("cus_a"))];
        assert_eq!(
            billing_target_at(&links, 250),
            BillingTarget::Billed("cus_a".to_owned())
        );
    }

    #[test]
    fn a_link_bills_from_its_known_period_but_never_time_of_another_customer() {
        let from = |links: &[Link], bill_from, period_start| {
            link_start(links, "cus_b", Millis::MIN, bill_from, period_start, 500)
        };
        assert_eq!(from(&[], None, None), Ok(500));
        let taken = |bill_from| link_start(&[], "cus_b", 400, bill_from, Some(300), 500);
        assert_eq!(taken(None), Ok(400), "another account's time ends at 400");
        assert!(taken(Some(399)).is_err());
        assert_eq!(from(&[], None, Some(300)), Ok(300));
        assert_eq!(from(&[], Some(100), Some(300)), Ok(100));
        let free = [link(1, 0, None)];
        assert_eq!(from(&free, None, Some(300)), Ok(500));
        assert_eq!(from(&free, Some(300), None), Ok(300), "it was said so");
        let billed = [link(1, 0, Some("cus_a"))];
        assert_eq!(from(&billed, None, Some(300)), Ok(500));
        assert!(from(&billed, Some(499), None).is_err());
        let freed = [link(1, 0, Some("cus_a")), link(2, 400, None)];
        assert_eq!(
            from(&freed, None, Some(300)),
            Ok(500),
            "it is free until now"
        );
        assert!(from(&freed, Some(399), None).is_err());
        let own = [link(1, 0, Some("cus_b")), link(2, 350, None)];
        assert_eq!(from(&own, None, Some(300)), Ok(500), "it was made free");
        let again = [own[0].clone(), own[1].clone(), link(3, 450, Some("cus_b"))];
        assert_eq!(from(&again, None, Some(300)), Ok(450), "free until 450");
        let own = [link(1, 400, Some("cus_b"))];
        assert_eq!(
            from(&own, Some(100), None),
            Ok(100),
            "its own customer may be billed from earlier"
        );
        assert!(
            from(&[], Some(501), None).is_err(),
            "a link starts now at the latest"
        );
    }

    #[test]
    fn only_the_first_link_leaves_usage_before_it_unbilled() {
        assert_eq!(not_billed_before(&[]), None);
        let first = link(1, 300, Some("cus_a"));
        assert_eq!(not_billed_before(std::slice::from_ref(&first)), Some(300));
        let later = [first.clone(), link(2, 400, None)];
        assert_eq!(not_billed_before(&later), None);
        let earlier = [first, link(2, 100, Some("cus_a"))];
        assert_eq!(not_billed_before(&earlier), Some(100));
    }
}
