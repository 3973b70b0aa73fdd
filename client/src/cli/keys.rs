//! `usagectl keys`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, rfc3339, rfc3339_or_null},
    paging::{Paging, print_next_page},
    time_arg::{self, Times},
};
use crate::{ApiKey, CreateKey, KeyRole, UsageClient};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a key and print its text, which is shown once
    Create(Create),
    /// List all keys, also those that are not valid any more
    List {
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        format: Format,
    },
    /// Revoke a key; every server refuses it 5 seconds later at the latest
    Revoke {
        /// The key's id, from `usagectl keys list`
        id: String,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// What the key is for
    #[arg(long, value_enum)]
    role: Role,
    /// Its name, for people
    #[arg(long)]
    name: String,
    /// Limit it to this account; may be repeated
    #[arg(long = "account", value_name = "ACCOUNT")]
    accounts: Vec<String>,
    /// Limit it to accounts whose ids begin with this; may be repeated
    #[arg(long = "account-prefix", value_name = "PREFIX")]
    prefixes: Vec<String>,
    /// Limit it to this meter; may be repeated
    #[arg(long = "meter", value_name = "METER")]
    meters: Vec<String>,
    /// From when on it is not valid, such as 2027-03-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse_utc)]
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// Counts usage
    Writer,
    /// Shows usage, reports and accounts
    Reader,
    /// May do everything
    Admin,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    match arguments.command {
        Command::Create(new) => create(client, new, streams).await,
        Command::List { paging, format } => {
            let page = |size, token| async move {
                let page = client.list_keys(size, token).await?;
                Ok((page.keys, page.next_page_token))
            };
            let (keys, next) = paging.read(page).await?;
            rows(keys).print(format, streams)?;
            print_next_page(next, Times::default(), streams)
        }
        Command::Revoke { id, format } => {
            let (key, duplicate) = client.revoke_key(id).await?;
            if duplicate {
                writeln!(streams.err, "it was revoked before; nothing was changed")?;
            }
            rows([key]).print(format, streams)
        }
    }
}

async fn create(
    client: &UsageClient,
    new: Create,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let role = match new.role {
        Role::Writer => KeyRole::Writer,
        Role::Reader => KeyRole::Reader,
        Role::Admin => KeyRole::Admin,
    };
    let mut key = CreateKey::new(new.name, role);
    for account in new.accounts {
        key = key.account(account);
    }
    for prefix in new.prefixes {
        key = key.account_prefix(prefix);
    }
    for meter in new.meters {
        key = key.meter(meter);
    }
    if let Some(at) = new.expires_at {
        key = key.expires_at(at);
    }
    let created = client.create_key(key).await?;
    let id = &created.key.id;
    // The key first: nothing that fails before may lose it.
    let printed = writeln!(streams.out, "{}", created.text).and_then(|()| streams.out.flush());
    if printed.is_ok() {
        // The key is there, whether or not this can be said.
        let _told = writeln!(streams.err, "created the key {id}; it is shown once");
    }
    printed.map_err(|error| {
        // A closed output is a failure here, for the key is lost with it.
        Failure::Local(format!(
            "the key {id} could not be written and is lost: {error}; revoke it with `usagectl keys revoke {id}`"
        ))
    })
}

fn rows(keys: impl IntoIterator<Item = ApiKey>) -> Rows {
    let mut rows = Rows::new(&[
        "id",
        "name",
        "role",
        "accounts",
        "account_prefixes",
        "meters",
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used_at",
    ]);
    let list = |items: Vec<String>| {
        if items.is_empty() {
            Value::Null
        } else {
            json!(items.join(" "))
        }
    };
    for key in keys {
        rows.push(vec![
            json!(key.id),
            json!(key.name),
            json!(key.role.to_string()),
            list(key.accounts),
            list(key.account_prefixes),
            list(key.meters),
            rfc3339(key.created_at),
            rfc3339_or_null(key.expires_at),
            rfc3339_or_null(key.revoked_at),
            rfc3339_or_null(key.last_used_at),
        ]);
    }
    rows
}
