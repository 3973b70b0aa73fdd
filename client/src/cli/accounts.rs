//! `usagectl accounts`

mod changes;
mod deletion;
mod recent;
mod show;

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, rfc3339, rfc3339_or_null},
    paging::{Paging, print_next_page},
    time_arg::{self, Times},
};
use crate::{
    AbortSubscriptionChange, Account, AccountPage, AccountPut, ListAccounts, PutAccount,
    RecentUsage, UsageClient,
};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _},
};

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
        /// The account
        account: String,
        #[command(flatten)]
        format: Format,
    },
    /// Show everything of one account: link, subscription, billing periods, usage, figures, invoice lines, reports, decisions
    Show(show::Show),
    /// Set how an account is billed
    #[command(visible_alias = "link")]
    Put(Put),
    /// Switch its subscription to other prices, immediately; earlier usage is charged at the old ones
    Plan(changes::Plan),
    /// Cancel its subscription
    Cancel(changes::Cancel),
    /// Abort the change of its subscription that waits or is stuck; everything is as before the change
    AbortChange(AbortChange),
    /// Print everything that is stored of it, a JSON object a line
    Export(deletion::Export),
    /// Delete it: its rows stay for invoices and totals, under a random id
    Delete(deletion::Delete),
}

#[derive(Debug, Args)]
struct AbortChange {
    /// The account
    account: String,
    /// Who aborts it, kept for the record
    #[arg(long, value_name = "NAME", default_value = "usagectl")]
    requested_by: String,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
struct List {
    /// Only the account that is linked to this Stripe customer, cus_...
    #[arg(long, value_name = "CUSTOMER")]
    customer: Option<String>,
    /// Also accounts that have usage and were never linked
    #[arg(long, conflicts_with = "customer")]
    all: bool,
    /// Show the usage of each meter in the present period, the last one and the last 30 days
    #[arg(long)]
    usage: bool,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("billing").required(true))]
struct Put {
    /// The account
    account: String,
    /// Bill it to this Stripe customer, cus_...
    #[arg(long, group = "billing")]
    customer: Option<String>,
    /// Count it and never bill it
    #[arg(long, group = "billing")]
    free: bool,
    /// The customer's subscription, sub_...
    #[arg(long, requires = "customer")]
    subscription: Option<String>,
    /// Bill usage from this time on, such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", requires = "customer", value_parser = time_arg::parse_utc)]
    bill_from: Option<DateTime<Utc>>,
    /// Only if the account still has this etag
    #[arg(long)]
    etag: Option<String>,
    /// Show what would be, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, also if earlier usage will not be billed
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

/// Said when a link was not confirmed.
const NOTHING_LINKED: &str =
    "nothing was changed: give an earlier --bill-from, or --yes to go on without asking";
/// The longest answer to a question.
const MAX_ANSWER_BYTES: u64 = 64;

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
            let (format, is_dry_run, is_asked) = (put.format, put.dry_run, !put.yes);
            let put = put.into_call();
            let preview = client.put_account(put.clone().validate_only()).await?;
            tell_not_billed(&preview, streams)?;
            if is_dry_run {
                return rows([preview.account]).print(format, streams);
            }
            if is_asked && !preview.not_billed.is_empty() {
                confirm(NOTHING_LINKED, streams)?;
            }
            let done = client.put_account(put).await?;
            if done.is_unverified {
                writeln!(
                    streams.err,
                    "unverified: Stripe could not be asked about the customer; the server asks later, and `usage-server doctor` tells"
                )?;
            }
            rows([done.account]).print(format, streams)
        }
        Some(Command::Show(show)) => show::run(client, show, streams).await,
        Some(Command::Plan(plan)) => changes::plan(client, plan, streams).await,
        Some(Command::Cancel(cancel)) => changes::cancel(client, cancel, streams).await,
        Some(Command::Export(export)) => deletion::export(client, export, streams).await,
        Some(Command::Delete(delete)) => deletion::delete(client, delete, streams).await,
        Some(Command::AbortChange(abort)) => {
            let call = AbortSubscriptionChange::new(abort.account).requested_by(abort.requested_by);
            let aborted = client.abort_subscription_change(call).await?;
            if let Some(change) = aborted.change {
                writeln!(
                    streams.err,
                    "the change {} of {} was aborted; everything is as before it",
                    change.id, change.subscription
                )?;
            }
            rows([aborted.account]).print(abort.format, streams)
        }
    }
}

/// Says which usage from before the link is not billed.
fn tell_not_billed(put: &AccountPut, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let since = put.account.valid_from;
    for usage in &put.not_billed {
        writeln!(
            streams.err,
            "{} units of {} from before {} will not be billed",
            usage.quantity,
            usage.meter,
            since.to_rfc3339_opts(SecondsFormat::AutoSi, true)
        )?;
    }
    Ok(())
}

/// Asks whether to go on, on a terminal.
fn confirm(unchanged: &str, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if streams.are_terminals {
        write!(streams.err, "Go on? [y/N] ")?;
        streams.err.flush()?;
        let mut answer = String::new();
        BufReader::new(&mut streams.input)
            .take(MAX_ANSWER_BYTES)
            .read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
    }
    Err(Failure::Local(unchanged.to_owned()))
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
    let customer = list.customer.unwrap_or_default();
    let mut filter = ListAccounts::new().customer(customer);
    if list.all {
        filter = filter.include_counted();
    }
    if list.usage {
        filter = filter.include_usage();
    }
    let page = |size, token: Option<String>| {
        let page = filter.clone().page_size(size);
        let page = page.page_token(token.unwrap_or_default());
        async move {
            let page = client.list_accounts(page).await?;
            let next = page.next_page_token.clone();
            Ok((listed(page), next))
        }
    };
    let (accounts, next) = list.paging.read(page).await?;
    if list.usage {
        recent::rows(&accounts, list.format.json).print(list.format, streams)?;
        return print_next_page(next, Times::default(), streams);
    }
    let mut rows = Rows::new(&COLUMNS);
    for (account, _) in accounts {
        rows.push(match account {
            Listed::Linked(account) => row(&account),
            Listed::Counted(id) => row_of_counted(&id),
        });
    }
    rows.print(list.format, streams)?;
    print_next_page(next, Times::default(), streams)
}

/// The accounts of a page by id, each with its usage.
fn listed(page: AccountPage) -> Vec<(Listed, Vec<RecentUsage>)> {
    let linked = page.accounts.into_iter().map(Box::new);
    let linked = linked.map(Listed::Linked);
    let mut listed: Vec<Listed> = linked
        .chain(page.counted.into_iter().map(Listed::Counted))
        .collect();
    listed.sort_by(|one, other| one.id().cmp(other.id()));
    let mut usage: HashMap<String, Vec<RecentUsage>> = HashMap::new();
    for one in page.usage {
        usage.entry(one.account_id.clone()).or_default().push(one);
    }
    let listed = listed.into_iter().map(|account| {
        let own = usage.remove(account.id()).unwrap_or_default();
        (account, own)
    });
    listed.collect()
}

/// An account of a list.
enum Listed {
    Linked(Box<Account>),
    Counted(String),
}

impl Listed {
    fn id(&self) -> &str {
        match self {
            Self::Linked(account) => &account.account_id,
            Self::Counted(id) => id,
        }
    }
}

const COLUMNS: [&str; 8] = [
    "account_id",
    "billing",
    "customer",
    "subscription",
    "status",
    "bill_from",
    "valid_from",
    "etag",
];

fn rows(accounts: impl IntoIterator<Item = Account>) -> Rows {
    let mut rows = Rows::new(&COLUMNS);
    for account in accounts {
        rows.push(row(&account));
    }
    rows
}

/// The values of [`COLUMNS`] of an account that was never linked.
fn row_of_counted(id: &str) -> Vec<Value> {
    let mut row = vec![json!(id), json!("never linked")];
    row.resize(COLUMNS.len(), Value::Null);
    row
}

/// How an account is billed.
fn billing(account: &Account) -> &'static str {
    match (account.is_free(), account.stripe()) {
        (true, _) => "free",
        (false, Some(_)) => "stripe",
        (false, None) => "unrecognised",
    }
}

/// The values of [`COLUMNS`].
fn row(account: &Account) -> Vec<Value> {
    let synced = account.subscription.as_ref();
    let given = account
        .stripe()
        .and_then(|stripe| stripe.subscription.clone());
    let stripe = account.stripe();
    vec![
        json!(account.account_id),
        json!(billing(account)),
        stripe.map_or(Value::Null, |stripe| json!(stripe.customer)),
        json!(given.or_else(|| synced.map(|one| one.id.clone()))),
        json!(synced.map(|one| &one.status)),
        rfc3339_or_null(stripe.and_then(|stripe| stripe.bill_from)),
        rfc3339(account.valid_from),
        json!(account.etag),
    ]
}
