//! `usage-server restore`: after a backup of the database was put in place, compares it with Stripe, so that nothing is
//! billed twice.
//!
//! It pauses sending, closes the reports that were open, and decides by Stripe's totals which reports Stripe has. It
//! prints what Stripe has beyond that, enters it after a confirmation, and ends the pause. Every step can be repeated:
//! run it again after an interruption.

mod backup_time;
mod earlier;
mod entry;
mod file;
mod keys;
mod moment;
mod print;

use std::{
    io::{BufRead, Write},
    path::PathBuf,
};

use clap::Args;
use uuid::Uuid;

use self::{
    backup_time::backup_time,
    earlier::{Compared, Marks},
    entry::Entry,
    keys::print_keys,
    print::{Totals, print_result},
};
use super::{
    offline::{OfflineError, check_ready, confirm, open, recorded},
    reconcile::parse_time,
};
use crate::{
    account_check::find_difference,
    clock::Clock,
    config::CommandConfig,
    domain::{Millis, meter::Meters, sender_mark::Mark, stream::Stream},
    read_rate::ReadRate,
    restore_look_up::{LookUp, LookUpError, hours_since},
    store::{Store, sending_state::Sending},
    stripe::{Failure, Stripe},
};

/// Totals read from Stripe a second.
const READS_PER_SEC: u32 = 20;
/// The number of customers that one query reads.
const CUSTOMERS_PER_PAGE: u64 = 500;
/// The maximum number of hours that are entered. Beyond it the backup is of another Stripe account.
const MAX_ENTRIES: usize = 1_000_000;

/// The flags of the command.
#[derive(Args, Clone, Debug)]
pub struct RestoreCommand {
    /// The database, the Stripe account and the meters.
    #[command(flatten)]
    pub config: CommandConfig,

    /// When the backup was made, as an RFC 3339 time, or earlier. Default: the time that the marks at Stripe show, which is
    /// an hour or two before. It is required where they do not show it.
    #[arg(long, value_parser = parse_time)]
    pub backup_at: Option<Millis>,

    /// The moment from which this service bills (`usagectl shadow switch`), if the backup is from before it was named. What
    /// Stripe has from before it was sent by another integration.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub bill_from: Option<Millis>,

    /// A backup of a SQLite database, made by `usage-server backup`, that is first put in the place of the database. What is
    /// there stays beside it under another name.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub from: Option<PathBuf>,

    /// Enter what Stripe has beyond the database, and bill from the moment of `--bill-from`, without asking.
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,

    /// Print what would be done, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// The dependencies of the steps.
struct Restore<'a> {
    store: &'a Store,
    stripe: Stripe,
    meters: Meters,
    rate: ReadRate,
    is_dry_run: bool,
    backup_at: Millis,
    restored_at: Millis,
    /// What Stripe has from before is another integration's. It may be ahead.
    bills_since: Millis,
    /// The moment to name, because the backup does not know it.
    bill_from: Option<Millis>,
    /// Whether other databases send to the same meters: then the time before the backup is not compared.
    has_other_databases: bool,
}

/// The settings that the comparison needs.
struct Settings {
    stripe: Stripe,
    meters: Meters,
}

impl Settings {
    fn read(command: &RestoreCommand) -> Result<Self, OfflineError> {
        let meters = command.config.meters.read().map_err(OfflineError::Failed)?;
        let key = command.config.stripe.key().map_err(OfflineError::Failed)?;
        let key = key.ok_or_else(|| {
            OfflineError::Failed(
                "restore reads totals from Stripe; set STRIPE_SECRET_KEY".to_owned(),
            )
        })?;
        let stripe = Stripe::new(&key, &command.config.stripe);
        let stripe = stripe.map_err(OfflineError::Failed)?;
        Ok(Self { stripe, meters })
    }
}

/// Compares a restored database with Stripe. Returns whether reports are sent again. `answers` is where the confirmation
/// is read from; without it, nothing is entered unless the flags say so.
///
/// # Errors
/// See [`OfflineError`]. Sending stays paused.
pub async fn run(
    command: &RestoreCommand,
    clock: &Clock,
    out: &mut (impl Write + Send),
    answers: Option<&mut (dyn BufRead + Send)>,
) -> Result<bool, OfflineError> {
    // Before anything is changed.
    let settings = Settings::read(command)?;
    if let Some(backup) = &command.from {
        let url = command.config.database.url();
        let url = url.map_err(OfflineError::Failed)?;
        let placed = Box::pin(file::put_in_place(&url, backup, clock)).await?;
        writeln!(
            out,
            "{}: put in place, {} units counted",
            backup.display(),
            placed.units
        )?;
        if let Some(former) = placed.former {
            writeln!(out, "the former database is {}", former.display())?;
        }
        if let Some(log) = placed.log {
            writeln!(out, "a log without a database is kept as {}", log.display())?;
        }
    }
    let (_lock, store) = open(&command.config.database, clock).await?;
    let done = restore(command, settings, &store, out, answers).await;
    let closed = store.close().await;
    let done = done?;
    closed?;
    Ok(done)
}

async fn restore(
    command: &RestoreCommand,
    Settings { stripe, meters }: Settings,
    store: &Store,
    out: &mut (impl Write + Send),
    mut answers: Option<&mut (dyn BufRead + Send)>,
) -> Result<bool, OfflineError> {
    check_ready(store, "the backup", command.dry_run).await?;
    let now = store.now().await?;
    let mut restore = Restore {
        store,
        stripe,
        meters,
        rate: ReadRate::per_sec(READS_PER_SEC),
        is_dry_run: command.dry_run,
        backup_at: now,
        restored_at: now,
        bills_since: Millis::MIN,
        bill_from: command.bill_from,
        has_other_databases: false,
    };
    let sending = store.sending().await?;
    restore.check_account(&sending).await?;
    let marks = restore.marks_of(sending.database_id).await?;
    let last_change = store.last_activity().await?;
    restore.set_moment(&sending, last_change)?;
    let backup_at = backup_time(command.backup_at, &sending, &marks.own, last_change);
    restore.backup_at = backup_at.map_err(OfflineError::Failed)?.min(now);
    restore.has_other_databases = marks.has_others(restore.backup_at);
    let (id, details) = (Uuid::now_v7(), restore.details());
    if command.dry_run {
        Box::pin(restore.compare_and_print(now, out)).await?;
        print_keys(store, now, out).await?;
        return Ok(store.sending().await?.paused.is_none());
    }
    let may_name =
        command.yes || restore.is_moment_confirmed(&sending, out, answers.as_deref_mut())?;
    if !may_name {
        writeln!(
            out,
            "Nothing was changed: run this again, with --yes to go on without asking."
        )?;
        return Ok(false);
    }
    // Boxed because it is too large for the stack of a thread.
    let entered = Box::pin(restore.enter((command.yes, answers), out, &marks.own, now));
    let entered = recorded(store, ("Restore", id, &details), entered).await;
    match entered {
        Ok(()) => {
            print_keys(store, now, out).await?;
            writeln!(out, "Done. Reports are sent again when the server runs.")?;
            Ok(true)
        }
        Err(OfflineError::NotConfirmed) => {
            writeln!(
                out,
                "Nothing was entered. {}The reports that were open are closed. Sending stays paused: run this again, with --yes to enter without asking.",
                restore.named_moment()
            )?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

impl Restore<'_> {
    /// Compares the database with Stripe, and prints the result.
    async fn compare_and_print(
        &mut self,
        now: Millis,
        out: &mut (impl Write + Send),
    ) -> Result<Vec<Entry>, OfflineError> {
        self.prepare(now, out).await?;
        let (entries, totals) = self.compare(now).await?;
        let lost = (self.backup_at, self.restored_at);
        print_result(out, lost, &entries, &totals, self.is_dry_run)?;
        Ok(entries)
    }

    /// Enters what Stripe has beyond the database, if that is confirmed, and ends the pause.
    async fn enter(
        &mut self,
        (is_confirmed, answers): (bool, Option<&mut (dyn BufRead + Send)>),
        out: &mut (impl Write + Send),
        marks: &[Mark],
        now: Millis,
    ) -> Result<(), OfflineError> {
        let entries = self.compare_and_print(now, out).await?;
        if !entries.is_empty()
            && !is_confirmed
            && !confirm("Enter this as usage already sent?", out, answers)?
        {
            return Err(OfflineError::NotConfirmed);
        }
        for entry in &entries {
            let place = (&entry.stream, entry.hour.hour);
            self.store
                .set_already_sent(place, &entry.account_id, entry.hour.already_sent, now)
                .await?;
        }
        if let Some(mark) = marks.iter().max() {
            self.store.take_over_mark(mark, self.restored_at).await?;
        }
        self.store.resume_sending().await?;
        Ok(())
    }

    /// Fails with the key of another Stripe account, whose totals say nothing of this database.
    async fn check_account(&self, sending: &Sending) -> Result<(), OfflineError> {
        let Some(account) = &sending.account else {
            return Ok(());
        };
        match find_difference(&self.stripe, account).await {
            Ok(None) => Ok(()),
            Ok(Some(why)) => Err(OfflineError::Failed(why)),
            Err(failure) => Err(OfflineError::Failed(failure.message().to_owned())),
        }
    }

    /// The marks that copies of this database and others left at Stripe. They are read before Stripe's totals: a copy that
    /// still runs leaves a later one, and is noticed.
    async fn marks_of(&self, database: Uuid) -> Result<Marks, OfflineError> {
        match self.stripe.marked_products(&self.meters).await {
            Ok(products) => {
                let all = products.into_iter().flat_map(|product| product.marks);
                let (own, others): (Vec<_>, Vec<_>) =
                    all.partition(|stored| stored.database == database);
                Ok(Marks {
                    own: own.into_iter().map(|stored| stored.mark).collect(),
                    last_other: others.iter().map(|stored| stored.written_at).max(),
                })
            }
            // Without marks there is nothing to take over.
            Err(Failure::Denied(_)) => Ok(Marks::default()),
            Err(failure) => Err(OfflineError::Failed(format!(
                "the mark at Stripe cannot be read: {}; run this again",
                failure.message()
            ))),
        }
    }

    /// Pauses sending, closes the open reports and makes unsent ones unknown. A dry run only reads the time of a restore
    /// that was begun.
    async fn prepare(
        &mut self,
        now: Millis,
        out: &mut (impl Write + Send),
    ) -> Result<(), OfflineError> {
        let row = if self.is_dry_run {
            self.store.sending().await?
        } else {
            self.store.begin_restore(self.backup_at, now).await?
        };
        if row.is_restoring() {
            self.restored_at = row.restored_at.unwrap_or(now);
        }
        if self.is_dry_run {
            return Ok(());
        }
        self.name_moment(out).await?;
        // No server counts meanwhile, so this ends.
        while self.store.close_restored_page(self.restored_at).await? > 0 {}
        self.store.doubt_unsent(self.restored_at).await?;
        Ok(())
    }

    /// Compares every customer and meter with Stripe, and records which reports Stripe has.
    async fn compare(&self, now: Millis) -> Result<(Vec<Entry>, Totals), OfflineError> {
        let mut entries = Vec::new();
        let mut totals = Totals {
            has_other_databases: self.has_other_databases,
            is_billed_elsewhere: self.bills_since > now,
            ..Totals::default()
        };
        if totals.is_billed_elsewhere {
            // Whatever Stripe has is what another integration sent.
            return Ok((entries, totals));
        }
        let mut after = String::new();
        loop {
            let page = self
                .store
                .billed_customers(&after, CUSTOMERS_PER_PAGE)
                .await?;
            let Some(last) = page.last() else {
                return Ok((entries, totals));
            };
            after.clone_from(&last.customer);
            for billed in page {
                for meter in self.meters.all() {
                    let stream = Stream {
                        customer: billed.customer.clone(),
                        meter: meter.name.to_string(),
                    };
                    let compared = self.compare_stream(&stream, &meter.event_name, now).await?;
                    totals.left_out = totals.left_out.saturating_add(compared.left_out);
                    for hour in compared.hours {
                        totals.add(&hour);
                        // What was entered before and is no longer at Stripe is taken back.
                        if hour.already_sent != hour.entered {
                            let then = self.store.account_billed_at(&stream.customer, hour.hour);
                            let then = then.await?;
                            entries.push(Entry {
                                account_id: then.unwrap_or_else(|| billed.account_id.clone()),
                                stream: stream.clone(),
                                hour,
                            });
                        }
                    }
                    if entries.len() > MAX_ENTRIES {
                        let why = format!(
                            "Stripe has usage of more than {MAX_ENTRIES} hours that the database lacks: check STRIPE_SECRET_KEY and --backup-at"
                        );
                        return Err(OfflineError::Failed(why));
                    }
                }
            }
        }
    }

    async fn compare_stream(
        &self,
        stream: &Stream,
        event_name: &str,
        now: Millis,
    ) -> Result<Compared, OfflineError> {
        let restored_at = Some(self.restored_at);
        let oldest = self
            .store
            .oldest_candidate_hour(stream, restored_at)
            .await?;
        let since = oldest.map_or(self.backup_at, |hour| hour.min(self.backup_at));
        self.rate.turn().await;
        let look_up = LookUp {
            store: self.store,
            stripe: &self.stripe,
            stream,
            event_name,
            range: hours_since(since.max(self.bills_since), now),
            restored_at,
            records: !self.is_dry_run,
        };
        match self.compare_with_earlier(look_up, now).await {
            // Nothing can be read, and nothing can be sent.
            Err(LookUpError::Stripe(Failure::NoCustomer(_) | Failure::NoMeter(_))) => {
                Ok(Compared::default())
            }
            compared => compared.map_err(|error| {
                OfflineError::Failed(format!(
                    "customer {}, meter {}: {error}; sending stays paused, run this again",
                    stream.customer, stream.meter
                ))
            }),
        }
    }
}
