//! One run: months of one seed, with the faults of a list.

use std::{fmt, time::Duration};

use fake_stripe::{NewPrice, WebhookOptions};
use usage_client::{ForceReport, PutAccount};

use crate::{
    admins, at_stripe,
    callers::{self, Callers},
    checks::{self, Ends, Shown},
    disk::DISK,
    faults::{self, Fault},
    log,
    oracle::{Account, Billing, Oracle},
    plan::{AFTER_END, SHAPE, START_MS, STEPS, Size, shape, times},
    random::Random,
    refusals::{self, Refusals},
    restore::{self, Plan},
    scripts::{self, Script},
    terms::Terms,
    time::{DAY, HOUR, MINUTE, SECOND},
    told,
    world::{METERS, Outcome, World, text},
};

/// How far the clocks jump at the end, where nothing happens.
const LONGEST_JUMP: i64 = 5 * DAY;

/// How long Stripe is read after each of the last jumps, in seconds.
const READING_SECS: u32 = 10;

/// How many steps after a fault of the disk or of the server every call succeeds again.
const CALM_AFTER: usize = 2;

/// One step in so many has a webhook that Stripe did not send.
const FORGED_EVERY: usize = 8;

/// How many steps after any fault everything is as without it. Some last for several steps.
const QUIET_AFTER: usize = 6;

/// What became of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) days: i64,
    pub(crate) steps: usize,
    pub(crate) calls: usize,
    pub(crate) errors: usize,
    pub(crate) units: usize,
    pub(crate) lines: usize,
    pub(crate) told: usize,
    pub(crate) starts: usize,
    pub(crate) writes: u64,
    pub(crate) syncs: u64,
    /// Of each fault of the list: its number, whether it was met, and whether it mattered.
    pub(crate) faults: Vec<(usize, Fault, bool, bool)>,
    /// Of each change at Stripe that was drawn: whether it was made.
    pub(crate) changes: Vec<(String, bool)>,
}

impl fmt::Display for Report {
    /// The same for each run of a seed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "days={} steps={} calls={} errors={} units={} lines={} told={} starts={} writes={} syncs={}",
            self.days,
            self.steps,
            self.calls,
            self.errors,
            self.units,
            self.lines,
            self.told,
            self.starts,
            self.writes,
            self.syncs
        )
    }
}

/// A run in progress.
pub(crate) struct Run {
    pub(crate) seed: u64,
    size: Size,
    pub(crate) world: World,
    pub(crate) oracle: Oracle,
    /// When a backup is made and restored, and the time of the backup.
    pub(crate) restore_plan: Option<Plan>,
    pub(crate) backup_at: Option<i64>,
    /// What still happens to the subscription of each account.
    pub(crate) scripts: Vec<Script>,
    callers: Callers,
    pub(crate) shown: Shown,
    /// Each fault with its number in the whole list of the seed.
    pub(crate) faults: Vec<(usize, Fault)>,
    pub(crate) met: Vec<usize>,
    mattered: Vec<usize>,
    /// The step at which an outage, and a lag of summaries, ends.
    pub(crate) outage_ends: Option<usize>,
    pub(crate) lag_ends: Option<usize>,
    /// The step from which Stripe answers about events again.
    pub(crate) deaf_ends: Option<usize>,
    /// Whether Stripe may refuse events, and what it refused.
    pub(crate) may_refuse: bool,
    pub(crate) refusals: Refusals,
    pub(crate) report: Report,
}

impl Run {
    pub(crate) async fn begin(seed: u64, size: Size, faults: Vec<(usize, Fault)>) -> Outcome<Self> {
        let world = World::start(seed, START_MS).await?;
        let restore_plan = restore::draw(seed, &size);
        // A restored database would learn of changes at Stripe once more.
        let scripts = match restore_plan {
            Some(_) => vec![Script::default(); size.accounts],
            None => scripts::draw(seed, &size),
        };
        let mut run = Self {
            seed,
            size,
            restore_plan,
            backup_at: None,
            scripts,
            world,
            oracle: Oracle::default(),
            callers: Callers::default(),
            shown: Shown::new(),
            faults,
            met: Vec::new(),
            mattered: Vec::new(),
            outage_ends: None,
            lag_ends: None,
            deaf_ends: None,
            may_refuse: false,
            refusals: Refusals::default(),
            report: Report::default(),
        };
        run.create_prices().await?;
        run.world.wait_until_up().await?;
        run.create_accounts().await?;
        Ok(run)
    }

    async fn create_prices(&mut self) -> Outcome<()> {
        let meters = self.world.stripe.meters().await.map_err(text)?;
        let prices = [
            ("price_api_calls", "prod_api_calls", METERS[0].1),
            ("price_api_calls_pro", "prod_api_calls", METERS[0].1),
            ("price_tokens", "prod_tokens", METERS[1].1),
        ];
        for (name, product, event_name) in prices {
            let meter = meters.iter().find(|meter| meter.event_name == event_name);
            let meter = meter.ok_or("no meter")?;
            let price =
                NewPrice::volume(name, product, &meter.id, &[(Some(100), "10"), (None, "5")]);
            self.world.stripe.create_price(&price).await.map_err(text)?;
        }
        Ok(())
    }

    async fn create_accounts(&mut self) -> Outcome<()> {
        let mut random = Random::of_part(self.seed, SHAPE + 100);
        for (number, (anchor, meters)) in shape(self.seed, &self.size).into_iter().enumerate() {
            let mut account = Account {
                name: format!("a{number}"),
                terms: Terms::of_anchor(anchor),
                subscriptions: 0,
                meters,
                links: Vec::new(),
                plan: 0,
                splits: Vec::new(),
                is_ended: false,
                is_blurred: false,
                is_linked_first: false,
                made: Vec::new(),
            };
            self.subscribe(&mut account, number, anchor).await?;
            let customer = account.customer();
            let put = match random.below(6) {
                0 => Some((PutAccount::free(&account.name), Billing::Free)),
                1 => None,
                _ => {
                    let put = PutAccount::stripe(&account.name, customer);
                    Some((put, Billing::Customer))
                }
            };
            if let Some((put, billing)) = put {
                let client = self.world.client.clone();
                let putting = async move { client.put_account(put).await };
                let done = self.world.run(putting).await?.map_err(text)?;
                let from = done.account.valid_from.timestamp_millis();
                let expected = match billing {
                    Billing::Customer => account.period_at(0, START_MS).0,
                    _ => from,
                };
                if from != expected {
                    return Err(format!("{} is linked from {from}", account.name));
                }
                account.links.push((from, billing));
                account.is_linked_first = billing == Billing::Customer;
            }
            self.oracle.accounts.push(account);
        }
        Ok(())
    }

    /// Creates the customer of an account with its first subscription.
    async fn subscribe(&self, account: &mut Account, number: usize, anchor: i64) -> Outcome<()> {
        let stripe = &self.world.stripe;
        let customer = account.customer();
        stripe.create_customer(&customer).await.map_err(text)?;
        let prices = at_stripe::prices(0, account.meters);
        let anchor = Some(anchor.div_euclid(SECOND));
        let new = at_stripe::subscription((account.subscription(), customer), prices, anchor);
        let Some(trial) = self.scripts[number].trial else {
            let created = stripe.create_subscription(&new).await;
            return created.map(|_| ()).map_err(text);
        };
        let new = at_stripe::in_trial(new, trial, self.world.now_ms);
        let created = stripe.create_subscription(&new).await.map_err(text)?;
        account.terms = at_stripe::terms_of_trial(&created, trial)?;
        Ok(())
    }

    /// Lives through all steps.
    pub(crate) async fn live(&mut self) -> Outcome<()> {
        let (mut since, mut before) = (START_MS, START_MS);
        for (step, at) in times(self.seed, &self.size).into_iter().enumerate() {
            // Before the warnings of the step are counted: the service warns of it.
            if step % FORGED_EVERY == 0 {
                checks::check_forged(&mut self.world).await?;
            }
            self.back_up_or_restore(step).await?;
            let problems = log::number();
            let errors = self.report.errors;
            self.begin_faults(step).await?;
            self.world.jump(at).await?;
            self.change_at_stripe(step, before).await?;
            DISK.begin_step(faults::of_disk(&self.faults, step, true));
            self.act(step, since).await?;
            self.note_read(step).await?;
            if self.may_refuse {
                let is_calm = self.is_calm(step);
                self.refusals.note(&self.world, is_calm).await?;
                self.may_refuse = refusals::may_follow(&self.world).await?;
            }
            self.met.extend(DISK.take_met());
            if log::number() > problems || self.report.errors > errors {
                self.note_mattered(step);
            }
            before = since;
            since = at.max(START_MS);
            self.report.steps += 1;
        }
        Ok(())
    }

    /// What callers and admins do in a step.
    async fn act(&mut self, step: usize, since: i64) -> Outcome<()> {
        let part = STEPS + u64::try_from(step).unwrap_or(0) * 7;
        let mut random = Random::of_part(self.seed, part);
        let counted = self
            .callers
            .count(&mut self.world, &mut self.oracle, &mut random, since)
            .await?;
        let repeated = callers::repeat(&mut self.world, &mut self.oracle, &mut random).await?;
        let known = counted.known_at_first + repeated.known_at_first;
        if known > 0 && self.is_calm(step) {
            return Err(format!("{known} refused units were counted in step {step}"));
        }
        if counted.errors + repeated.errors > 0 && self.is_calm(step) {
            return Err(format!(
                "{} of {} calls failed in step {step}, and neither the disk nor the server did",
                counted.errors + repeated.errors,
                counted.calls + repeated.calls
            ));
        }
        self.report.calls += counted.calls + repeated.calls;
        self.report.errors += counted.errors + repeated.errors;
        if random.one_in(5) {
            self.force_report().await?;
        }
        if random.one_in(4) && !self.is_before_restore() {
            admins::act(&mut self.world, &mut self.oracle, &mut random).await?;
        }
        if random.one_in(3) {
            checks::check_shown(&mut self.world, &self.oracle, START_MS, &mut self.shown).await?;
        }
        Ok(())
    }

    /// Whether nothing but Stripe, clocks and webhooks fails in a step, or did shortly before it. Then nothing stops
    /// counting.
    fn is_calm(&self, step: usize) -> bool {
        let lately = step.saturating_sub(CALM_AFTER)..=step;
        let mut faults = self.faults.iter().map(|(_, fault)| fault);
        self.outage_ends.is_none()
            && !faults.any(|fault| fault.kind.stops_counting() && lately.contains(&fault.step))
    }

    /// Whether nothing fails in a step, or did shortly before it, so that the service learns what there is to learn.
    pub(crate) fn is_quiet(&self, step: usize) -> bool {
        let lately = step.saturating_sub(QUIET_AFTER)..=step;
        let mut faults = self.faults.iter();
        let is_over = self.outage_ends.is_none() && self.lag_ends.is_none();
        is_over
            && self.deaf_ends.is_none()
            && !faults.any(|(_, fault)| lately.contains(&fault.step))
    }

    async fn force_report(&mut self) -> Outcome<()> {
        let client = self.world.client.clone();
        let reporting = async move {
            let run = client.force_report(ForceReport::all()).await?;
            run.summary().await
        };
        // It may fail: the schedule reports all the same.
        let _ = self.world.run(reporting).await?;
        Ok(())
    }

    /// In this step the service warned, or a call failed: its faults that were met mattered.
    fn note_mattered(&mut self, step: usize) {
        for (number, fault) in &self.faults {
            if fault.step == step && self.met.contains(number) {
                self.mattered.push(*number);
            }
        }
    }

    /// Ends all faults, lets everything be sent, invoiced and compared, and checks it.
    pub(crate) async fn finish(mut self, lived: Outcome<()>) -> (Report, Outcome<()>) {
        let ended = match lived {
            Ok(()) => self.end_and_check().await,
            Err(why) => Err(why),
        };
        let counts = DISK.counts();
        let mut report = self.report;
        (report.writes, report.syncs) = (counts.writes, counts.syncs);
        report.days = (self.world.now_ms - START_MS) / DAY;
        report.units = self.oracle.units.len();
        report.starts = self.world.starts;
        let left = self.scripts.iter().flat_map(|script| &script.events);
        let left = left.map(|(_, event)| (event.name(), false));
        report.changes.extend(left);
        if self.restore_plan.is_some() {
            let is_made = self.oracle.restored.is_some();
            report.changes.push((restore::NAME.to_owned(), is_made));
        }
        report.faults = self
            .faults
            .into_iter()
            .map(|(number, fault)| {
                (
                    number,
                    fault,
                    self.met.contains(&number),
                    self.mattered.contains(&number),
                )
            })
            .collect();
        (report, ended)
    }

    async fn end_and_check(&mut self) -> Outcome<()> {
        DISK.begin_step(Vec::new());
        self.refusals.check(&self.world).await?;
        let stripe = self.world.stripe.clone();
        stripe.clear_faults().await.map_err(text)?;
        let none = Duration::ZERO;
        stripe.set_summary_delay(none).await.map_err(text)?;
        let usual = WebhookOptions::default();
        stripe.set_webhook_options(&usual).await.map_err(text)?;
        self.world.set_skew(0);
        self.world.kill_in = None;
        self.world.wait_until_up().await?;
        let mut left = usize::MAX;
        for _ in 0..5 {
            if left > 0 {
                left = callers::repeat_all(&mut self.world, &mut self.oracle).await?;
            }
        }
        if left > 0 {
            return Err(format!("{left} calls are not acknowledged without a fault"));
        }
        self.force_report().await?;
        self.outlive_periods().await?;
        checks::check_shown(&mut self.world, &self.oracle, START_MS, &mut self.shown).await?;
        let refusals = std::mem::take(&mut self.refusals);
        let ends = Ends::read(&mut self.world, &self.oracle, refusals).await?;
        let ends = told::read_and_check(&mut self.world, &self.oracle, ends).await?;
        self.report.told = ends.told();
        self.report.lines = ends.lines();
        ends.check(&self.oracle, &self.faults)?;
        if self.faults.is_empty() {
            ends.check_without_faults(&self.oracle)?;
        }
        self.world.is_wanted = false;
        self.world.stop().await?;
        checks::check_ledger(&mut self.world).await
    }

    /// Lets the periods of all accounts end, their invoices become final, and everything be compared.
    async fn outlive_periods(&mut self) -> Outcome<()> {
        let last = self.oracle.last_end(self.world.now_ms);
        let last = last.unwrap_or(self.world.now_ms);
        while self.world.now_ms < last {
            let now = self.world.now_ms;
            let end = self.oracle.next_end(now).unwrap_or(last);
            let mut at = now;
            while at + LONGEST_JUMP < end - HOUR {
                at += LONGEST_JUMP;
                self.world.jump(at).await?;
            }
            self.world.jump(end - MINUTE).await?;
            for minutes in AFTER_END {
                self.world.jump(end + minutes * MINUTE).await?;
            }
        }
        for _ in 0..6 {
            self.world.jump(self.world.now_ms + 6 * HOUR).await?;
            // Stripe's totals are read at a limited rate.
            for _ in 0..READING_SECS {
                self.world.pass(Duration::from_secs(1)).await?;
            }
        }
        Ok(())
    }
}
