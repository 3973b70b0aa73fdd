//! Tests of counting usage and of reading it back.

mod batches;
mod beside_changes;
mod calendar;
mod commits;
mod counted_accounts;
mod database_connections;
mod durability;
mod failover;
mod increments;
mod read_turns;
pub(crate) mod usage_of_all;
mod usage_of_all_limits;
mod usage_query;
mod usage_query_model;
mod validation;
