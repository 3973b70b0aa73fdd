//! Tests of sending usage to Stripe, and of verifying that it arrived.

pub(crate) mod corrections;
mod delivery;
mod delivery_check;
mod forced_runs;
mod pauses;
pub(crate) mod reconciliation;
mod replicas;
pub(crate) mod report_list;
mod resolutions;
pub(crate) mod restore;
mod schedule;
mod stripe_faults;
mod verification;
mod windows;
