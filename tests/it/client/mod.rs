//! Tests of the SDK, of its command line, and of clients in other languages.

mod behaviours;
mod connection;
mod crate_page;
mod meters;
mod middleware;
mod python_stubs;
mod recorder;
mod recorder_access;
mod spool;
pub(crate) mod usagectl;
