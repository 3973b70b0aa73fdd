//! Changes of links and plans, and ends of subscriptions: through the service, and directly at Stripe.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::NewSubscription;
use usage_client::{CancelSubscription, ChangePlan, ErrorKind, PutAccount};

use super::{Year, period_around};
use crate::{
    simulation::year::oracle::{Fate, Segment},
    support::world::billing::{BASIC, PRO, TOKENS},
};

/// The number of changes through the service before its next poll of Stripe. Each takes two seconds.
const MAX_CHANGES: usize = 4;

/// A change of an account.
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
    /// Its name in `YEAR_WITHOUT`.
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
    /// Changes some accounts a while before the next period ends: first directly at Stripe, and after the service has
    /// synced that, through the service.
    pub(super) async fn change_some(&mut self) {
        let (mut by_hand, mut by_service) = (Vec::new(), Vec::new());
        for account in 0..self.accounts.len() {
            let one = &self.accounts[account];
            let (start, end) = period_around(one.anchor, self.now);
            let margin = TimeDelta::minutes(75);
            let is_near = self.now < start + margin || self.now + margin > end;
            let what = match (one.is_known, one.is_linked, one.is_live) {
                // A subscription that ends with its period is not changed.
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
                by_hand.push((account, what));
            } else if by_service.len() < MAX_CHANGES {
                by_service.push((account, what));
            }
        }
        if !by_hand.is_empty() {
            self.change_by_hand(&by_hand).await;
        }
        for (account, what) in &by_service {
            match what {
                What::Link => self.link(*account).await,
                What::Free => self.free(*account).await,
                What::Plan => self.change_plan(*account).await,
                What::Cancel => self.cancel(*account).await,
                _ => self.cancel_at_period_end(*account).await,
            }
            for _ in 0..self.random.below(3) {
                let back = TimeDelta::milliseconds(self.random.below(60_000));
                self.count(*account, self.now - back).await;
            }
        }
        if !by_service.is_empty() {
            let next = self.now + TimeDelta::seconds(11 + self.random.below(30));
            self.step(next).await;
        }
    }

    /// Makes changes directly at Stripe, a tenth of a second after a whole second, so that the order with usage is
    /// unambiguous. Usage is counted before and after them, and only then does the service sync.
    async fn change_by_hand(&mut self, changes: &[(usize, What)]) {
        let moment = DateTime::from_timestamp(self.now.timestamp() + 12, 100_000_000);
        let moment = moment.expect("a time");
        self.step(moment).await;
        for (account, _) in changes {
            for _ in 0..self.random.below(3) {
                let back = TimeDelta::milliseconds(101 + self.random.below(600_000));
                self.count(*account, moment - back).await;
            }
        }
        for (account, what) in changes {
            match what {
                What::PlanByHand => self.change_plan_by_hand(*account).await,
                What::CancelByHand => self.cancel_by_hand(*account).await,
                _ => self.subscribe_by_hand(*account).await,
            }
        }
        self.now = moment + TimeDelta::seconds(5);
        self.world.move_clocks(self.now).await;
        for (account, _) in changes {
            for _ in 0..self.random.below(3) {
                let away = TimeDelta::milliseconds(self.random.below(5_000));
                self.count(*account, moment + away).await;
            }
        }
        for (account, what) in changes {
            self.apply_to_model(*account, *what, moment);
        }
        self.step(moment + TimeDelta::seconds(25)).await;
    }

    /// Applies a change at Stripe to the model.
    fn apply_to_model(&mut self, account: usize, what: What, moment: DateTime<Utc>) {
        let at = moment.timestamp() * 1_000;
        let one = &mut self.accounts[account];
        match what {
            What::PlanByHand => {
                one.plan = other_plan(one.plan);
                self.replace(account, at, moment.timestamp());
            }
            What::CancelByHand => {
                one.is_live = false;
                for meter in 0..one.meters {
                    one.model.end(meter, at);
                }
                // It was not requested here: what follows is still the customer's, and uncharged.
                one.model.link(at, true);
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

    /// Links an account from its period's start, or from a given time.
    pub(super) async fn link(&mut self, account: usize) {
        let is_stated = self.random.one_in(3);
        let one = &mut self.accounts[account];
        let was_free = one.is_known && !one.is_linked;
        one.is_known = true;
        one.is_linked = true;
        one.learn(self.now);
        let now = self.now.timestamp_millis();
        let since = one.model.charges_since(now);
        let mut put = PutAccount::stripe(&one.name, one.customer());
        // Free time is billed only if the link says so.
        let mut from = if was_free {
            one.model.behind_usage(now)
        } else {
            since
        };
        if is_stated {
            let since = DateTime::from_timestamp_millis(since).expect("a time");
            // Sometimes from before the current period, for which invoices are final or do not exist.
            let back = TimeDelta::hours(self.random.pick(&[0, 0, 30, 300]));
            let stated = self.random.between(since - back, self.now);
            from = stated.timestamp_millis();
            put = put.bill_from(stated);
        }
        let linked = self.world.client().put_account(put).await;
        let linked = linked.expect("a link").account;
        assert_eq!(linked.valid_from.timestamp_millis(), from, "{linked:?}");
        let one = &mut self.accounts[account];
        one.model.link(from, true);
        one.model.send(self.now.timestamp_millis());
    }

    async fn free(&mut self, account: usize) {
        let one = &mut self.accounts[account];
        let from = one.model.behind_usage(self.now.timestamp_millis());
        let put = PutAccount::free(&one.name);
        let freed = self.world.client().put_account(put).await;
        let freed = freed.expect("a link").account;
        assert_eq!(freed.valid_from.timestamp_millis(), from, "{freed:?}");
        one.is_linked = false;
        one.model.link(from, false);
    }

    /// Changes the plan through the service.
    async fn change_plan(&mut self, account: usize) {
        let one = &self.accounts[account];
        let plan = other_plan(one.plan);
        let client = self.world.client();
        let change = client.change_plan(ChangePlan::new(&one.name, plan));
        let Some(done) = self.carry_out(account, change).await else {
            return;
        };
        let at = done.timestamp_millis();
        let one = &mut self.accounts[account];
        one.plan = plan;
        one.model.drain(at, true);
        self.replace(account, at, self.now.timestamp());
    }

    /// Cancels immediately through the service.
    async fn cancel(&mut self, account: usize) {
        let prorate = self.random.one_in(2);
        let one = &self.accounts[account];
        let client = self.world.client();
        let cancel =
            client.cancel_subscription(CancelSubscription::now(&one.name).prorate(prorate));
        let Some(done) = self.carry_out(account, cancel).await else {
            return;
        };
        let at = done.timestamp_millis();
        let one = &mut self.accounts[account];
        one.is_live = false;
        one.model.drain(at, false);
        for meter in 0..one.meters {
            one.model.end(meter, at);
        }
    }

    /// Makes a change through the service and returns its boundary. Returns `None` if it is rejected because reports
    /// need an admin's decision.
    async fn carry_out(
        &mut self,
        account: usize,
        call: impl Future<Output = Result<usage_client::Changed, usage_client::Error>>,
    ) -> Option<DateTime<Utc>> {
        let mut call = std::pin::pin!(call);
        let began = self.world.now();
        let tick = self.world.advance_once_change_begins();
        let changed = tokio::select! {
            changed = &mut call => changed,
            () = tick => call.await,
        };
        let one = &self.accounts[account];
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
                // Not their sum, because a correction may be negative.
                let mut rows = one.model.rows.iter();
                let is_undecided = rows.any(|row| row.fate == Fate::TooLate);
                assert!(is_undecided, "{}: {error}", one.name);
                None
            }
        }
    }

    async fn cancel_at_period_end(&mut self, account: usize) {
        let one = &mut self.accounts[account];
        let cancel = CancelSubscription::at_period_end(&one.name);
        let client = self.world.client();
        client.cancel_subscription(cancel).await.expect("an end");
        one.is_ending = true;
    }

    async fn change_plan_by_hand(&mut self, account: usize) {
        let one = &self.accounts[account];
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

    async fn cancel_by_hand(&mut self, account: usize) {
        let path = format!(
            "/v1/subscriptions/{}",
            self.accounts[account].subscription()
        );
        let form = [("invoice_now", "true"), ("prorate", "true")];
        self.world.call_stripe("DELETE", &path, &form).await;
    }

    /// Starts another subscription of the same customer.
    async fn subscribe_by_hand(&mut self, account: usize) {
        let one = &mut self.accounts[account];
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

    /// Replaces the item of the first meter from a time on.
    fn replace(&mut self, account: usize, at: i64, stripe_from: i64) {
        let one = &mut self.accounts[account];
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
