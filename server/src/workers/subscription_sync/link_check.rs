//! Asks Stripe about a link: before it is stored, for a short time, and at each poll if something about it is open.

use tokio::time::timeout;

use super::{SubscriptionSync, sync::SyncError};
use crate::{
    domain::{
        account::Billing,
        account_id::AccountId,
        customer_watch::{Watch, unknown_customer},
        followed_subscriptions::FollowedSubscriptions,
        subscription::SubscriptionSnapshot,
    },
    error::{Error, Result},
    store::watched_customers::WatchedCustomer,
    stripe::list_subscriptions::Presence,
};

/// What Stripe said about a link.
#[derive(Debug, Default)]
pub(crate) struct CheckedLink {
    /// The live subscription that the account will be synced with, and its companions.
    pub(crate) live: Option<FollowedSubscriptions>,
    /// Why the customer is read by itself from now on, if it is.
    pub(crate) watch: Option<Watch>,
}

impl CheckedLink {
    /// Stripe was not asked.
    pub(crate) const UNVERIFIED: Self = Self {
        live: None,
        watch: Some(Watch::Unverified),
    };
}

impl SubscriptionSync {
    /// Asks Stripe whether an account can be linked so. Without an answer in time, the link is unverified.
    ///
    /// # Errors
    /// Stripe does not know the customer or the subscription, or the database does not respond.
    pub(crate) async fn check_link(
        &self,
        account_id: &AccountId,
        billing: &Billing,
    ) -> Result<CheckedLink> {
        let Some(customer) = billing.customer() else {
            return Ok(CheckedLink::default());
        };
        match self.ask_about_link(account_id, billing, customer).await {
            // It was checked when it was made, and a repeated call changes nothing.
            Err(Error::Invalid(_)) if self.is_checked(account_id, billing, customer).await? => {
                Ok(CheckedLink::default())
            }
            checked => checked,
        }
    }

    /// Whether the account is linked so already, and nothing about the link was open.
    async fn is_checked(
        &self,
        account_id: &AccountId,
        billing: &Billing,
        customer: &str,
    ) -> Result<bool> {
        let linked = self.store.find_account(account_id).await?;
        let is_linked = linked.is_some_and(|linked| {
            let linked = linked.link.billing;
            linked.customer() == Some(customer) && linked.subscription() == billing.subscription()
        });
        let watch = self.store.customer_watch(customer).await?;
        Ok(is_linked && matches!(watch, None | Some(Watch::TestClock)))
    }

    async fn ask_about_link(
        &self,
        account_id: &AccountId,
        billing: &Billing,
        customer: &str,
    ) -> Result<CheckedLink> {
        let (presence, found) = tokio::join!(
            timeout(self.link_check_time, self.stripe.find_customer(customer)),
            timeout(
                self.link_check_time,
                self.look_up(account_id, billing, None)
            ),
        );
        let presence = match presence {
            Ok(Ok(Presence::NotFound)) => return Err(unknown_customer(customer, false).into()),
            Ok(Ok(Presence::Deleted)) => return Err(unknown_customer(customer, true).into()),
            Ok(Ok(presence)) => Some(presence),
            Ok(Err(failure)) => {
                tracing::warn!(
                    customer,
                    why = failure.message(),
                    "a customer to link could not be read from Stripe"
                );
                None
            }
            Err(_) => {
                tracing::warn!(
                    customer,
                    "Stripe did not answer in time about a customer to link"
                );
                None
            }
        };
        let found = match found {
            Ok(Ok(found)) => Some(found),
            Ok(Err(SyncError::Store(error))) => return Err(error),
            Ok(Err(error @ SyncError::Stripe(_))) => {
                tracing::warn!(customer, %error, "the subscriptions of a customer to link could not be read from Stripe");
                None
            }
            Err(_) => {
                tracing::warn!(
                    customer,
                    "Stripe did not answer in time about the subscriptions of a customer to link"
                );
                None
            }
        };
        if let Some(found) = &found {
            found.named.check()?;
        }
        let watch = match (presence, &found) {
            (Some(presence), Some(found)) => watch(presence, found.problem()),
            _ => Some(Watch::Unverified),
        };
        let is_live = |followed: &FollowedSubscriptions| {
            let chosen = followed.chosen.as_ref();
            chosen.is_some_and(SubscriptionSnapshot::is_live)
        };
        Ok(CheckedLink {
            live: found.map(|found| found.followed).filter(is_live),
            watch,
        })
    }

    /// Reads a customer that is read by itself, syncs its account, and records whether it still has to be.
    pub(super) async fn sync_watched(&self, row: &WatchedCustomer) -> Result<(), SyncError> {
        let WatchedCustomer {
            account_id,
            customer,
            ..
        } = row;
        let presence = self.stripe.find_customer(customer).await?;
        let watch = match presence {
            Presence::NotFound => Some(Watch::Problem(unknown_customer(customer, false).message)),
            Presence::Deleted => Some(Watch::Problem(unknown_customer(customer, true).message)),
            Presence::Exists { .. } => {
                let synced = self.sync_once(account_id, None).await?;
                let is_known = synced.problem.is_none() || synced.charges_since.is_some();
                if row.is_start_open && is_known {
                    let (slots, now) = (self.slots, self.store.now().await?);
                    self.store
                        .decide_link_start(account_id, customer, synced.charges_since, slots, now)
                        .await?;
                }
                watch(presence, synced.problem)
            }
        };
        if watch.as_ref() != Some(&row.watch) {
            tracing::info!(account = %account_id, customer, before = ?row.watch, after = ?watch, "a linked customer was checked at Stripe");
            self.store
                .watch_customer(account_id, customer, watch.as_ref())
                .await?;
        }
        Ok(())
    }
}

fn watch(presence: Presence, problem: Option<String>) -> Option<Watch> {
    match (problem, presence) {
        (Some(problem), _) => Some(Watch::Problem(problem)),
        (
            None,
            Presence::Exists {
                has_test_clock: true,
            },
        ) => Some(Watch::TestClock),
        _ => None,
    }
}
