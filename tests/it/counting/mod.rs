//! Tests of counting usage and of reading it back.

mod batches;
mod beside_changes;
mod calendar;
mod commits;
mod database_connections;
mod durability;
mod failover;
mod increments;
mod usage_query;
mod usage_query_model;
mod validation;
