//! Whether a database with Citus is spread as the service needs it.

use super::Finding;
use crate::{config::DatabaseConfig, store::Store};

const CHECK: &str = "citus";

/// Adds what is found of Citus; nothing for a database without it.
pub(super) async fn check(store: &Store, config: &DatabaseConfig, findings: &mut Vec<Finding>) {
    let citus = match store.citus().await {
        Ok(None) => return,
        Ok(Some(citus)) => citus,
        Err(error) => return findings.push(Finding::unchecked(CHECK, &error.to_string())),
    };
    if citus.shards == 0 {
        let fact = format!(
            "Citus {} is there, and no table is distributed",
            citus.version
        );
        return findings.push(Finding::ok(CHECK, fact));
    }
    match store.citus_faults(config.database_connections).await {
        Ok(faults) if faults.is_empty() => findings.push(Finding::ok(
            CHECK,
            format!(
                "Citus {}: {} shards on {} machines, entered by the coordinator",
                citus.version, citus.shards, citus.nodes
            ),
        )),
        Ok(faults) => findings.extend(
            faults
                .into_iter()
                .map(|fault| Finding::warn(CHECK, fault, "see docs/scaling.md")),
        ),
        Err(error) => findings.push(Finding::unchecked(CHECK, &error.to_string())),
    }
}

/// What is wrong if the database is at a worker.
pub(super) async fn check_entry(store: &Store) -> Option<Finding> {
    let citus = store.citus().await.ok().flatten()?;
    (!citus.is_coordinator).then(|| {
        Finding::bad(
            CHECK,
            "DATABASE_URL names a worker; servers that enter by different machines do not see each other's locks, so nothing else was checked",
            "connect every server to the coordinator",
        )
    })
}
