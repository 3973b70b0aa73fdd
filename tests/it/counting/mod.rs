//! Tests of counting usage and of reading it back.

mod batches;
mod calendar;
mod commits;
mod durability;
mod increments;
mod usage_query;
mod usage_query_model;
mod validation;
