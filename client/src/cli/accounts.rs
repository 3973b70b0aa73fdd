//! `usagectl accounts`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, maybe, moment as shown},
    time_arg,
};
use crate::{Account, ListAccounts, PutAccount, UsageClient};
use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show one account
    Get {
        /// Which one
        account: String,
        #[command(flatten)]
        format: Format,
    },
    /// Say whom an account bills to
    Put(Put),
}

#[derive(Debug, Args)]
struct List {
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Where an earlier list ended
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("billing").required(true))]
struct Put {
    /// Which account
    account: String,
    /// It bills to this Stripe customer, cus_...
    #[arg(long, group = "billing")]
    customer: Option<String>,
    /// It is counted and never billed
    #[arg(long, group = "billing")]
    free: bool,
    /// The customer's subscription, sub_...
    #[arg(long, requires = "customer")]
    subscription: Option<String>,
    /// From when its usage is billed, such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", requires = "customer", value_parser = time_arg::parse_utc)]
    bill_from: Option<DateTime<Utc>>,
    /// Only if it has not changed since
    #[arg(long)]
    etag: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// The largest page that the server gives.
const PAGE: u32 = 1_000;

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    match arguments.command {
        None => list(client, arguments.list, streams).await,
        Some(Command::Get { account, format }) => {
            let account = client.get_account(account).await?;
            rows([account]).print(format, streams)
        }
        Some(Command::Put(put)) => {
            let format = put.format;
            let account = client.put_account(put.into_call()).await?;
            rows([account]).print(format, streams)
        }
    }
}

impl Put {
    fn into_call(self) -> PutAccount {
        let mut put = match self.customer {
            Some(customer) => PutAccount::stripe(self.account, customer),
            None => PutAccount::free(self.account),
        };
        if let Some(subscription) = self.subscription {
            put = put.subscription(subscription);
        }
        if let Some(at) = self.bill_from {
            put = put.bill_from(at);
        }
        if let Some(etag) = self.etag {
            put = put.etag(etag);
        }
        put
    }
}

async fn list(client: &UsageClient, list: List, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let (mut accounts, mut next) = (Vec::new(), list.page_token);
    let mut room = list.limit;
    loop {
        let mut page = ListAccounts::new().page_size(room.min(PAGE));
        if let Some(token) = next {
            page = page.page_token(token);
        }
        let page = client.list_accounts(page).await?;
        let came = u32::try_from(page.accounts.len()).unwrap_or(u32::MAX);
        room = room.saturating_sub(came);
        accounts.extend(page.accounts);
        next = page.next_page_token;
        if next.is_none() || room == 0 || came == 0 {
            break;
        }
    }
    rows(accounts).print(list.format, streams)?;
    if let Some(token) = next {
        writeln!(streams.err, "there are more: --page-token {token}")?;
    }
    Ok(())
}

fn rows(accounts: impl IntoIterator<Item = Account>) -> Rows {
    let mut rows = Rows::new(&[
        "account_id",
        "billing",
        "customer",
        "subscription",
        "status",
        "bill_from",
        "valid_from",
        "etag",
    ]);
    for account in accounts {
        let billing = match (account.is_free(), account.stripe()) {
            (true, _) => "free",
            (false, Some(_)) => "stripe",
            (false, None) => "unrecognised",
        };
        let followed = account.subscription.as_ref();
        let given = account
            .stripe()
            .and_then(|stripe| stripe.subscription.clone());
        let stripe = account.stripe();
        rows.push(vec![
            json!(account.account_id),
            json!(billing),
            stripe.map_or(Value::Null, |stripe| json!(stripe.customer)),
            json!(given.or_else(|| followed.map(|one| one.id.clone()))),
            json!(followed.map(|one| &one.status)),
            maybe(stripe.and_then(|stripe| stripe.bill_from)),
            shown(account.valid_from),
            json!(account.etag),
        ]);
    }
    rows
}
