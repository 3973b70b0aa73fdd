//! `usage-server keys`: creates, lists and revokes API keys in the database, also where no key is valid any more. A server
//! may be running.

use std::io::Write;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::json;
use uuid::Uuid;

use crate::{
    config::DatabaseConfig,
    domain::{
        DAY_MS, HOUR_MS, MINUTE_MS, Millis,
        access::{Role, Scope},
        account_id::AccountId,
        api_key::{ApiKey, KeyId, NewKey, PresentedKey},
        audit::Actor,
        period::rfc3339,
    },
    error::Error,
    new_key::draw,
    store::Store,
};

/// Keys that are read at once.
const PAGE: u64 = 1_000;

/// The commands about keys.
#[derive(Subcommand, Debug)]
pub enum KeysCommand {
    /// Create a key and print it. It is shown once: only a hash of it is stored.
    Create(CreateCommand),
    /// List all keys, also those that are not valid any more.
    List(ListCommand),
    /// Revoke a key. Running servers refuse it 5 seconds later at the latest.
    Revoke(RevokeCommand),
    /// Print a new key and store nothing, for `BOOTSTRAP_ADMIN_KEY_FILE`.
    Generate,
}

/// The flags of `keys create`.
#[derive(Args, Debug)]
pub struct CreateCommand {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// What it is for: `writer` counts, `reader` shows, `admin` may do everything.
    #[arg(long)]
    pub role: Role,
    /// Its name, for people.
    #[arg(long)]
    pub name: String,
    /// Only these accounts, separated by commas. Default: all.
    #[arg(long, value_delimiter = ',')]
    pub accounts: Vec<String>,
    /// And the accounts whose ids begin with this; several separated by commas.
    #[arg(long = "account-prefix", value_delimiter = ',')]
    pub account_prefixes: Vec<String>,
    /// Only these meters, separated by commas. Default: all.
    #[arg(long, value_delimiter = ',')]
    pub meters: Vec<String>,
    /// How long it is valid, such as `90d`, `12h` or `30m`. Default: for ever.
    #[arg(long, value_parser = parse_duration)]
    pub expires_in: Option<Millis>,
}

/// The flags of `keys list`.
#[derive(Args, Debug)]
pub struct ListCommand {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// Print a JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// The flags of `keys revoke`.
#[derive(Args, Debug)]
pub struct RevokeCommand {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// The key's id: the 16 digits after `ub_`.
    pub id: String,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A setting is wrong, or the database cannot be used.
    #[error("{0}")]
    Failed(String),
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[from] std::io::Error),
}

impl From<Error> for KeysError {
    fn from(error: Error) -> Self {
        Self::Failed(error.cause())
    }
}

/// Runs a command. A key is the only text on `out`; `notes` says what it is.
///
/// # Errors
/// See [`KeysError`].
pub async fn run(
    command: &KeysCommand,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), KeysError> {
    let database = match command {
        KeysCommand::Create(create) => &create.database,
        KeysCommand::List(list) => &list.database,
        KeysCommand::Revoke(revoke) => &revoke.database,
        KeysCommand::Generate => {
            writeln!(out, "{}", draw()?.reveal())?;
            return Ok(());
        }
    };
    let store = open(database).await.map_err(KeysError::Failed)?;
    let done = match command {
        KeysCommand::Create(flags) => create(&store, flags, out, notes).await,
        KeysCommand::List(flags) => list(&store, flags.json, out).await,
        KeysCommand::Revoke(flags) => revoke(&store, &flags.id, notes).await,
        KeysCommand::Generate => Ok(()),
    };
    let closed = store.close().await;
    done?;
    closed.map_err(|error| KeysError::Failed(error.to_string()))
}

/// Opens a database that has the current schema.
pub(super) async fn open(config: &DatabaseConfig) -> Result<Store, String> {
    let url = config.url()?;
    let cannot = |error: sea_orm::DbErr| format!("the database cannot be used: {error}");
    let store = Store::open_existing(&url, config.database_connections)
        .await
        .map_err(cannot)?;
    if let Err(error) = store.check_schema().await {
        store.close().await.map_err(cannot)?;
        return Err(error.to_string());
    }
    Ok(store)
}

async fn create(
    store: &Store,
    flags: &CreateCommand,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), KeysError> {
    let now = store.shared_now().await?;
    let scope = Scope::new(&flags.accounts, &flags.account_prefixes, &flags.meters);
    let new = NewKey {
        name: flags.name.clone(),
        role: flags.role,
        scope: scope.map_err(Error::from)?,
        expires_at: flags.expires_in.map(|span| now.saturating_add(span)),
    };
    new.check(now).map_err(Error::from)?;
    let text = draw()?;
    let presented = PresentedKey::parse(text.reveal())
        .ok_or_else(|| Error::Internal("a new key cannot be read".into()))?;
    let actor = Actor::command(Uuid::now_v7());
    let is_first = !store.has_api_keys().await?;
    let key = store.create_api_key(&presented, &new, &actor, now).await?;
    writeln!(out, "{}", text.reveal())?;
    writeln!(
        notes,
        "key {} ({}, {:?}): it is shown once, store it now",
        key.id,
        key.key.role.name(),
        key.key.name
    )?;
    if is_first {
        writeln!(
            notes,
            "it is the first: in 5 seconds at the latest, every call needs a key"
        )?;
    }
    Ok(())
}

async fn list(store: &Store, as_json: bool, out: &mut impl Write) -> Result<(), KeysError> {
    let now = store.shared_now().await?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "id",
        "name",
        "role",
        "limits",
        "state",
        "created",
        "last used",
    ]);
    let mut after = None;
    loop {
        let page = store.list_api_keys(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for key in page {
            if as_json {
                writeln!(out, "{}", json_line(&key, now))?;
            } else {
                table.add_row([
                    key.id.to_string(),
                    key.key.name.clone(),
                    key.key.role.name().to_owned(),
                    limits(&key.key.scope),
                    state(&key, now),
                    rfc3339(key.created_at),
                    key.last_used_at.map_or_else(|| "never".to_owned(), rfc3339),
                ]);
            }
        }
    }
    if !as_json {
        writeln!(out, "{table}")?;
    }
    Ok(())
}

async fn revoke(store: &Store, id: &str, notes: &mut impl Write) -> Result<(), KeysError> {
    let id = KeyId::parse(id).ok_or_else(|| Error::ApiKeyNotFound(id.to_owned()))?;
    let now = store.shared_now().await?;
    let actor = Actor::command(Uuid::now_v7());
    let (key, is_revoked_now) = store.revoke_api_key(id, &actor, now).await?;
    let when = if is_revoked_now {
        "revoked; servers refuse it in 5 seconds at the latest"
    } else {
        "revoked before"
    };
    writeln!(notes, "key {id} ({:?}): {when}", key.key.name)?;
    Ok(())
}

fn json_line(key: &ApiKey, now: Millis) -> serde_json::Value {
    let scope = &key.key.scope;
    let accounts: Vec<&str> = scope.accounts().iter().map(AccountId::as_str).collect();
    json!({
        "id": key.id.to_string(),
        "name": key.key.name,
        "role": key.key.role.name(),
        "accounts": accounts,
        "account_prefixes": scope.account_prefixes(),
        "meters": scope.meters(),
        "is_valid": key.is_valid_at(now),
        "created_at": rfc3339(key.created_at),
        "expires_at": key.key.expires_at.map(rfc3339),
        "revoked_at": key.revoked_at.map(rfc3339),
        "last_used_at": key.last_used_at.map(rfc3339),
    })
}

fn limits(scope: &Scope) -> String {
    let accounts = scope.accounts().iter().map(ToString::to_string);
    let prefixes = scope.account_prefixes().iter();
    let prefixes = prefixes.map(|prefix| format!("{prefix}..."));
    let meters = scope.meters().iter().map(|meter| format!("meter {meter}"));
    let all: Vec<String> = accounts.chain(prefixes).chain(meters).collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}

fn state(key: &ApiKey, now: Millis) -> String {
    match (key.revoked_at, key.key.expires_at) {
        (Some(at), _) => format!("revoked {}", rfc3339(at)),
        (None, Some(at)) if at <= now => format!("expired {}", rfc3339(at)),
        (None, Some(at)) => format!("until {}", rfc3339(at)),
        (None, None) => "valid".to_owned(),
    }
}

fn parse_duration(text: &str) -> Result<Millis, String> {
    let units = [("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS)];
    let parsed = units.iter().find_map(|(unit, millis)| {
        let number: u32 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Millis::from(number).saturating_mul(*millis))
    });
    let parsed = parsed.filter(|span| *span > 0);
    parsed.ok_or_else(|| {
        "must be a number of days, hours or minutes, such as 90d, 12h or 30m".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        for (text, span) in [
            ("90d", Some(90 * DAY_MS)),
            ("12h", Some(12 * HOUR_MS)),
            ("30m", Some(30 * MINUTE_MS)),
            ("0d", None),
            ("-1d", None),
            ("d", None),
            ("1", None),
            ("1w", None),
            ("\u{fc}d", None),
        ] {
            assert_eq!(parse_duration(text).ok(), span, "{text}");
        }
    }
}
