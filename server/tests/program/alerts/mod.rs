//! Each alert, on a fault that is caused: the metrics of a running service before the fault, during it and after it go through
//! the alert rules, and exactly the alerts that are named fire.
//!
//! Each test has a process of its own, and so metrics of its own. Hours do not pass: what was scraped lasts for hours in the
//! history that the rules see.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_arithmetic,
    clippy::float_cmp,
    reason = "the values of metrics are floats, and the compared ones are whole numbers"
)]

mod databases;
mod decisions;
mod deletions;
mod history;
mod invoices;
mod outages;
mod replicas;
mod schedules;
mod scrape;
mod service;
mod spawned;
mod tls;
mod totals;
