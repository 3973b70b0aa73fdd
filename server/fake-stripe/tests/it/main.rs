//! The fake Stripe from outside, over a real socket: every answer is also checked against Stripe's own description.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    reason = "a test that meets the unexpected should fail where it stands"
)]

mod billing_world;
mod cancellation;
mod catalog;
mod changes;
mod client;
mod contract;
mod expansion;
mod faults;
mod limits;
mod money;
mod objects;
mod official_client;
mod parameters;
mod pauses;
mod periods;
mod replaced_prices;
mod trials;
mod unsupported;
mod usage;
mod versions;
mod webhooks;
