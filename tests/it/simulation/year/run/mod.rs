//! Applies the plan to the service and to the model, and compares them at the end.

mod changes;
mod comparing;
mod corrections;
mod decisions;
mod signing_off;

use chrono::{DateTime, Datelike as _, Months, TimeDelta, Utc};
use fake_stripe::Fault;

use self::decisions::Done;
use super::{
    oracle::{Account, Segment},
    plan::{METERS, Size, anchor, period_around, start},
};
use crate::support::{
    random::Random,
    world::{
        Server, World,
        billing::{BASIC, SEATS, TOKENS},
    },
};

const HOUR: i64 = 3_600_000;
/// Period ends that are at most this far apart are simulated together.
const TOGETHER: TimeDelta = TimeDelta::seconds(90);
/// The times after period ends at which the clocks stop: after the service's own close, while the invoices are drafts,
/// twice at their finalization, and after it.
const AFTER_END_MINS: [i64; 6] = [6, 30, 55, 56, 65, 70];

/// The cron expression of the report schedule. It runs rarely, because each of its runs takes real seconds.
const SCHEDULE: &str = "0 3 17 1,4,7,10 *";
const SCHEDULED: &str = "report_runs WHERE trigger = 'schedule'";

/// An account of the plan.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says one thing that is so or not"
)]
struct SimulatedAccount {
    name: String,
    /// The billing cycle anchor of its current subscription, and the number of its subscriptions so far.
    anchor: DateTime<Utc>,
    subscriptions: usize,
    plan: &'static str,
    meters: usize,
    /// Whether it was ever linked, and whether it is linked now.
    is_known: bool,
    is_linked: bool,
    /// Whether the current subscription is live, and whether it ends with its period.
    is_live: bool,
    is_ending: bool,
    model: Account,
}

struct Year<'a> {
    world: &'a mut World,
    size: &'a Size,
    seed: u64,
    random: Random,
    accounts: Vec<SimulatedAccount>,
    now: DateTime<Utc>,
    /// Periods that end later are not simulated.
    until: DateTime<Utc>,
    is_up: bool,
    /// The number of runs that the schedule has begun.
    scheduled: i64,
    is_report_due: bool,
    done: Done,
}

pub(super) async fn live(world: &mut World, size: &Size) {
    let mut now = start();
    let schedule = format!("--report-schedule={SCHEDULE}");
    world.reconfigure(&[&schedule]).await;
    world.with_prices_at(now).await;
    world.wait_until_idle().await;
    for seed in &size.seeds {
        eprintln!("seed {seed} from {now}");
        let scheduled = world.count_rows(SCHEDULED).await;
        let until = now + Months::new(size.months);
        let mut year = Year {
            world,
            size,
            seed: *seed,
            random: Random(*seed),
            accounts: Vec::new(),
            now,
            until,
            is_up: true,
            scheduled,
            is_report_due: false,
            done: Done::default(),
        };
        year.begin().await;
        let mut month = now.month();
        while let Some((first, last)) = year.next_end().filter(|(_, last)| *last < until) {
            year.between(first).await;
            year.through(first, last).await;
            if year.now.month() != month {
                month = year.now.month();
                eprintln!("seed {seed} until {}", year.now);
            }
        }
        year.compare().await;
        now = year.now;
    }
}

impl Year<'_> {
    async fn begin(&mut self) {
        for number in 0..self.size.accounts {
            let name = format!("y{}-{number}", self.seed);
            let anchor = anchor(&mut self.random, number);
            let meters = 1 + usize::from(self.random.one_in(2));
            let mut prices = vec![BASIC];
            if meters == 2 {
                prices.push(TOKENS);
            }
            if self.random.one_in(3) {
                prices.push(SEATS);
            }
            self.world.subscribe(&name, &prices, anchor).await;
            self.accounts.push(SimulatedAccount {
                name,
                anchor,
                subscriptions: 1,
                plan: BASIC,
                meters,
                is_known: false,
                is_linked: false,
                is_live: true,
                is_ending: false,
                model: Account::default(),
            });
            if !self.size.has("links") || !self.random.one_in(3) {
                self.link(number).await;
            }
        }
    }

    /// The next period ends that are simulated together.
    fn next_end(&self) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let mut ends: Vec<_> = self
            .accounts
            .iter()
            .filter(|account| account.is_live)
            .map(|account| period_around(account.anchor, self.now).1)
            .collect();
        ends.sort_unstable();
        let first = *ends.first()?;
        let last = ends.into_iter().filter(|end| *end < first + TOGETHER);
        Some((first, last.max()?))
    }

    /// Moves the clocks, and waits until the service's jobs have done what is due.
    async fn step(&mut self, to: DateTime<Utc>) {
        self.is_report_due |= comes_between(self.now, to);
        self.now = to;
        self.world.move_clocks(to).await;
        if self.is_up {
            self.wait_and_compare().await;
        }
    }

    /// Waits until the service is idle, and applies its scheduled work to the model.
    async fn wait_and_compare(&mut self) {
        self.world.wait_until_idle().await;
        if self.is_report_due {
            self.scheduled += 1;
            let (world, scheduled) = (&*self.world, self.scheduled);
            let is_begun = || async move { world.count_rows(SCHEDULED).await == scheduled };
            world.wait_until("the schedule", is_begun).await;
            world.wait_until_idle().await;
        }
        let now = self.now.timestamp_millis();
        for account in &mut self.accounts {
            account.learn(self.now);
            if self.is_report_due {
                account.model.close(now);
            }
            account.model.advance_to(now);
        }
        self.is_report_due = false;
    }

    /// Simulates the time before the next period ends.
    async fn between(&mut self, end: DateTime<Utc>) {
        let since = self.now;
        let to = self.random.between(since, end - TimeDelta::minutes(30));
        self.step(to.max(since + TimeDelta::seconds(20))).await;
        for account in 0..self.accounts.len() {
            for _ in 0..self.random.below(3) {
                let at = match self.random.below(6) {
                    0 => self.now - TimeDelta::milliseconds(self.random.below(30 * 24 * HOUR)),
                    1 => self.now - TimeDelta::milliseconds(self.random.below(24 * HOUR)),
                    2 => self.now - TimeDelta::milliseconds(self.random.below(HOUR)),
                    _ => self.random.between(since, self.now),
                };
                self.count(account, at).await;
            }
        }
        self.correct_some().await;
        self.decide_some().await;
        if self.size.has("reports") && self.random.one_in(4) {
            self.report().await;
        }
        if self.now + TimeDelta::minutes(20) < end {
            self.change_some().await;
        }
    }

    async fn report(&mut self) {
        self.world.report_all().await;
        let now = self.now.timestamp_millis();
        for account in &mut self.accounts {
            account.model.close(now);
            account.model.send(now);
        }
    }

    /// Simulates the time around period ends.
    async fn through(&mut self, first: DateTime<Utc>, last: DateTime<Utc>) {
        let ending: Vec<(usize, DateTime<Utc>)> = self
            .accounts
            .iter()
            .enumerate()
            .filter(|(_, account)| account.is_live)
            .map(|(number, account)| (number, period_around(account.anchor, self.now).1))
            .filter(|(_, end)| first <= *end && *end <= last)
            .collect();
        // The service is down at the period end, until one of the times after it.
        let down = (self.size.has("downtime") && self.random.one_in(4))
            .then(|| usize::try_from(self.random.below(5)).unwrap());
        let is_crash = self.random.one_in(2);
        let mut replica = None;
        if down.is_some() {
            self.go_down(is_crash).await;
        } else if self.size.has("replicas") && self.random.one_in(4) {
            replica = self.world.second_client().await.0;
        }
        let moment = last + TimeDelta::seconds(1 + self.random.below(20));
        self.step(moment).await;
        self.count_at_edges(&ending, replica.as_ref()).await;
        if self.size.has("faults") && down.is_none() && self.random.one_in(2) {
            self.script_faults().await;
        }
        for (number, minutes) in AFTER_END_MINS.into_iter().enumerate() {
            let seconds = TimeDelta::seconds(self.random.below(30));
            let moment = last + TimeDelta::minutes(minutes) + seconds;
            if down == Some(number) {
                self.step(moment - TimeDelta::seconds(15)).await;
                self.come_up(is_crash).await;
            }
            self.step(moment).await;
            if number == 0 {
                self.world.stripe().clear_faults().await.expect("no faults");
            }
            if !self.is_up || [55, 70].contains(&minutes) {
                continue;
            }
            for (account, end) in &ending {
                if self.random.one_in(4) {
                    let back = TimeDelta::milliseconds(self.random.below(5 * HOUR));
                    self.count(*account, *end + TimeDelta::minutes(minutes) - back)
                        .await;
                }
            }
            if down == Some(number) {
                self.count_at_edges(&ending, None).await;
            }
        }
        if let Some(replica) = replica {
            replica.stop().await.expect("a clean end");
        }
    }

    async fn go_down(&mut self, is_crash: bool) {
        if is_crash {
            self.world.kill_and_wait().await;
        } else {
            self.world.stop().await;
        }
        self.is_up = false;
    }

    async fn come_up(&mut self, is_crash: bool) {
        self.world.start_server().await;
        if is_crash {
            self.world.expire_leases().await;
        }
        self.is_up = true;
        self.wait_and_compare().await;
    }

    /// Counts usage around period ends: one millisecond before, at the end, and at random distances.
    async fn count_at_edges(&mut self, ending: &[(usize, DateTime<Utc>)], by: Option<&Server>) {
        if !self.is_up {
            return;
        }
        for (account, end) in ending {
            let edges = [-1, 0, -self.random.below(HOUR), self.random.below(1_000)];
            for away in edges {
                if self.random.one_in(2) {
                    let at = *end + TimeDelta::milliseconds(away);
                    self.count_by(*account, at, by).await;
                }
            }
        }
    }

    /// Lets some of the next requests to Stripe fail.
    async fn script_faults(&mut self) {
        for _ in 0..=self.random.below(3) {
            let fault = match self.random.below(6) {
                0 => Fault::status(500),
                1 => Fault::status(503).after_executing(),
                2 => Fault::status(429),
                3 => Fault::accept_then_drop(),
                4 => Fault::undecodable(),
                _ => Fault::drop_connection(),
            };
            let fault = fault.on_path("/v1/billing/meter_events").on_method("POST");
            self.world.stripe().script(fault).await.expect("a fault");
        }
    }

    async fn count(&mut self, account: usize, at: DateTime<Utc>) {
        self.count_by(account, at, None).await;
    }

    async fn count_by(&mut self, account: usize, at: DateTime<Utc>, by: Option<&Server>) {
        let at = at.min(self.now);
        let meter = usize::try_from(self.random.below(2)).unwrap() % self.accounts[account].meters;
        let quantity = 1 + self.random.below(1_000);
        let account = &mut self.accounts[account];
        let increment = usage_client::Increment::new(&account.name)
            .meter(METERS[meter].0)
            .quantity(quantity)
            .timestamp(at);
        let client = match by {
            Some(replica) => replica.client().await,
            None => self.world.client(),
        };
        client.increment(increment).await.expect("counted");
        account.model.count(meter, at.timestamp_millis(), quantity);
    }
}

/// Whether the schedule fires after one time, up to another.
fn comes_between(after: DateTime<Utc>, until: DateTime<Utc>) -> bool {
    let days = after.date_naive().iter_days();
    let days = days.take_while(|day| *day <= until.date_naive());
    let mut moments = days
        .filter(|day| day.day() == 17 && day.month0().is_multiple_of(3))
        .map(|day| day.and_hms_opt(3, 0, 0).expect("a time").and_utc());
    moments.any(|moment| after < moment && moment <= until)
}

impl SimulatedAccount {
    fn customer(&self) -> String {
        format!("cus_{}", self.name)
    }

    fn subscription(&self) -> String {
        match self.subscriptions {
            1 => format!("sub_{}", self.name),
            more => format!("sub_{}_{more}", self.name),
        }
    }

    /// Adds the current billing period, or the end of the subscription, to the model.
    fn learn(&mut self, now: DateTime<Utc>) {
        if !self.is_known || !self.is_live {
            return;
        }
        let (start, end) = period_around(self.anchor, now);
        let known = self.model.segments.last().map(|known| known.end);
        if known.is_some_and(|known| known >= end.timestamp_millis()) {
            return;
        }
        if self.is_ending && known.is_some() {
            (self.is_live, self.is_ending) = (false, false);
            if self.is_linked {
                self.model.link(start.timestamp_millis(), false);
            }
            return;
        }
        for meter in 0..self.meters {
            self.model.begin(Segment {
                subscription: self.subscription(),
                meter,
                start: start.timestamp_millis(),
                end: end.timestamp_millis(),
                stripe_from: start.timestamp(),
                final_at: end.timestamp_millis() + HOUR,
            });
        }
    }
}
