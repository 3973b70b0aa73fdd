//! Webhook endpoints, their queue of deliveries, and the signature of a delivery. `webhook_sender` sends the queue.

use std::collections::VecDeque;
use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::control_types::billing::{DeliverySnapshot, NewWebhook, WebhookOptions};

/// Beyond this number the oldest deliveries are dropped.
const MAX_DELIVERIES: usize = 10_000;

/// The webhook endpoints and their deliveries.
#[derive(Debug, Default)]
pub(crate) struct Webhooks {
    pub(crate) endpoints: Vec<NewWebhook>,
    pub(crate) options: WebhookOptions,
    /// Deliveries withheld until they are requested.
    withheld: VecDeque<Delivery>,
    /// Deliveries to send now.
    queue: VecDeque<Delivery>,
    /// Finished deliveries, oldest first.
    pub(crate) deliveries: VecDeque<DeliverySnapshot>,
    /// The number of deliveries that receivers accepted.
    pub(crate) accepted: usize,
}

/// One event to send to one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) url: String,
    pub(crate) secrets: Vec<String>,
    pub(crate) body: String,
    event: String,
    kind: String,
}

impl Webhooks {
    /// Queues an event for every endpoint that subscribed to its type.
    pub(crate) fn enqueue(&mut self, event: &str, kind: &str, body: &str) {
        for endpoint in &self.endpoints {
            let matches = |pattern: &String| match pattern.strip_suffix('*') {
                Some(prefix) => kind.starts_with(prefix),
                None => pattern == kind,
            };
            if !endpoint.kinds.is_empty() && !endpoint.kinds.iter().any(matches) {
                continue;
            }
            let delivery = Delivery {
                url: endpoint.url.clone(),
                secrets: endpoint.secrets.clone(),
                event: event.to_owned(),
                kind: kind.to_owned(),
                body: body.to_owned(),
            };
            let queue = if self.options.on_demand {
                &mut self.withheld
            } else {
                &mut self.queue
            };
            for _ in 0..self.options.copies {
                queue.push_back(delivery.clone());
            }
        }
    }

    /// Queues the withheld deliveries and returns how many there were.
    pub(crate) fn queue_withheld(&mut self) -> usize {
        let count = self.withheld.len();
        self.queue.append(&mut self.withheld);
        count
    }

    /// Whether a delivery is to be sent now.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes the next delivery to send.
    pub(crate) fn take(&mut self) -> Option<Delivery> {
        if self.options.newest_first {
            self.queue.pop_back()
        } else {
            self.queue.pop_front()
        }
    }

    /// Records a finished delivery with the status of its last attempt.
    pub(crate) fn record_delivery(
        &mut self,
        delivery: Delivery,
        attempts: u32,
        status: Option<u16>,
    ) {
        let snapshot = DeliverySnapshot {
            url: delivery.url,
            event: delivery.event,
            kind: delivery.kind,
            attempts,
            status,
        };
        if snapshot.is_accepted() {
            self.accepted = self.accepted.saturating_add(1);
        }
        if self.deliveries.len() >= MAX_DELIVERIES {
            self.deliveries.pop_front();
        }
        self.deliveries.push_back(snapshot);
    }
}

/// The `Stripe-Signature` header: the time in seconds, and for each secret the HMAC-SHA256 of the time, a dot and the
/// body.
pub fn webhook_signature<S: AsRef<str>>(secrets: &[S], time: i64, body: &str) -> String {
    let mut header = format!("t={time}");
    for secret in secrets {
        // HMAC accepts a key of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_ref().as_bytes()) else {
            continue;
        };
        mac.update(format!("{time}.{body}").as_bytes());
        header.push_str(",v1=");
        for byte in mac.finalize().into_bytes() {
            // Writing to a String cannot fail.
            let _ = write!(header, "{byte:02x}");
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_published_scheme() {
        let secrets = ["whsec_one".to_owned(), "whsec_two".to_owned()];
        // Computed with the hmac module of Python.
        assert_eq!(
            webhook_signature(&secrets, 1_700_000_000, "{}"),
            "t=1700000000,v1=e6f424c1ebf2679ddb75df801d64b07e5063e2d7d6834ab73f5c55d787278d9d,v1=7188126e292daca991f04e6d27bcc33705bef535a4a6c4687864d1c7315003b0"
        );
        assert_eq!(webhook_signature::<String>(&[], 1, "{}"), "t=1");
    }

    #[test]
    fn events_reach_the_endpoints_that_listen_to_them() {
        let mut webhooks = Webhooks::default();
        for kinds in [
            vec![],
            vec!["invoice.*".to_owned()],
            vec!["customer.deleted".to_owned()],
        ] {
            webhooks.endpoints.push(NewWebhook {
                url: format!("http://{}", kinds.len()),
                secrets: Vec::new(),
                kinds,
            });
        }
        webhooks.enqueue("evt_1", "invoice.created", "{}");
        assert_eq!(webhooks.queue.len(), 2);
        webhooks.options.on_demand = true;
        webhooks.options.copies = 2;
        webhooks.enqueue("evt_2", "customer.deleted", "{}");
        assert_eq!((webhooks.queue.len(), webhooks.withheld.len()), (2, 4));
        assert_eq!(webhooks.queue_withheld(), 4);
        webhooks.options.newest_first = true;
        assert_eq!(webhooks.take().unwrap().event, "evt_2");
    }
}
