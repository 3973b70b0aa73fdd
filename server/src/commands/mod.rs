//! The commands besides `serve`: one file or folder a command. `main.rs` parses their flags.

pub mod adopt;
pub mod archives;
pub mod audit;
pub mod backup;
#[cfg(feature = "demo")]
pub mod demo;
pub mod distribute;
pub mod doctor;
pub mod export;
pub mod health;
pub mod keys;
pub mod offline;
pub mod reconcile;
pub mod remote;
pub mod restore;
mod servers;
pub mod setup;
