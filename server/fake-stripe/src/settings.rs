//! Settings of a fake Stripe at its start. [`crate::Control`] changes those that may change while it runs.

use std::time::Duration;

/// The Stripe API version that responses are modelled on, and the default of the `Stripe-Version` header.
pub const API_VERSION: &str = "2026-09-30.endive";

/// The behavior of a fake Stripe. The default is Stripe as documented, without its delays.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The only accepted API key. Default `sk_test_fake`.
    pub secret_key: String,
    /// The id of the account. Default `acct_fake`.
    pub account_id: String,
    /// Whether it is the account's live mode: its objects have `livemode: true`. Default false. As at Stripe, the other
    /// mode has objects of its own: start another fake Stripe for it.
    pub live_mode: bool,
    /// How long after its receipt, by the fake Stripe's clock, a meter event appears in summaries. Default zero.
    pub summary_delay: Duration,
    /// Meter events accepted within any second of real time; more are answered with 429, and 0 rejects all. Default
    /// 1,000, Stripe's limit in live mode.
    pub events_per_sec: u32,
    /// Real delay before each request is processed. Default zero.
    pub latency: Duration,
    /// Whether an ungrouped summary of a range without events is one entry of value 0 (the default: Stripe's reference
    /// says that "a single event summary would be returned") or an empty list.
    pub summarize_empty_ranges: bool,
    /// Whether errors of meter events carry no `code`, only Stripe's message. By default they carry the names that
    /// Stripe documents for its error reports, such as `no_meter`. Stripe's reference leaves the code of the
    /// synchronous response open, so a caller should understand both.
    pub bare_error_codes: bool,
    /// The most meter events that are stored; one more is answered with 501. Default 5,000,000.
    pub max_events: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            secret_key: "sk_test_fake".to_owned(),
            account_id: "acct_fake".to_owned(),
            live_mode: false,
            summary_delay: Duration::ZERO,
            events_per_sec: 1_000,
            latency: Duration::ZERO,
            summarize_empty_ranges: true,
            bare_error_codes: false,
            max_events: 5_000_000,
        }
    }
}
