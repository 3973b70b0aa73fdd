//! `usage-server adopt-stripe-account`: goes on with another Stripe account or mode.
//!
//! It prints what was reported to the former account and what becomes of it, and changes the database after a
//! confirmation. It sends nothing.

use std::io::{BufRead, Write};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::json;
use uuid::Uuid;

use super::offline::{OfflineError, check_ready, confirm, open, recorded};
use crate::{
    account_check::{find_difference, identify},
    clock::Clock,
    config::CommandConfig,
    domain::stripe_account::StripeAccount,
    store::{Store, stripe_account::AdoptionTotals},
    stripe::Stripe,
};

/// The rows that are printed one by one.
const MAX_ROWS: usize = 1_000;
/// The accounts and meters that are added up.
const MAX_READ: u64 = 1_000_000;

/// The flags of the command.
#[derive(Args, Clone, Debug)]
pub struct AdoptCommand {
    /// The database, the Stripe account and the meters.
    #[command(flatten)]
    pub config: CommandConfig,

    /// Go on with the account without asking.
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,

    /// Print what would become of the usage, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Adopts the key's Stripe account. Returns whether usage is reported to it when the server runs. `answers` is where the
/// confirmation is read from; without it, nothing is changed unless the flags say so.
///
/// # Errors
/// See [`OfflineError`]. Nothing is changed.
pub async fn run(
    command: &AdoptCommand,
    clock: &Clock,
    out: &mut (impl Write + Send),
    answers: Option<&mut (dyn BufRead + Send)>,
) -> Result<bool, OfflineError> {
    let (_lock, store) = open(&command.config.database, clock).await?;
    let done = adopt(command, &store, out, answers).await;
    let closed = store.close().await;
    let done = done?;
    closed?;
    Ok(done)
}

async fn adopt(
    command: &AdoptCommand,
    store: &Store,
    out: &mut (impl Write + Send),
    answers: Option<&mut (dyn BufRead + Send)>,
) -> Result<bool, OfflineError> {
    check_ready(store, "the database", command.dry_run).await?;
    let sending = store.sending().await?;
    let Some(former) = &sending.account else {
        writeln!(
            out,
            "Nothing was reported yet: the first report decides the Stripe account. Nothing was changed."
        )?;
        return Ok(true);
    };
    let Some(new) = find_new(command, former).await? else {
        writeln!(
            out,
            "STRIPE_SECRET_KEY belongs to {former}, to which usage is reported already. Nothing was changed."
        )?;
        return Ok(true);
    };
    let totals = store.adoption_totals(MAX_READ).await?;
    print_totals(out, former, &new, &totals)?;
    if let Some(why) = sending.paused {
        writeln!(out, "Sending is paused, and that ends: {why}")?;
    }
    if command.dry_run {
        writeln!(out, "This was a dry run: nothing was changed.")?;
        return Ok(false);
    }
    if !command.yes && !confirm("Report to the new account from now on?", out, answers)? {
        writeln!(
            out,
            "Nothing was changed: run this again, with --yes to go on without asking."
        )?;
        return Ok(false);
    }
    let why = format!("{former} may have it; another account was adopted, so it is not sent again");
    let (id, details) = (
        Uuid::now_v7(),
        json!({ "from": former.to_string(), "to": new.to_string() }),
    );
    let action = ("AdoptStripeAccount", id, &details);
    let adopted = async {
        store.adopt_account(&new, &why, store.now().await?).await?;
        Ok(())
    };
    recorded(store, action, Box::pin(adopted)).await?;
    writeln!(
        out,
        "Done. Usage is reported to the new account when the server runs."
    )?;
    Ok(true)
}

/// The key's account, unless it is the former one.
async fn find_new(
    command: &AdoptCommand,
    former: &StripeAccount,
) -> Result<Option<StripeAccount>, OfflineError> {
    let meters = command.config.meters.read().map_err(OfflineError::Failed)?;
    let key = command.config.stripe.key().map_err(OfflineError::Failed)?;
    let key = key.ok_or_else(|| {
        OfflineError::Failed("set STRIPE_SECRET_KEY to a key of the new account".to_owned())
    })?;
    let stripe = Stripe::new(&key, &command.config.stripe);
    let stripe = stripe.map_err(OfflineError::Failed)?;
    let failed =
        |failure: crate::stripe::Failure| OfflineError::Failed(failure.message().to_owned());
    if find_difference(&stripe, former)
        .await
        .map_err(failed)?
        .is_none()
    {
        return Ok(None);
    }
    let new = identify(&stripe, &meters).await.map_err(failed)?;
    new.map(Some).ok_or_else(|| {
        OfflineError::Failed(
            "the new Stripe account has none of the configured meters; run `usage-server stripe setup` with its key first"
                .to_owned(),
        )
    })
}

fn print_totals(
    out: &mut impl Write,
    former: &StripeAccount,
    new: &StripeAccount,
    totals: &[AdoptionTotals],
) -> std::io::Result<()> {
    writeln!(out, "Former: {former}.\nNew: {new}.")?;
    writeln!(out, "{}", table(totals))?;
    if let Some(more @ 1..) = totals.len().checked_sub(MAX_ROWS) {
        writeln!(out, "and {more} more accounts and meters")?;
    }
    let sum =
        |of: fn(&AdoptionTotals) -> i64| totals.iter().map(of).fold(0_i64, i64::saturating_add);
    writeln!(
        out,
        "{} confirmed units stay with the former account, which bills them.",
        sum(|one| one.confirmed)
    )?;
    writeln!(
        out,
        "{} reports with {} unconfirmed units stay with the former account: it accepted them, or they were sent without an \
         answer. They are shown and never sent again. Check them in its dashboard; what it lacks can be counted again.",
        sum(|one| one.unconfirmed_reports),
        sum(|one| one.unconfirmed)
    )?;
    writeln!(
        out,
        "{} unsent units go to the new account, and {} units that were refused or too late go there if an admin decides so. \
         Their customers must exist there under the same ids, as after a copy of customers by Stripe. Reports of others \
         become `customer_deleted`: link their accounts to customers of the new account with PutAccount first.",
        sum(|one| one.unsent),
        sum(|one| one.undecided)
    )
}

fn table(totals: &[AdoptionTotals]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "account",
        "meter",
        "confirmed",
        "unconfirmed",
        "unsent",
        "undecided",
    ]);
    for one in totals.iter().take(MAX_ROWS) {
        table.add_row([
            one.account_id.clone(),
            one.meter.clone(),
            one.confirmed.to_string(),
            one.unconfirmed.to_string(),
            one.unsent.to_string(),
            one.undecided.to_string(),
        ]);
    }
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
