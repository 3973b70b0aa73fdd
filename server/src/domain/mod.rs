//! The domain: the types of usage, and the rules by which it is counted, split into windows and billed.
//!
//! Pure: no I/O, no clock, no database, no tonic, and no import from a sibling, but for `planted_defects`, which are never in a
//! binary that counts real usage. Callers pass `now` and what they read, so every rule can be property-tested.

pub mod access;
pub mod account;
pub mod account_deletion;
pub mod account_id;
pub mod acknowledged_times;
pub mod api_key;
pub mod audit;
pub mod billed_usage;
pub mod billing_period;
pub mod billing_start;
pub mod caller_id;
pub mod client_certificate;
pub mod clock_check;
pub mod closing;
pub mod console_session;
pub mod correction;
pub mod customer_watch;
pub mod decision;
pub mod difference_id;
pub mod event_time;
pub mod followed_subscriptions;
pub mod hex;
pub mod http_paths;
pub mod increment;
pub mod invoice_comparison;
pub mod invoice_cycle;
pub mod invoice_deadline;
pub mod invoice_draft;
pub mod invoice_line;
pub mod kept_increment;
pub mod key_search;
pub mod late_usage;
pub mod meter;
pub mod method_roles;
mod names;
pub mod next_step;
pub mod overlapping_periods;
pub mod pause;
pub mod period;
pub mod price_split;
pub mod read_order;
pub mod report;
pub mod report_archive;
pub mod report_figure;
pub mod report_fold;
pub mod request_id;
pub mod restore;
pub mod run;
pub mod send_load;
pub mod sender_mark;
pub mod shadow;
pub mod shards;
pub mod share;
pub mod sign_off;
pub mod stored_key;
pub mod stream;
pub mod stripe_account;
pub mod subscription;
pub mod subscription_change;
pub mod subscription_status;
pub mod subset_sum;
pub mod tier;
pub mod trace_parent;
pub mod trusted_proxies;
pub mod uncompared_usage;
pub mod unread_invoice;
pub mod usage_list;
pub mod verification;
pub mod violation;
pub mod waiting_comparison;
pub mod webhook;
pub mod window;

/// Milliseconds of Unix time: the unit of every time inside the service.
pub type Millis = i64;

/// One second.
pub const SECOND_MS: Millis = 1_000;
/// One minute.
pub const MINUTE_MS: Millis = 60 * SECOND_MS;
/// One hour.
pub const HOUR_MS: Millis = 60 * MINUTE_MS;
/// One day.
pub const DAY_MS: Millis = 24 * HOUR_MS;

/// The start of the unit, such as [`HOUR_MS`], that contains a time.
pub(crate) fn start_of(unit: Millis, at: Millis) -> Millis {
    at.saturating_sub(at.rem_euclid(unit))
}
