//! What the command line runs besides the service: one file or folder a command.

#[cfg(feature = "demo")]
pub mod demo;
pub mod doctor;
pub mod reconcile;
pub mod setup;
