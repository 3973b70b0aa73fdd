//! Links, plans and ends: made through the service, and at Stripe behind its back.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::NewSubscription;
use usage_client::{CancelSubscription, ChangePlan, ErrorKind, PutAccount};

use super::{Year, period_around};
use crate::{
    simulation::year::oracle::{Fate, Segment},
    support::world::billing::{BASIC, PRO, TOKENS},
};

/// How many changes are made through the service before its next poll of Stripe: each takes two seconds.
const MOST_CHANGES: usize = 4;

/// What happens to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Link,
    Free,
    Plan,
    Cancel,
    End,
    PlanByHand,
    CancelByHand,
    NewByHand,
}

impl What {
    /// As `YEAR_WITHOUT` names it.
    fn name(self) -> &'static str {
        match self {
            Self::Link => "links",
            Self::Free => "free",
            Self::Plan => "plans",
            Self::Cancel => "cancels",
            Self::End => "ends",
            Self::PlanByHand => "plans by hand",
            Self::CancelByHand => "cancels by hand",
            Self::NewByHand => "new subscriptions",
        }
    }

    fn is_by_hand(self) -> bool {
        matches!(
            self,
            Self::PlanByHand | Self::CancelByHand | Self::NewByHand
        )
    }
}

fn other_plan(plan: &str) -> &'static str {
    if plan == BASIC { PRO } else { BASIC }
}

impl Year<'_> {
    /// Changes something about some accounts, a while before the next period ends: behind the service's back,
    /// and after it has learned of that through the service.
    pub(super) async fn change_some(&mut self) {
        let (mut by_hand, mut by_service) = (Vec::new(), Vec::new());
        for life in 0..self.lives.len() {
            let one = &self.lives[life];
            let (start, end) = period_around(one.anchor, self.now);
            let margin = TimeDelta::minutes(75);
            let is_near = self.now < start + margin || self.now + margin > end;
            let what = match (one.is_known, one.is_linked, one.is_live) {
                // One that ends with its period is left to it.
                _ if is_near || one.is_ending => continue,
                (false, ..) | (_, false, true) => What::Link,
                (_, true, true) => self.random.pick(&[
                    What::Free,
                    What::Plan,
                    What::Cancel,
                    What::End,
                    What::PlanByHand,
                    What::CancelByHand,
                ]),
                (_, true, false) => What::NewByHand,
                (_, false, false) => continue,
            };
            if !self.random.one_in(4) || !self.size.has(what.name()) {
                continue;
            }
            if what.is_by_hand() {
                by_hand.push((life, what));
            } else if by_service.len() < MOST_CHANGES {
                by_service.push((life, what));
            }
        }
        if !by_hand.is_empty() {
            self.change_by_hand(&by_hand).await;
        }
        for (life, what) in &by_service {
            match what {
                What::Link => self.link(*life).await,
                What::Free => self.free(*life).await,
                What::Plan => self.change_plan(*life).await,
                What::Cancel => self.cancel(*life).await,
                _ => self.cancel_at_period_end(*life).await,
            }
            for _ in 0..self.random.below(3) {
                let back = TimeDelta::milliseconds(self.random.below(60_000));
                self.count(*life, self.now - back).await;
            }
        }
        if !by_service.is_empty() {
            let next = self.now + TimeDelta::seconds(11 + self.random.below(30));
            self.step(next).await;
        }
    }

    /// What happens at Stripe in one moment, a tenth of a second after a second, so that it is clear what came
    /// before. It is used before it and after it, and only then the service learns.
    async fn change_by_hand(&mut self, changes: &[(usize, What)]) {
        let moment = DateTime::from_timestamp(self.now.timestamp() + 12, 100_000_000);
        let moment = moment.expect("a time");
        self.step(moment).await;
        for (life, _) in changes {
            for _ in 0..self.random.below(3) {
                let back = TimeDelta::milliseconds(101 + self.random.below(600_000));
                self.count(*life, moment - back).await;
            }
        }
        for (life, what) in changes {
            match what {
                What::PlanByHand => self.change_plan_by_hand(*life).await,
                What::CancelByHand => self.cancel_by_hand(*life).await,
                _ => self.subscribe_by_hand(*life).await,
            }
        }
        self.now = moment + TimeDelta::seconds(5);
        self.world.move_clocks(self.now).await;
        for (life, _) in changes {
            for _ in 0..self.random.below(3) {
                let away = TimeDelta::milliseconds(self.random.below(5_000));
                self.count(*life, moment + away).await;
            }
        }
        for (life, what) in changes {
            self.learn_of(*life, *what, moment);
        }
        self.step(moment + TimeDelta::seconds(25)).await;
    }

    /// The model learns what happened at Stripe.
    fn learn_of(&mut self, life: usize, what: What, moment: DateTime<Utc>) {
        let at = moment.timestamp() * 1_000;
        let one = &mut self.lives[life];
        match what {
            What::PlanByHand => {
                one.plan = other_plan(one.plan);
                self.replace(life, at, moment.timestamp());
            }
            What::CancelByHand => {
                one.is_live = false;
                for meter in 0..one.meters {
                    one.model.end(meter, at);
                }
                one.model.link(at, false);
            }
            _ => {
                one.is_live = true;
                one.anchor = DateTime::from_timestamp(moment.timestamp(), 0).expect("a time");
                one.model.links.push((at, true));
                one.learn(self.now);
                one.model.links.pop();
                one.model.link(at, true);
            }
        }
    }

    /// Links an account: from its period's start, or from a moment stated.
    pub(super) async fn link(&mut self, life: usize) {
        let is_stated = self.random.one_in(3);
        let one = &mut self.lives[life];
        one.is_known = true;
        one.is_linked = true;
        one.learn(self.now);
        let since = one.model.charges_since(self.now.timestamp_millis());
        let mut put = PutAccount::stripe(&one.name, one.customer());
        let mut from = since;
        if is_stated {
            let since = DateTime::from_timestamp_millis(since).expect("a time");
            // Now and then from before the present period, whose invoices are final or never were.
            let back = TimeDelta::hours(self.random.pick(&[0, 0, 30, 300]));
            let stated = self.random.between(since - back, self.now);
            from = stated.timestamp_millis();
            put = put.bill_from(stated);
        }
        let linked = self.world.client().put_account(put).await.expect("a link");
        assert_eq!(linked.valid_from.timestamp_millis(), from, "{linked:?}");
        let one = &mut self.lives[life];
        one.model.link(from, true);
        one.model.send(self.now.timestamp_millis());
    }

    async fn free(&mut self, life: usize) {
        let one = &mut self.lives[life];
        let from = one.model.behind_usage(self.now.timestamp_millis());
        let put = PutAccount::free(&one.name);
        let freed = self.world.client().put_account(put).await.expect("a link");
        assert_eq!(freed.valid_from.timestamp_millis(), from, "{freed:?}");
        one.is_linked = false;
        one.model.link(from, false);
    }

    /// Another plan, through the service.
    async fn change_plan(&mut self, life: usize) {
        let one = &self.lives[life];
        let plan = other_plan(one.plan);
        let client = self.world.client();
        let change = client.change_plan(ChangePlan::new(&one.name, plan));
        let Some(done) = self.carry_out(life, change).await else {
            return;
        };
        let at = done.timestamp_millis();
        let one = &mut self.lives[life];
        one.plan = plan;
        one.model.drain(at, true);
        self.replace(life, at, self.now.timestamp());
    }

    /// An end now, through the service.
    async fn cancel(&mut self, life: usize) {
        let prorate = self.random.one_in(2);
        let one = &self.lives[life];
        let client = self.world.client();
        let cancel =
            client.cancel_subscription(CancelSubscription::now(&one.name).prorate(prorate));
        let Some(done) = self.carry_out(life, cancel).await else {
            return;
        };
        let at = done.timestamp_millis();
        let one = &mut self.lives[life];
        one.is_live = false;
        one.model.drain(at, false);
        for meter in 0..one.meters {
            one.model.end(meter, at);
        }
    }

    /// Makes a change through the service, and answers its boundary; nothing where it is refused because an
    /// admin has to decide on something first.
    async fn carry_out(
        &mut self,
        life: usize,
        call: impl Future<Output = Result<usage_client::Changed, usage_client::Error>>,
    ) -> Option<DateTime<Utc>> {
        let mut call = std::pin::pin!(call);
        let began = self.world.now();
        let tick = self.world.advance_once_change_begins();
        let changed = tokio::select! {
            changed = &mut call => changed,
            () = tick => call.await,
        };
        let one = &self.lives[life];
        let now = began.timestamp_millis();
        match changed {
            Ok(changed) => {
                let boundary = changed.change.expect("a change").boundary;
                assert_eq!(boundary.timestamp_millis(), one.model.behind_usage(now));
                self.now = self.world.now();
                Some(boundary)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
                let undecided = (0..one.meters)
                    .map(|meter| one.model.sum(meter, |fate| fate == Fate::Missed))
                    .sum::<i64>();
                assert!(undecided > 0, "{}: {error}", one.name);
                None
            }
        }
    }

    async fn cancel_at_period_end(&mut self, life: usize) {
        let one = &mut self.lives[life];
        let cancel = CancelSubscription::at_period_end(&one.name);
        let client = self.world.client();
        client.cancel_subscription(cancel).await.expect("an end");
        one.is_ending = true;
    }

    async fn change_plan_by_hand(&mut self, life: usize) {
        let one = &self.lives[life];
        let all = self.world.stripe().subscriptions().await.expect("them");
        let found = all.iter().find(|known| known.id == one.subscription());
        let mut items = found.expect("a subscription").items.iter();
        let item = items.find(|item| item.price == one.plan).expect("an item");
        let form = [
            ("items[0][id]", item.id.as_str()),
            ("items[0][deleted]", "true"),
            ("items[1][price]", other_plan(one.plan)),
            ("proration_behavior", "always_invoice"),
        ];
        let path = format!("/v1/subscriptions/{}", one.subscription());
        self.world.call_stripe("POST", &path, &form).await;
    }

    async fn cancel_by_hand(&mut self, life: usize) {
        let path = format!("/v1/subscriptions/{}", self.lives[life].subscription());
        let form = [("invoice_now", "true"), ("prorate", "true")];
        self.world.call_stripe("DELETE", &path, &form).await;
    }

    /// Another subscription of the same customer.
    async fn subscribe_by_hand(&mut self, life: usize) {
        let one = &mut self.lives[life];
        one.subscriptions += 1;
        one.plan = BASIC;
        let mut prices = vec![BASIC.to_owned()];
        if one.meters == 2 {
            prices.push(TOKENS.to_owned());
        }
        let new = NewSubscription {
            id: one.subscription(),
            customer: one.customer(),
            prices,
            ..NewSubscription::default()
        };
        self.world.subscribe_as(new).await;
    }

    /// The item of the first meter is another one from a moment on.
    fn replace(&mut self, life: usize, at: i64, stripe_from: i64) {
        let one = &mut self.lives[life];
        let (_, end) = period_around(one.anchor, self.now);
        one.model.end(0, at);
        one.model.begin(Segment {
            subscription: one.subscription(),
            meter: 0,
            start: at,
            end: end.timestamp_millis(),
            stripe_from,
            final_at: end.timestamp_millis() + super::HOUR,
        });
    }
}
