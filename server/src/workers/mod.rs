//! Background jobs: closing, sending, following subscriptions and verifying.

mod delivery_check;
mod period_end;
pub(crate) mod reporter;
pub(crate) mod run_watch;
pub(crate) mod schedule;
pub(crate) mod scheduler;
mod sender;
pub(crate) mod subscription;
pub(crate) mod verifier;
