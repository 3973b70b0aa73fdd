//! `usage-server distribute`: spreads the tables about accounts over the workers of Citus. Running it again changes nothing.

use std::io::Write;

use clap::Args;

use super::servers::find_running;
use crate::{
    config::{DatabaseConfig, within},
    store::{
        Store,
        distribution::{DistributeError, Distributed},
    },
};

/// The flags of the command.
#[derive(Args, Debug)]
pub struct DistributeCommand {
    /// The database, at the coordinator.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// The shards of each table, 1 to 1,024: two to four times the workers expected. Without it, twice the workers that
    /// there are.
    #[arg(long, env = "SHARDS", value_parser = within::<u32>(1..=1_024))]
    pub shards: Option<u32>,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum DistributeCommandError {
    /// A setting is wrong, servers run, or the database cannot be distributed.
    #[error("{0}")]
    Failed(String),
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[from] std::io::Error),
}

impl From<DistributeError> for DistributeCommandError {
    fn from(error: DistributeError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<sea_orm::DbErr> for DistributeCommandError {
    fn from(error: sea_orm::DbErr) -> Self {
        DistributeError::from(error).into()
    }
}

/// Distributes the database and prints what was done.
///
/// # Errors
/// See [`DistributeCommandError`].
pub async fn run(
    command: &DistributeCommand,
    out: &mut impl Write,
) -> Result<(), DistributeCommandError> {
    let database = &command.database;
    let url = database.url().map_err(DistributeCommandError::Failed)?;
    let store = Store::open_existing(&url, database.database_connections).await?;
    let done = distribute(&store, command.shards).await;
    store.close().await?;
    print(&done?, out)?;
    Ok(())
}

async fn distribute(
    store: &Store,
    shards: Option<u32>,
) -> Result<Distributed, DistributeCommandError> {
    let citus = store.citus().await?.ok_or(DistributeError::NoCitus)?;
    if !citus.is_coordinator {
        return Err(DistributeError::Worker.into());
    }
    let checked = store.check_schema().await;
    checked.map_err(|error| DistributeCommandError::Failed(error.to_string()))?;
    if !citus.undistributed.is_empty()
        && let Some(why) = find_running(store)
            .await
            .map_err(|error| DistributeCommandError::Failed(error.to_string()))?
    {
        return Err(DistributeCommandError::Failed(why));
    }
    Ok(store.distribute(shards).await?)
}

fn print(done: &Distributed, out: &mut impl Write) -> std::io::Result<()> {
    for table in &done.spread {
        writeln!(out, "{table}: spread by account_id")?;
    }
    for table in &done.known {
        writeln!(
            out,
            "{table}: stays at the coordinator, and is known to Citus"
        )?;
    }
    let citus = &done.citus;
    if done.spread.is_empty() && done.known.is_empty() {
        writeln!(out, "nothing to do: every table is as it should be")?;
    }
    writeln!(
        out,
        "Citus {}: {} shards on {} machines",
        citus.version, citus.shards, citus.nodes
    )
}
