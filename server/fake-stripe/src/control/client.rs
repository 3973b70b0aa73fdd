//! The client of the control endpoints: tests use it to set up a fake Stripe, script its faults and inspect it.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::{Client, Method};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::clock::millis;
use crate::control_types::{
    BlockState, ClockChange, ClockState, CustomerSnapshot, LoggedRequest, MeterName, MeterSnapshot,
    NewCustomer, NewMeter, SettingsChange, Stats, StoredEvent, TotalSnapshot, Wait, Waited,
};
use crate::fault::Fault;

/// Why a control call failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The request failed, or its response could not be decoded.
    #[error("the fake Stripe did not answer: {0}")]
    Unreachable(#[from] reqwest::Error),
    /// The fake Stripe rejected the request.
    #[error("the fake Stripe answered with status {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The body of the answer.
        message: String,
    },
    /// A wait timed out.
    #[error(
        "timed out after {waited:?} waiting for {condition}; there were {events} events, {requests} requests and {blocked} blocked calls"
    )]
    TimedOut {
        /// The timeout.
        waited: Duration,
        /// The condition that was not reached.
        condition: String,
        /// Stored meter events at the timeout.
        events: usize,
        /// Requests received at the timeout.
        requests: u64,
        /// Requests blocked at the timeout, by the named block.
        blocked: usize,
    },
}

/// A client of a fake Stripe's control endpoints, in this process or in another.
#[derive(Debug, Clone)]
pub struct Control {
    base_url: String,
    client: Client,
}

impl Control {
    /// A client of the fake Stripe at this base URL, such as `http://127.0.0.1:12111`.
    pub fn new(base_url: &str) -> Control {
        // A proxy from the environment must not intercept requests to loopback.
        let client = Client::builder().no_proxy().build().unwrap_or_default();
        Control {
            base_url: base_url.trim_end_matches('/').to_owned(),
            client,
        }
    }

    /// Creates a customer under this id.
    pub async fn create_customer(&self, id: &str) -> Result<(), ControlError> {
        self.create_customer_of(id, None).await
    }

    /// Creates a customer of a test clock under this id: plain lists leave it and its subscriptions out. Its time is that
    /// of the fake Stripe all the same.
    pub async fn create_customer_of_test_clock(
        &self,
        id: &str,
        test_clock: &str,
    ) -> Result<(), ControlError> {
        self.create_customer_of(id, Some(test_clock.to_owned()))
            .await
    }

    async fn create_customer_of(
        &self,
        id: &str,
        test_clock: Option<String>,
    ) -> Result<(), ControlError> {
        let id = id.to_owned();
        self.post("customers", &NewCustomer { id, test_clock })
            .await
            .map(ignore_body)
    }

    /// Deletes a customer.
    pub async fn delete_customer(&self, id: &str) -> Result<(), ControlError> {
        self.call::<IgnoredAny>(Method::DELETE, &format!("customers/{id}"), None::<&()>)
            .await
            .map(ignore_body)
    }

    /// Creates a meter that sums the events of this name, and returns its id.
    pub async fn create_meter(&self, event_name: &str) -> Result<String, ControlError> {
        let new = NewMeter {
            event_name: event_name.to_owned(),
            ..NewMeter::default()
        };
        let meter: MeterSnapshot = self.post("meters", &new).await?;
        Ok(meter.id)
    }

    /// Creates a summing meter under a chosen id.
    pub async fn create_meter_with_id(
        &self,
        id: &str,
        event_name: &str,
    ) -> Result<(), ControlError> {
        let new = NewMeter {
            event_name: event_name.to_owned(),
            id: Some(id.to_owned()),
            ..NewMeter::default()
        };
        self.post("meters", &new).await.map(ignore_body)
    }

    /// Creates a summing meter of pre-aggregated events, by `day` or `hour`. It can be read, but takes no events.
    pub async fn create_windowed_meter(
        &self,
        event_name: &str,
        event_time_window: &str,
    ) -> Result<(), ControlError> {
        let new = NewMeter {
            event_name: event_name.to_owned(),
            event_time_window: Some(event_time_window.to_owned()),
            ..NewMeter::default()
        };
        self.post("meters", &new).await.map(ignore_body)
    }

    /// Deactivates the active meter of this event name.
    pub async fn deactivate_meter(&self, event_name: &str) -> Result<(), ControlError> {
        self.post(
            "meters/deactivate",
            &MeterName {
                event_name: event_name.to_owned(),
            },
        )
        .await
        .map(ignore_body)
    }

    /// Adds a fault behind those already scripted.
    pub async fn script(&self, fault: Fault) -> Result<(), ControlError> {
        self.post("faults", &fault).await.map(ignore_body)
    }

    /// Releases the requests that the named block blocks now, and lets later ones pass.
    pub async fn release(&self, name: &str) -> Result<(), ControlError> {
        self.post(
            "blocks/release",
            &BlockState {
                name: name.to_owned(),
                blocked: 0,
            },
        )
        .await
        .map(ignore_body)
    }

    /// Removes all faults and releases all blocked requests.
    pub async fn clear_faults(&self) -> Result<(), ControlError> {
        self.call::<IgnoredAny>(Method::DELETE, "faults", None::<&()>)
            .await
            .map(ignore_body)
    }

    /// The scripted faults that are not used up.
    pub async fn faults(&self) -> Result<Vec<Fault>, ControlError> {
        self.get("faults").await
    }

    /// Freezes the clock at a time in milliseconds since the Unix epoch.
    pub async fn set_clock(&self, millis: i64) -> Result<(), ControlError> {
        self.change_clock(ClockChange {
            set_ms: Some(millis),
            ..ClockChange::default()
        })
        .await
    }

    /// Advances the clock, frozen or running.
    pub async fn advance_clock(&self, by: Duration) -> Result<(), ControlError> {
        self.change_clock(ClockChange {
            advance_ms: Some(millis(by)),
            ..ClockChange::default()
        })
        .await
    }

    /// Uses the real clock again.
    pub async fn use_real_clock(&self) -> Result<(), ControlError> {
        self.change_clock(ClockChange {
            real_offset_ms: Some(0),
            ..ClockChange::default()
        })
        .await
    }

    /// Reads the clock.
    pub async fn clock(&self) -> Result<ClockState, ControlError> {
        self.get("clock").await
    }

    /// The customers that were ever created, newest first.
    pub async fn customers(&self) -> Result<Vec<CustomerSnapshot>, ControlError> {
        self.get("customers").await
    }

    /// The meters that were ever created, newest first.
    pub async fn meters(&self) -> Result<Vec<MeterSnapshot>, ControlError> {
        self.get("meters").await
    }

    /// The meter events that were accepted, in the order of their receipt.
    pub async fn events(&self) -> Result<Vec<StoredEvent>, ControlError> {
        self.get("events").await
    }

    /// The sum of values for each customer and event name, cancelled events left out.
    pub async fn totals(&self) -> Result<BTreeMap<(String, String), i64>, ControlError> {
        let totals: Vec<TotalSnapshot> = self.get("totals").await?;
        Ok(totals
            .into_iter()
            .map(|total| ((total.customer, total.event_name), total.total))
            .collect())
    }

    /// The last ten thousand requests below `/v1`, in order.
    pub async fn requests(&self) -> Result<Vec<LoggedRequest>, ControlError> {
        self.get("requests").await
    }

    /// Counters since the fake Stripe started.
    pub async fn stats(&self) -> Result<Stats, ControlError> {
        self.get("stats").await
    }

    /// Waits until `n` meter events are stored.
    pub async fn wait_for_events(&self, n: usize, timeout: Duration) -> Result<(), ControlError> {
        self.wait(
            Wait {
                events: Some(n),
                ..Wait::default()
            },
            timeout,
            &format!("{n} events"),
        )
        .await
    }

    /// Waits until `n` requests below `/v1` have arrived since the start, answered or not.
    pub async fn wait_for_requests(&self, n: usize, timeout: Duration) -> Result<(), ControlError> {
        let requests = u64::try_from(n).ok();
        self.wait(
            Wait {
                requests,
                ..Wait::default()
            },
            timeout,
            &format!("{n} requests"),
        )
        .await
    }

    /// Waits until `n` of the last ten thousand requests have a path with this prefix.
    pub async fn wait_for_requests_to(
        &self,
        path: &str,
        n: usize,
        timeout: Duration,
    ) -> Result<(), ControlError> {
        let wait = Wait {
            requests: u64::try_from(n).ok(),
            path: Some(path.to_owned()),
            ..Wait::default()
        };
        self.wait(wait, timeout, &format!("{n} requests to {path}"))
            .await
    }

    /// Waits until the named block blocks `n` requests.
    pub async fn wait_for_blocked(
        &self,
        name: &str,
        n: usize,
        timeout: Duration,
    ) -> Result<(), ControlError> {
        let wait = Wait {
            blocked: Some(n),
            block: Some(name.to_owned()),
            ..Wait::default()
        };
        self.wait(wait, timeout, &format!("{n} calls blocked by {name}"))
            .await
    }

    /// Sets how long after its receipt an event appears in summaries.
    pub async fn set_summary_delay(&self, delay: Duration) -> Result<(), ControlError> {
        let summary_delay_ms = u64::try_from(millis(delay)).ok();
        self.change_settings(SettingsChange {
            summary_delay_ms,
            ..SettingsChange::default()
        })
        .await
    }

    /// Sets how many meter events are accepted per second.
    pub async fn set_events_per_sec(&self, events_per_sec: u32) -> Result<(), ControlError> {
        self.change_settings(SettingsChange {
            events_per_sec: Some(events_per_sec),
            ..SettingsChange::default()
        })
        .await
    }

    /// Sets whether the summary of a range without events is one entry of 0 or an empty list.
    pub async fn set_summarize_empty_ranges(&self, summarize: bool) -> Result<(), ControlError> {
        let change = SettingsChange {
            summarize_empty_ranges: Some(summarize),
            ..SettingsChange::default()
        };
        self.change_settings(change).await
    }

    /// Sets whether errors of meter events omit their `code`.
    pub async fn set_bare_error_codes(&self, bare: bool) -> Result<(), ControlError> {
        self.change_settings(SettingsChange {
            bare_error_codes: Some(bare),
            ..SettingsChange::default()
        })
        .await
    }

    async fn change_clock(&self, change: ClockChange) -> Result<(), ControlError> {
        self.post("clock", &change).await.map(ignore_body)
    }

    async fn change_settings(&self, change: SettingsChange) -> Result<(), ControlError> {
        self.post("settings", &change).await.map(ignore_body)
    }

    async fn wait(
        &self,
        wait: Wait,
        timeout: Duration,
        condition: &str,
    ) -> Result<(), ControlError> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("timeout_ms", &timeout.as_millis().to_string());
        let numbers = [
            ("events", wait.events.map(|n| n.to_string())),
            ("requests", wait.requests.map(|n| n.to_string())),
            ("blocked", wait.blocked.map(|n| n.to_string())),
            ("path", wait.path),
            ("block", wait.block),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                query.append_pair(name, &value);
            }
        }
        let end: Waited = self.get(&format!("wait?{}", query.finish())).await?;
        if end.reached {
            return Ok(());
        }
        Err(ControlError::TimedOut {
            waited: timeout,
            condition: condition.to_owned(),
            events: end.events,
            requests: end.requests,
            blocked: end.blocked,
        })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ControlError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ControlError> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ControlError> {
        let mut request = self
            .client
            .request(method, format!("{}/control/{path}", self.base_url));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        if !status.is_success() {
            return Err(ControlError::Refused {
                status: status.as_u16(),
                message: answer.text().await?,
            });
        }
        Ok(answer.json().await?)
    }
}

/// Discards the body of a response that carries no information.
pub(crate) fn ignore_body(_: IgnoredAny) {}
