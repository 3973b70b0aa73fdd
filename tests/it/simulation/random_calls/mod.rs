//! Random sequences of calls, admin actions, crashes and Stripe faults, compared with a model in memory. `Get` must
//! always return the counted usage. At the end, each customer's total at Stripe must be exactly what the links
//! determine.

mod oracle;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::Fault;
use usage_client::{
    Batch, Correct, ErrorKind, ForceReport, Increment, PutAccount, Reason, ReportState,
};

use self::oracle::{Account, BillingTarget, Link, Unit};
use crate::support::{
    random::Random,
    world::{World, hours_ago, on_both_engines, within},
};

const SEQUENCES: u64 = 8;
const STEPS: usize = 40;
const METERS: [(&str, &str); 2] = [("api_calls", "api_calls"), ("tokens", "llm_tokens")];

on_both_engines!(each_unit_is_billed_once_to_its_linked_customer);

/// One sequence: new accounts in a shared world.
struct Sequence<'a> {
    world: &'a mut World,
    random: Random,
    now: DateTime<Utc>,
    accounts: Vec<Account>,
    units: Vec<Unit>,
    /// Calls with a key, which are repeated later.
    keyed: Vec<Increment>,
}

async fn each_unit_is_billed_once_to_its_linked_customer(mut world: World) {
    let mut now = hours_ago(30) + TimeDelta::minutes(17);
    world.freeze(now).await;
    for seed in 0..SEQUENCES {
        let mut sequence = Sequence::begin(&mut world, seed, now).await;
        for step in 0..STEPS {
            sequence.step(step).await;
        }
        now = sequence.end().await;
    }
    world.finish().await;
}

impl<'a> Sequence<'a> {
    async fn begin(world: &'a mut World, seed: u64, now: DateTime<Utc>) -> Self {
        eprintln!("sequence {seed}");
        let accounts = (0..3)
            .map(|number| Account {
                name: format!("acct-{seed}-{number}"),
                links: Vec::new(),
            })
            .collect();
        for number in 0..3 {
            for which in 0..2 {
                let customer = format!("cus_acct-{seed}-{number}_{which}");
                world
                    .stripe()
                    .create_subscribed_customer(&customer)
                    .await
                    .unwrap();
            }
        }
        let random = Random(seed);
        Self {
            world,
            random,
            now,
            accounts,
            units: Vec::new(),
            keyed: Vec::new(),
        }
    }

    async fn pass(&mut self, time: TimeDelta) {
        self.now += time;
        self.world.move_clocks(self.now).await;
    }

    async fn step(&mut self, step: usize) {
        let time = TimeDelta::milliseconds(self.random.below(120_000));
        self.pass(time).await;
        let kind = self.random.below(26);
        eprintln!("  step {step} at {}: {kind}", self.now);
        match kind {
            0..=5 => self.count_one().await,
            6..=8 => self.count_batch().await,
            9..=10 => self.count_again().await,
            11..=14 => self.put().await,
            15..=17 => self.report().await,
            18..=20 => self.fault().await,
            21 => self.world.restart().await,
            22 => self.world.crash_and_restart().await,
            23..=24 => self.correct().await,
            _ => self.count_through_a_crash().await,
        }
        if step.is_multiple_of(5) {
            self.check_shown().await;
        }
    }

    /// Adds usage by a correction, and tries to subtract more than the total.
    async fn correct(&mut self) {
        let (unit, _) = self.unit();
        let name = self.accounts[unit.account].name.clone();
        let correct = |quantity| {
            Correct::new(&name, quantity, "as the model says")
                .meter(METERS[unit.meter].0)
                .timestamp(unit.at)
        };
        let client = self.world.client();
        let too_much = client.correct(correct(-1_000_000_000_000)).await;
        let refused = too_much.expect_err("below zero");
        assert_eq!(refused.reason(), Some(&Reason::BelowZero));
        let key = format!("correction {}", self.units.len());
        let sent = correct(unit.quantity).key(key);
        assert!(!client.correct(sent.clone()).await.unwrap().duplicate);
        assert!(client.correct(sent).await.unwrap().duplicate);
        self.units.push(unit);
    }

    /// Counts a unit of usage that is current, late or slightly in the future, by a random kind of call.
    fn unit(&mut self) -> (Unit, Increment) {
        let account = usize::try_from(self.random.below(3)).unwrap();
        let meter = usize::try_from(self.random.below(2)).unwrap();
        let quantity = 1 + self.random.below(1_000);
        let away = match self.random.below(5) {
            0 | 1 => None,
            2 => Some(TimeDelta::milliseconds(-self.random.below(20 * 86_400_000))),
            3 => Some(TimeDelta::milliseconds(-self.random.below(7_200_000))),
            _ => Some(TimeDelta::milliseconds(self.random.below(290_000))),
        };
        let mut increment = Increment::new(&self.accounts[account].name)
            .meter(METERS[meter].0)
            .quantity(quantity);
        if let Some(away) = away {
            increment = increment.timestamp(self.now + away);
        }
        let at = self.now + away.unwrap_or_default();
        (
            Unit {
                account,
                meter,
                at,
                quantity,
            },
            increment,
        )
    }

    async fn count_one(&mut self) {
        let (unit, mut increment) = self.unit();
        if self.random.one_in(4) {
            increment = increment.without_key();
        } else {
            increment.ensure_key();
            self.keyed.push(increment.clone());
        }
        let counted = self.world.client().increment(increment).await.unwrap();
        assert!(!counted.duplicate);
        self.units.push(unit);
    }

    async fn count_batch(&mut self) {
        let mut batch = Batch::new();
        for _ in 0..=self.random.below(20) {
            let (unit, increment) = self.unit();
            batch = batch.push(increment);
            self.units.push(unit);
        }
        batch.ensure_key();
        for duplicate in [false, true] {
            let outcome = self
                .world
                .client()
                .increment_batch(batch.clone())
                .await
                .unwrap();
            assert_eq!(outcome.duplicate, duplicate);
        }
    }

    async fn count_again(&mut self) {
        let Ok(sent) = i64::try_from(self.keyed.len()) else {
            return;
        };
        if sent > 0 {
            let which = usize::try_from(self.random.below(sent)).unwrap();
            let again = self.keyed[which].clone();
            assert!(
                self.world
                    .client()
                    .increment(again)
                    .await
                    .unwrap()
                    .duplicate
            );
        }
    }

    /// Kills the server during calls, which are repeated if they got no response.
    async fn count_through_a_crash(&mut self) {
        let client = self.world.client();
        let mut calls = Vec::new();
        for _ in 0..8 {
            let (unit, mut increment) = self.unit();
            increment.ensure_key();
            let (client, first) = (client.clone(), increment.clone());
            let call = tokio::spawn(async move { client.increment(first).await.is_ok() });
            calls.push((unit, increment, call));
        }
        for _ in 0..self.random.below(30) {
            tokio::task::yield_now().await;
        }
        self.world.crash_and_restart().await;
        for (unit, increment, call) in calls {
            let answered = within("the end of a call", call).await.unwrap();
            let again = self
                .world
                .client()
                .increment(increment.clone())
                .await
                .unwrap();
            assert!(
                again.duplicate || !answered,
                "an answered increment was lost: {increment:?}"
            );
            self.units.push(unit);
            self.keyed.push(increment);
        }
    }

    async fn put(&mut self) {
        // No usage is in the future now, so a new boundary divides no usage.
        self.pass(TimeDelta::minutes(6)).await;
        let which = usize::try_from(self.random.below(3)).unwrap();
        let name = self.accounts[which].name.clone();
        let hour =
            self.now - TimeDelta::milliseconds(self.now.timestamp_millis().rem_euclid(3_600_000));
        let back = TimeDelta::hours(self.random.below(48));
        let choice = self.random.below(3);
        let customer = (choice < 2).then(|| format!("cus_{name}_{choice}"));
        let mut bill_from = None;
        let put = match &customer {
            None => PutAccount::free(&name),
            Some(customer) => {
                let mut put = PutAccount::stripe(&name, customer);
                if self.random.one_in(3) {
                    let end = self.now + TimeDelta::seconds(1 + self.random.below(7_200));
                    put = put.current_period(hour - back, end);
                }
                if self.random.one_in(3) {
                    bill_from = Some(hour - back);
                    put = put.bill_from(hour - back);
                }
                put
            }
        };
        let account = match self.world.client().put_account(put).await {
            Ok(done) => done.account,
            Err(error) if error.kind() == ErrorKind::Invalid && bill_from.is_some() => return,
            Err(error) => panic!("{error:?}"),
        };
        let links = &mut self.accounts[which].links;
        let is_same = links.last().is_some_and(|last| {
            last.customer == customer && bill_from.is_none_or(|from| from == last.from)
        });
        if !is_same {
            links.push(Link {
                from: account.valid_from,
                customer,
            });
        }
    }

    async fn report(&mut self) {
        let scope = if self.random.one_in(3) {
            ForceReport::accounts([self.accounts[0].name.clone(), self.accounts[1].name.clone()])
        } else {
            ForceReport::all()
        };
        let run = self.world.client().force_report(scope).await.unwrap();
        if !self.random.one_in(3) {
            within("a summary", run.summary()).await.unwrap();
        }
    }

    async fn fault(&mut self) {
        let fault = match self.random.below(9) {
            0 => Fault::status(500),
            1 => Fault::status(500).after_executing(),
            2 => Fault::status(429),
            3 => Fault::status(401),
            4 => Fault::accept_then_drop(),
            5 => Fault::drop_connection(),
            6 => Fault::undecodable(),
            7 => Fault::undecodable_error(),
            _ => Fault::delay(Duration::from_millis(20)).after_executing(),
        };
        let times = 1 + self.random.next() % 3;
        let fault = fault.times(times).on_path("/v1/billing/meter_events");
        self.world.stripe().script(fault).await.unwrap();
    }

    /// The total of an account's units of a meter, for some kinds of billing.
    fn sum(&self, account: usize, meter: usize, matches: impl Fn(BillingTarget) -> bool) -> i64 {
        self.units
            .iter()
            .filter(|unit| (unit.account, unit.meter) == (account, meter))
            .filter(|unit| matches(self.accounts[account].billing_target_at(unit.at)))
            .map(|unit| unit.quantity)
            .sum()
    }

    /// Checks that `Get` returns the counted usage.
    async fn check_shown(&self) {
        for (account, known) in self.accounts.iter().enumerate() {
            for (meter, (name, _)) in METERS.iter().enumerate() {
                let (total, reported, not_yet, not_billable) =
                    self.world.usage_of(&known.name, name).await;
                assert_eq!(
                    total,
                    self.sum(account, meter, |_| true),
                    "{known:?} {name}"
                );
                assert_eq!(total, reported + not_yet + not_billable, "{known:?} {name}");
                let billed = self.sum(account, meter, |target| {
                    matches!(target, BillingTarget::Billed(_))
                });
                assert!(
                    reported <= billed,
                    "{known:?} {name}: {reported} of {billed}"
                );
            }
        }
    }

    /// Ends the faults, and checks that all usage reaches its customers.
    async fn end(mut self) -> DateTime<Utc> {
        self.world.stripe().clear_faults().await.unwrap();
        // A request in flight when the faults ended may fail once more. It is retried after its backoff.
        for _ in 0..2 {
            self.pass(TimeDelta::minutes(20)).await;
            self.world.report_all().await;
        }
        let mut expected_totals: BTreeMap<(String, String), i64> = BTreeMap::new();
        for (account, known) in self.accounts.iter().enumerate() {
            let ends = [
                ReportState::Accepted,
                ReportState::Confirmed,
                ReportState::Invoiced,
                ReportState::NotBillable,
                ReportState::NoCustomer,
            ];
            self.world.wait_until_reports_are(&known.name, &ends).await;
            for (meter, (name, event_name)) in METERS.iter().enumerate() {
                let shown = self.world.usage_of(&known.name, name).await;
                let sum = |matches: fn(BillingTarget) -> bool| self.sum(account, meter, matches);
                let expected = (
                    sum(|_| true),
                    sum(|target| matches!(target, BillingTarget::Billed(_))),
                    sum(|target| target == BillingTarget::NoCustomer),
                    sum(|target| target == BillingTarget::NotBillable),
                );
                assert_eq!(shown, expected, "{known:?} {name}");
                for which in 0..2 {
                    let customer = format!("cus_{}_{which}", known.name);
                    let sum = self.sum(account, meter, |target| {
                        target == BillingTarget::Billed(&customer)
                    });
                    expected_totals.insert((customer, (*event_name).to_owned()), sum);
                }
            }
        }
        let totals = self.world.stripe().totals().await.unwrap();
        for (whose, expected) in expected_totals {
            let total = totals.get(&whose).copied().unwrap_or(0);
            assert_eq!(total, expected, "{whose:?}, {:?}", self.accounts);
        }
        let stats = self.world.stripe().stats().await.unwrap();
        assert_eq!(
            stats.events,
            u64::try_from(self.accepted().await).unwrap(),
            "one event a report"
        );
        self.now
    }

    /// The number of accepted reports of all accounts.
    async fn accepted(&self) -> usize {
        let reported = [
            ReportState::Accepted,
            ReportState::Confirmed,
            ReportState::Invoiced,
        ];
        let filter = usage_client::ListReports::new().states(reported);
        let client = self.world.client();
        let all = client.list_all_reports(filter, 1_000_000).await.unwrap();
        all.reports.len()
    }
}
