//! One run: months of one seed, with the faults of a list.

use std::{fmt, time::Duration};

use fake_stripe::{NewPrice, NewSubscription, WebhookOptions};
use usage_client::{ForceReport, PutAccount, Severity};

use crate::{
    admins,
    callers::Callers,
    checks::{self, Ends, Shown},
    disk::DISK,
    faults::{self, Fault, Kind},
    log,
    oracle::{Account, Billing, Oracle},
    random::Random,
    time::{self, DAY, HOUR, MINUTE, SECOND},
    world::{METERS, Outcome, World, text},
};

/// When every run begins: so that a leap day is near.
const START_MS: i64 = 1_832_990_706_000;
/// How long after a period's end the clocks stop: after the service's own close, while its invoice is a draft, around
/// its finalization, and after it.
const AFTER_END: [i64; 6] = [6, 25, 45, 56, 62, 71];
/// The parts of the seed.
const SHAPE: u64 = 1;
const TIMES: u64 = 2;
const STEPS: u64 = 3;

/// What a run is of.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    pub(crate) accounts: usize,
    pub(crate) days: i64,
}

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
    seed: u64,
    size: Size,
    world: World,
    oracle: Oracle,
    callers: Callers,
    shown: Shown,
    /// Each fault with its number in the whole list of the seed.
    faults: Vec<(usize, Fault)>,
    met: Vec<usize>,
    mattered: Vec<usize>,
    /// The step at which an outage, and a lag of summaries, ends.
    outage_ends: Option<usize>,
    lag_ends: Option<usize>,
    pub(crate) report: Report,
}

/// The faults of a seed.
pub(crate) fn faults_of(seed: u64, size: &Size) -> Vec<Fault> {
    faults::draw(seed, times(seed, size).len())
}

/// The billing cycle anchors and the number of meters of the accounts of a seed.
fn shape(seed: u64, size: &Size) -> Vec<(i64, usize)> {
    let mut random = Random::of_part(seed, SHAPE);
    (0..size.accounts)
        .map(|_| {
            let day = random.pick(&[0, 1, 14, 27, 28, 29, 30]);
            let anchor = START_MS - START_MS.rem_euclid(DAY) - 90 * DAY + day * DAY;
            let anchor = anchor + random.below(DAY / SECOND) * SECOND;
            (anchor, 1 + random.place(METERS.len()))
        })
        .collect()
}

/// The moments of the steps: at random distances, and closer around the ends of periods.
fn times(seed: u64, size: &Size) -> Vec<i64> {
    let mut random = Random::of_part(seed, TIMES);
    let anchors = shape(seed, size);
    let mut times = Vec::new();
    let mut now = START_MS;
    while now < START_MS + size.days * DAY {
        let next = now + random.pick(&[10 * MINUTE, 2 * HOUR, 8 * HOUR, 26 * HOUR]);
        let next = next + random.below(HOUR);
        let ends = anchors
            .iter()
            .map(|(anchor, _)| time::period_around(*anchor, now).1);
        match ends.min().filter(|end| *end <= next) {
            Some(end) => {
                if now < end - 5 * MINUTE {
                    times.push(end - 1 - random.below(5 * MINUTE));
                }
                times.push(end + random.below(30 * SECOND));
                for minutes in AFTER_END {
                    times.push(end + minutes * MINUTE + random.below(30 * SECOND));
                }
                now = end + 72 * MINUTE;
            }
            None => {
                times.push(next);
                now = next;
            }
        }
    }
    times.sort_unstable();
    times
}

impl Run {
    pub(crate) async fn begin(seed: u64, size: Size, faults: Vec<(usize, Fault)>) -> Outcome<Self> {
        let world = World::start(seed, START_MS).await?;
        let mut run = Self {
            seed,
            size,
            world,
            oracle: Oracle::default(),
            callers: Callers::default(),
            shown: Shown::new(),
            faults,
            met: Vec::new(),
            mattered: Vec::new(),
            outage_ends: None,
            lag_ends: None,
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
                anchor,
                meters,
                links: Vec::new(),
                plan: 0,
                splits: Vec::new(),
                boundaries: Vec::new(),
                is_ended: false,
                is_blurred: false,
            };
            let customer = account.customer();
            let stripe = &self.world.stripe;
            stripe.create_customer(&customer).await.map_err(text)?;
            let prices = METERS.iter().take(meters);
            let new = NewSubscription {
                id: account.subscription(),
                customer: customer.clone(),
                prices: prices.map(|(name, _)| format!("price_{name}")).collect(),
                anchor: Some(anchor.div_euclid(SECOND)),
                ..NewSubscription::default()
            };
            stripe.create_subscription(&new).await.map_err(text)?;
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
            }
            self.oracle.accounts.push(account);
        }
        Ok(())
    }

    /// Lives through all steps.
    pub(crate) async fn live(&mut self) -> Outcome<()> {
        let mut since = START_MS;
        for (step, at) in times(self.seed, &self.size).into_iter().enumerate() {
            let problems = log::number();
            let errors = self.report.errors;
            self.begin_faults(step).await?;
            self.world.jump(at).await?;
            self.act(step, since).await?;
            self.met.extend(DISK.take_met());
            if log::number() > problems || self.report.errors > errors {
                self.note_mattered(step);
            }
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
        let repeated = self
            .callers
            .repeat(&mut self.world, &mut self.oracle, &mut random)
            .await?;
        self.report.calls += counted.calls + repeated.calls;
        self.report.errors += counted.errors + repeated.errors;
        if random.one_in(5) {
            self.force_report().await?;
        }
        if random.one_in(4) {
            admins::act(&mut self.world, &mut self.oracle, &mut random).await?;
        }
        if random.one_in(3) {
            checks::check_shown(&mut self.world, &self.oracle, START_MS, &mut self.shown).await?;
        }
        Ok(())
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

    /// Begins the faults of a step, and ends those whose time has come.
    async fn begin_faults(&mut self, step: usize) -> Outcome<()> {
        DISK.begin_step(faults::of_disk(&self.faults, step));
        if self.outage_ends == Some(step) {
            self.outage_ends = None;
            self.world.is_wanted = true;
        }
        if self.lag_ends == Some(step) {
            self.lag_ends = None;
            let none = Duration::ZERO;
            let set = self.world.stripe.set_summary_delay(none).await;
            set.map_err(text)?;
        }
        if self.world.has_skew() {
            self.world.set_skew(0);
        }
        let own: Vec<(usize, Fault)> = self
            .faults
            .iter()
            .filter(|(_, fault)| fault.step == step)
            .cloned()
            .collect();
        for (number, fault) in own {
            self.begin_fault(step, number, fault.kind).await?;
        }
        Ok(())
    }

    async fn begin_fault(&mut self, step: usize, number: usize, kind: Kind) -> Outcome<()> {
        let stripe = self.world.stripe.clone();
        match kind {
            // The disk says when it is met.
            Kind::Disk { .. } => return Ok(()),
            Kind::PowerCut { unsynced, .. } => {
                self.world.unsynced = unsynced;
                return Ok(());
            }
            Kind::Kill => {
                let mut random = Random::of_part(self.seed, u64::try_from(number).unwrap_or(0));
                self.world.kill_in = u32::try_from(5 + random.below(12)).ok();
            }
            Kind::Restart => self.world.stop().await?,
            Kind::Outage { steps } => {
                self.world.is_wanted = false;
                self.outage_ends = Some(step + steps);
                self.world.kill(Some(crate::disk::Unsynced::Kept)).await?;
            }
            Kind::Freeze { ms } => self.world.freeze(ms).await?,
            Kind::Stripe { how, times } => {
                stripe.script(how.script(times)).await.map_err(text)?;
            }
            Kind::Lag { mins, steps } => {
                self.lag_ends = Some(step + steps);
                let delay = Duration::from_secs(u64::from(mins) * 60);
                stripe.set_summary_delay(delay).await.map_err(text)?;
            }
            Kind::Clock { mins } => self.world.set_skew(mins * MINUTE),
            Kind::Webhooks {
                copies,
                newest_first,
            } => {
                let options = WebhookOptions {
                    copies,
                    newest_first,
                    ..WebhookOptions::default()
                };
                stripe.set_webhook_options(&options).await.map_err(text)?;
            }
        }
        self.met.push(number);
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
                left = self
                    .callers
                    .repeat_all(&mut self.world, &mut self.oracle)
                    .await?;
            }
        }
        if left > 0 {
            return Err(format!("{left} calls are not acknowledged without a fault"));
        }
        self.force_report().await?;
        self.outlive_periods().await?;
        checks::check_shown(&mut self.world, &self.oracle, START_MS, &mut self.shown).await?;
        let ends = Ends::read(&mut self.world, &self.oracle).await?;
        self.report.told = ends.told();
        self.report.lines = ends.lines();
        ends.check(&self.oracle)?;
        if self.faults.is_empty()
            && let Some((_, line)) = ends
                .findings()
                .iter()
                .find(|(severity, _)| *severity == Severity::Bad)
        {
            return Err(format!("without a fault, doctor says: {line}"));
        }
        self.world.is_wanted = false;
        self.world.stop().await?;
        checks::check_ledger(&mut self.world).await
    }

    /// Lets the periods of all accounts end, their invoices become final, and everything be compared.
    async fn outlive_periods(&mut self) -> Outcome<()> {
        let last = self
            .oracle
            .accounts
            .iter()
            .map(|account| time::period_around(account.anchor, self.world.now_ms).1);
        let last = last.max().unwrap_or(self.world.now_ms);
        while self.world.now_ms < last {
            let now = self.world.now_ms;
            let end = self.oracle.next_end(now).unwrap_or(last);
            let mut at = now;
            while at + DAY < end - HOUR {
                at += DAY;
                self.world.jump(at).await?;
            }
            self.world.jump(end - MINUTE).await?;
            for minutes in AFTER_END {
                self.world.jump(end + minutes * MINUTE).await?;
            }
        }
        for _ in 0..14 {
            self.world.jump(self.world.now_ms + 2 * HOUR).await?;
        }
        Ok(())
    }
}
