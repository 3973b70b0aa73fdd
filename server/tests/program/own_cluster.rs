//! A PostgreSQL that one test has for itself.

use std::io::Write as _;

use crate::postgres::{Cluster, Durability, StartError};

/// Starts it. `None` where PostgreSQL is not installed, after a line that says so; in CI that fails.
pub(crate) fn own_cluster(durability: Durability) -> Option<Cluster> {
    match Cluster::start(durability) {
        Ok(cluster) => Some(cluster),
        Err(StartError::Unavailable(missing)) => {
            let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!is_ci, "{missing}");
            // Not captured by the test runner: a skipped test must not look like a passed one.
            writeln!(std::io::stderr(), "SKIPPED: {missing}").expect("standard error");
            None
        }
        Err(StartError::Failed(error)) => panic!("PostgreSQL does not start: {error}"),
    }
}
