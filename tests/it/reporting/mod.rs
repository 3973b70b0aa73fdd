//! Tests of sending usage to Stripe, and of verifying that it arrived.

mod corrections;
mod database_copies;
mod delivery;
mod delivery_check;
mod explanations;
mod failed_adoptions;
mod folding;
mod forced_runs;
mod pauses;
mod point_in_time;
mod reconciliation;
mod replicas;
mod report_list;
mod resolutions;
mod restore;
mod restore_late;
mod restore_many;
mod schedule;
mod send_order;
mod send_rate;
mod shadow;
mod shadow_restore;
mod stripe_accounts;
mod stripe_faults;
mod verification;
mod windows;
