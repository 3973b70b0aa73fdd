//! Doing what the plan says, to the service and to the model alike, and comparing them in the end.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use usage_client::ReportState;

use super::{
    oracle::{Account, Fate, LineKey, Segment},
    plan::{METERS, Random, Size, anchor, period_around, start},
};
use crate::world::{
    World,
    billing::{BASIC, SEATS, TOKENS},
};

const HOUR: i64 = 3_600_000;
/// Period ends that are no further apart are lived through together.
const TOGETHER: TimeDelta = TimeDelta::seconds(90);

/// An account as the plan has it.
struct Life {
    name: String,
    anchor: DateTime<Utc>,
    subscription: String,
    meters: usize,
    model: Account,
}

struct Year<'a> {
    world: &'a mut World,
    random: Random,
    lives: Vec<Life>,
    now: DateTime<Utc>,
}

pub(super) async fn live(world: &mut World, size: &Size) {
    let mut now = start();
    world.bill(now).await;
    for seed in &size.seeds {
        eprintln!("seed {seed} from {now}");
        let mut year = Year {
            world,
            random: Random(*seed),
            lives: Vec::new(),
            now,
        };
        year.begin(*seed, size.accounts).await;
        let until = now + chrono::Months::new(size.months);
        while let Some((first, last)) = year.next_end().filter(|(_, last)| *last < until) {
            year.between(first).await;
            year.through(first, last).await;
        }
        year.compare(*seed).await;
        now = year.now;
    }
}

impl Year<'_> {
    async fn begin(&mut self, seed: u64, accounts: usize) {
        for number in 0..accounts {
            let name = format!("y{seed}-{number}");
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
            self.world.follow(&name).await;
            let mut life = Life {
                subscription: format!("sub_{name}"),
                name,
                anchor,
                meters,
                model: Account::default(),
            };
            let (from, _) = period_around(anchor, self.now);
            life.begin_period(self.now);
            life.model.link(from.timestamp_millis(), true);
            self.lives.push(life);
        }
    }

    /// The next period ends, as far as they are lived through together.
    fn next_end(&self) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let mut ends: Vec<_> = self
            .lives
            .iter()
            .map(|life| period_around(life.anchor, self.now).1)
            .collect();
        ends.sort_unstable();
        let first = *ends.first()?;
        let last = ends.into_iter().filter(|end| *end < first + TOGETHER);
        Some((first, last.max()?))
    }

    async fn step(&mut self, to: DateTime<Utc>) {
        self.now = to;
        self.world.move_clocks(to).await;
        self.world.calm().await;
        let now = to.timestamp_millis();
        for life in &mut self.lives {
            life.begin_period(to);
            life.model.beat(now);
        }
    }

    /// What happens before the next period ends.
    async fn between(&mut self, end: DateTime<Utc>) {
        let since = self.now;
        let to = self.random.between(since, end - TimeDelta::minutes(10));
        self.step(to.max(since + TimeDelta::seconds(20))).await;
        for life in 0..self.lives.len() {
            for _ in 0..self.random.below(3) {
                let at = match self.random.below(6) {
                    0 => self.now - TimeDelta::milliseconds(self.random.below(30 * 24 * HOUR)),
                    1 => self.now - TimeDelta::milliseconds(self.random.below(24 * HOUR)),
                    _ => self.random.between(since, self.now),
                };
                self.count(life, at).await;
            }
        }
    }

    /// What happens around period ends.
    async fn through(&mut self, first: DateTime<Utc>, last: DateTime<Utc>) {
        let ending: Vec<(usize, DateTime<Utc>)> = self
            .lives
            .iter()
            .enumerate()
            .map(|(number, life)| (number, period_around(life.anchor, self.now).1))
            .filter(|(_, end)| first <= *end && *end <= last)
            .collect();
        let moment = last + TimeDelta::seconds(1 + self.random.below(20));
        self.step(moment).await;
        for (life, end) in &ending {
            let edges = [-1, 0, -self.random.below(HOUR), self.random.below(1_000)];
            for away in edges {
                if self.random.one_in(2) {
                    self.count(*life, *end + TimeDelta::milliseconds(away))
                        .await;
                }
            }
        }
        for minutes in [6, 30, 55, 65, 70] {
            let seconds = self.random.below(30);
            self.step(last + TimeDelta::minutes(minutes) + TimeDelta::seconds(seconds))
                .await;
            if minutes == 55 || minutes == 70 {
                continue;
            }
            for (life, end) in &ending {
                if self.random.one_in(4) {
                    let back = TimeDelta::milliseconds(self.random.below(5 * HOUR));
                    self.count(*life, *end + TimeDelta::minutes(minutes) - back)
                        .await;
                }
            }
        }
    }

    async fn count(&mut self, life: usize, at: DateTime<Utc>) {
        let at = at.min(self.now);
        let meter = usize::try_from(self.random.below(2)).unwrap() % self.lives[life].meters;
        let quantity = 1 + self.random.below(1_000);
        let life = &mut self.lives[life];
        self.world
            .count_of(&life.name, METERS[meter].0, quantity, at)
            .await;
        life.model.count(meter, at.timestamp_millis(), quantity);
    }

    /// Compares everything in the end.
    async fn compare(&mut self, seed: u64) {
        self.world.report_all().await;
        let now = self.now.timestamp_millis();
        for life in &mut self.lives {
            life.model.close(now);
            life.model.send(now);
        }
        let invoices = self.world.stripe().invoices().await.expect("invoices");
        let mut lines = 0;
        for life in &self.lives {
            let mut charged: BTreeMap<LineKey, i64> = BTreeMap::new();
            let own = invoices.iter().filter(|invoice| {
                invoice.customer == life.customer() && invoice.finalized_at.is_some()
            });
            for invoice in own {
                for line in invoice.lines.iter().filter(|line| line.quantity != 0) {
                    let Some(meter) = METERS
                        .iter()
                        .position(|(_, event_name)| line.event_name.as_deref() == Some(event_name))
                    else {
                        continue;
                    };
                    let key = (invoice.subscription.clone(), meter, line.period_start);
                    *charged.entry(key).or_default() += line.quantity;
                }
            }
            lines += charged.len();
            let name = &life.name;
            assert_eq!(
                charged,
                life.model.charged(now),
                "the invoices of {name}, seed {seed}: {:#?}\n{:#?}",
                life.model,
                self.world.reports(name).await,
            );
            let reports = self.world.reports(name).await;
            for (meter, (in_service, _)) in METERS.iter().enumerate() {
                let sum = |state: ReportState| -> i64 {
                    let own = reports.iter();
                    own.filter(|report| report.meter == *in_service && report.state == state)
                        .map(|report| report.quantity)
                        .sum()
                };
                let of = |fate: Fate| life.model.sum(meter, |own| own == fate);
                for (state, fate) in [
                    (ReportState::Missed, Fate::Missed),
                    (ReportState::NotBillable, Fate::NotBillable),
                    (ReportState::Unlinked, Fate::Unlinked),
                    (ReportState::Closed, Fate::Closed),
                    (ReportState::Open, Fate::Open),
                ] {
                    assert_eq!(
                        sum(state),
                        of(fate),
                        "{state:?} of {name} and {in_service}, seed {seed}: {:#?}\n{reports:#?}",
                        life.model
                    );
                }
                let sent = sum(ReportState::Accepted) + sum(ReportState::Confirmed);
                let fated = life.model.sum(meter, |fate| matches!(fate, Fate::Sent(_)));
                assert_eq!(sent, fated, "what {name} was billed for, seed {seed}");
            }
        }
        let thrown = self.world.stripe().thrown_away().await.expect("usage");
        assert_eq!(thrown, [], "nothing is lost, seed {seed}");
        eprintln!("seed {seed}: {lines} lines of invoices are as they must be");
        assert!(lines > self.lives.len(), "hardly anything was charged");
    }
}

impl Life {
    fn customer(&self) -> String {
        format!("cus_{}", self.name)
    }

    /// The model learns the period that the clock is in.
    fn begin_period(&mut self, now: DateTime<Utc>) {
        let (start, end) = period_around(self.anchor, now);
        let known = self.model.segments.last();
        if known.is_some_and(|known| known.end >= end.timestamp_millis()) {
            return;
        }
        for meter in 0..self.meters {
            self.model.begin(Segment {
                subscription: self.subscription.clone(),
                meter,
                start: start.timestamp_millis(),
                end: end.timestamp_millis(),
                stripe_from: start.timestamp(),
                final_at: end.timestamp_millis() + HOUR,
            });
        }
    }
}
