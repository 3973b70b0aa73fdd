//! Background jobs: closing, sending, syncing subscriptions, verifying, cleaning up, folding.
//!
//! [`runner`] runs them all. A job is a [`job::Job`]: a name, an interval and `run(now)`. No job has a loop or a timer
//! of its own, but for the clockwork of the report schedule.

pub(crate) mod account_check;
mod backoff;
pub(crate) mod certificate_reload;
pub(crate) mod cleanup;
pub(crate) mod clock_comparison;
pub(crate) mod closing;
mod delivery_check;
pub(crate) mod invoice_comparison;
pub(crate) mod invoice_watch;
pub(crate) mod job;
mod lease;
mod observation_turns;
pub(crate) mod period_end;
pub(crate) mod record_archiving;
pub(crate) mod report_folding;
pub(crate) mod reporter;
mod retries;
pub(crate) mod run_observation;
mod run_result;
pub(crate) mod run_summary;
pub(crate) mod run_watch;
pub(crate) mod runner;
pub(crate) mod schedule;
pub(crate) mod scheduler;
pub(crate) mod send_event;
mod send_rate;
pub(crate) mod sender;
pub(crate) mod sender_mark;
mod steady_clock;
pub(crate) mod subscription_change;
pub(crate) mod subscription_sync;
mod tasks;
pub(crate) mod uncompared_usage;
pub(crate) mod upkeep;
pub(crate) mod usage_watch;
pub(crate) mod verifier;
pub(crate) mod wake;
