//! The billing part of the control client: catalog, subscriptions, invoices and webhooks.

use std::time::Duration;

use reqwest::Method;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::client::{Control, ControlError, ignore_body};
use crate::control_types::billing::{
    BillingChange, Count, DeliverySnapshot, DiscardedUsage, InvoiceSnapshot, NewPrice,
    NewSubscription, NewThinEvent, NewWebhook, SubscriptionSnapshot, WebhookOptions,
};

/// The age of the subscription of a customer that is created with one.
const TWO_MONTHS_SECS: i64 = 60 * 24 * 3_600;

impl Control {
    /// Creates a customer with a subscription, `sub_{id}`, that charges every active meter 1 cent a unit: by the year,
    /// since two months ago.
    pub async fn create_subscribed_customer(&self, id: &str) -> Result<(), ControlError> {
        self.create_customer(id).await?;
        self.subscribe_to_all_meters(id, &format!("sub_{id}")).await
    }

    /// Creates such a subscription of a customer under its id.
    pub async fn subscribe_to_all_meters(
        &self,
        customer: &str,
        id: &str,
    ) -> Result<(), ControlError> {
        let meters = self.meters().await?;
        let mut prices = Vec::new();
        for meter in meters.iter().filter(|meter| meter.active) {
            let price = NewPrice {
                interval: "year".to_owned(),
                ..NewPrice::volume(
                    &format!("price_{id}_{}", meter.id),
                    "prod_yearly",
                    &meter.id,
                    &[(None, "1")],
                )
            };
            self.create_price(&price).await?;
            prices.push(price.id);
        }
        let now = self.clock().await?.now_ms.div_euclid(1_000);
        let new = NewSubscription {
            id: id.to_owned(),
            customer: customer.to_owned(),
            prices,
            anchor: Some(now.saturating_sub(TWO_MONTHS_SECS)),
            ..NewSubscription::default()
        };
        self.post("subscriptions", &new).await.map(ignore_body)
    }

    /// Creates a price under its id, and its product where it does not exist.
    pub async fn create_price(&self, new: &NewPrice) -> Result<(), ControlError> {
        self.post("prices", new).await.map(ignore_body)
    }

    /// Creates a subscription under its id.
    pub async fn create_subscription(
        &self,
        new: &NewSubscription,
    ) -> Result<SubscriptionSnapshot, ControlError> {
        self.post("subscriptions", new).await
    }

    /// The subscriptions, newest first, the canceled ones too.
    pub async fn subscriptions(&self) -> Result<Vec<SubscriptionSnapshot>, ControlError> {
        self.get("subscriptions").await
    }

    /// The invoices, oldest first.
    pub async fn invoices(&self) -> Result<Vec<InvoiceSnapshot>, ControlError> {
        self.get("invoices").await
    }

    /// The usage that will never be billed.
    pub async fn discarded_usage(&self) -> Result<Vec<DiscardedUsage>, ControlError> {
        self.get("discarded_usage").await
    }

    /// Sets how long invoices created from now on stay drafts.
    pub async fn set_grace(&self, grace: Duration) -> Result<(), ControlError> {
        let change = BillingChange {
            grace_secs: Some(grace.as_secs()),
            ..BillingChange::default()
        };
        self.post("billing", &change).await.map(ignore_body)
    }

    /// Sets whether invoices that become final from now on lack usage that is not in summaries yet.
    pub async fn set_invoices_lag(&self, lag: bool) -> Result<(), ControlError> {
        let change = BillingChange {
            invoices_lag: Some(lag),
            ..BillingChange::default()
        };
        self.post("billing", &change).await.map(ignore_body)
    }

    /// Sets whether the lines of all invoices are shown without a quantity.
    pub async fn set_hide_quantities(&self, hide: bool) -> Result<(), ControlError> {
        let change = BillingChange {
            hide_quantities: Some(hide),
            ..BillingChange::default()
        };
        self.post("billing", &change).await.map(ignore_body)
    }

    /// Sends every event from now on to this URL, signed with this secret.
    pub async fn register_webhook(&self, url: &str, secret: &str) -> Result<(), ControlError> {
        self.register_webhook_for(url, &[secret], &[]).await
    }

    /// The same with several secrets, all of which sign, and only for these types of events; for all where there is
    /// none. Replaces what was registered for the URL.
    pub async fn register_webhook_for(
        &self,
        url: &str,
        secrets: &[&str],
        kinds: &[&str],
    ) -> Result<(), ControlError> {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let new = NewWebhook {
            url: url.to_owned(),
            secrets: own(secrets),
            kinds: own(kinds),
        };
        self.post("webhooks", &new).await.map(ignore_body)
    }

    /// Removes all webhook endpoints.
    pub async fn remove_webhooks(&self) -> Result<(), ControlError> {
        self.call::<IgnoredAny>(Method::DELETE, "webhooks", None::<&()>)
            .await
            .map(ignore_body)
    }

    /// Sets how webhooks are delivered from now on.
    pub async fn set_webhook_options(&self, options: &WebhookOptions) -> Result<(), ControlError> {
        self.post("webhooks/options", options)
            .await
            .map(ignore_body)
    }

    /// Sends the withheld deliveries and returns how many there are.
    pub async fn deliver_webhooks(&self) -> Result<usize, ControlError> {
        let count: Count = self.post("webhooks/deliver", &()).await?;
        Ok(count.count)
    }

    /// Delivers a snapshot event once more.
    pub async fn redeliver_webhook(&self, event: &str) -> Result<(), ControlError> {
        self.post(&format!("webhooks/redeliver/{event}"), &())
            .await
            .map(ignore_body)
    }

    /// The last ten thousand deliveries, oldest first.
    pub async fn webhook_deliveries(&self) -> Result<Vec<DeliverySnapshot>, ControlError> {
        self.get("webhooks/deliveries").await
    }

    /// Waits until receivers have accepted `n` deliveries since the start.
    pub async fn wait_for_webhooks(&self, n: usize, timeout: Duration) -> Result<(), ControlError> {
        let timeout_ms = timeout.as_millis();
        let count: Count = self
            .get(&format!(
                "webhooks/wait?accepted={n}&timeout_ms={timeout_ms}"
            ))
            .await?;
        if count.count >= n {
            return Ok(());
        }
        Err(ControlError::TimedOut {
            waited: timeout,
            condition: format!("{n} webhooks, of which {} were accepted", count.count),
            events: 0,
            requests: 0,
            blocked: 0,
        })
    }

    /// Sends the thin event by which Stripe reports errors of a meter's events, and returns its body.
    pub async fn send_error_report(&self, meter: &str) -> Result<Value, ControlError> {
        let new = NewThinEvent {
            kind: "v1.billing.meter.error_report_triggered".to_owned(),
            meter: Some(meter.to_owned()),
        };
        self.post("thin_events", &new).await
    }

    /// Sends the thin event by which Stripe reports events that no meter was found for, and returns its body.
    pub async fn send_no_meter_found(&self) -> Result<Value, ControlError> {
        let new = NewThinEvent {
            kind: "v1.billing.meter.no_meter_found".to_owned(),
            meter: None,
        };
        self.post("thin_events", &new).await
    }
}
