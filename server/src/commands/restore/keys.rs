//! The API keys of a restored database: a backup does not know which of them were revoked after it was made.

use std::io::Write;

use crate::{
    commands::offline::OfflineError,
    domain::{
        Millis,
        api_key::{ApiKey, KeyId},
    },
    store::Store,
};

/// The keys that are printed one by one.
const MAX_PRINTED: usize = 100;
/// More keys are not read.
const MAX_KEYS: usize = 20_000;
const PAGE: u64 = 1_000;

/// Prints the keys that are valid, and what to do about them.
pub(super) async fn print_keys(
    store: &Store,
    now: Millis,
    out: &mut impl Write,
) -> Result<(), OfflineError> {
    if !store.has_api_keys().await? {
        writeln!(
            out,
            "The database has no API key. If keys were created since the backup, create one with `usage-server keys create` before \
a server starts: until then whoever reaches it may do everything."
        )?;
        return Ok(());
    }
    let valid = read_valid(store, now).await?;
    if valid.is_empty() {
        writeln!(
            out,
            "The database has no valid API key: create one with `usage-server keys create`."
        )?;
        return Ok(());
    }
    writeln!(
        out,
        "{} API keys are valid, also those that were revoked since the backup: revoke these again, with `usage-server keys revoke ID`.",
        valid.len()
    )?;
    for ApiKey { id, key, .. } in valid.iter().take(MAX_PRINTED) {
        writeln!(out, "  {id} {} {:?}", key.role.name(), key.name)?;
    }
    if let Some(more @ 1..) = valid.len().checked_sub(MAX_PRINTED) {
        writeln!(out, "  and {more} more: `usage-server keys list`")?;
    }
    Ok(())
}

async fn read_valid(store: &Store, now: Millis) -> Result<Vec<ApiKey>, OfflineError> {
    let mut valid = Vec::new();
    let (mut read, mut after) = (0, None::<KeyId>);
    while read < MAX_KEYS {
        let page = store.list_api_keys(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        read = read.saturating_add(page.len());
        valid.extend(page.into_iter().filter(|key| key.is_valid_at(now)));
    }
    Ok(valid)
}
