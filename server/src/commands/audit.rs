//! `usage-server audit`: prints what admins did, as JSON lines, newest first. It only reads; a server may be running.

use std::io::Write;

use clap::Args;

use super::{
    keys::{KeysError, open},
    reconcile::parse_time,
};
use crate::{
    config::DatabaseConfig,
    domain::{Millis, api_key::KeyId, audit::EntryFilter},
    record::Record,
    store::Store,
};

/// Entries that are read at once.
const PAGE: u64 = 100;

/// The flags of the command.
#[derive(Args, Debug)]
pub struct AuditCommand {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// Only entries of this time or later: a date or an RFC 3339 time.
    #[arg(long, value_parser = parse_time)]
    pub from: Option<Millis>,
    /// Only entries before this time.
    #[arg(long, value_parser = parse_time)]
    pub until: Option<Millis>,
    /// Only entries of the key with this id.
    #[arg(long, value_parser = parse_key)]
    pub key: Option<KeyId>,
    /// Only entries about this account.
    #[arg(long)]
    pub account: Option<String>,
}

/// Prints the entries.
///
/// # Errors
/// A setting is wrong, the database cannot be used, or the output cannot be written.
pub async fn run(command: &AuditCommand, out: &mut impl Write) -> Result<(), KeysError> {
    let store = open(&command.database).await.map_err(KeysError::Failed)?;
    let filter = EntryFilter {
        from: command.from,
        until: command.until,
        key: command.key,
        account_id: command.account.clone(),
    };
    let printed = print_all(&store, &filter, out).await;
    let closed = store.close().await;
    printed?;
    closed.map_err(|error| KeysError::Failed(error.to_string()))
}

async fn print_all(
    store: &Store,
    filter: &EntryFilter,
    out: &mut impl Write,
) -> Result<(), KeysError> {
    let mut after = None;
    loop {
        let page = store.list_audit_entries(filter, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some((last.at, last.id));
        for entry in page {
            Record::from(&entry).write_json(out)?;
        }
    }
}

fn parse_key(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text).ok_or_else(|| "must be the id of a key: 16 hexadecimal digits".to_owned())
}
