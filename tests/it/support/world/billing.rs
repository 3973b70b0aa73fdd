//! Helpers for tests of subscriptions: customers and prices at the fake Stripe, clocks that move through billing
//! periods, and invoices.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{InvoiceSnapshot, NewPrice, NewSubscription};
use sea_orm::{ConnectionTrait as _, Statement};
use usage_client::{Account, PutAccount, Subscription};

use super::{TIMEOUT, World, poll, time::Polls, within};

/// Volume-tiered prices of the meter `api_calls`.
pub(crate) const BASIC: &str = "price_basic";
pub(crate) const PRO: &str = "price_pro";
/// A price of the meter `tokens`.
pub(crate) const TOKENS: &str = "price_tokens";
/// A licensed price, which has no meter.
pub(crate) const SEATS: &str = "price_seats";

/// How long the outstanding work may not decrease before the clocks are moved, and how far. A statement that fails, for
/// example because of a slow disk, is retried seconds later by the server's clock, so never while that clock is
/// stopped.
const STALL: Duration = Duration::from_secs(5);
const RETRY_STEP: TimeDelta = TimeDelta::seconds(11);

impl World {
    /// Stops the clocks at a time, and creates prices.
    pub(crate) async fn with_prices_at(&mut self, now: DateTime<Utc>) {
        self.reconfigure(&["--sync-interval-secs=10"]).await;
        self.freeze(now).await;
        let stripe = self.stripe();
        let meters = stripe.meters().await.expect("meters");
        let meter = |name: &str| {
            let meter = meters.iter().find(|meter| meter.event_name == name);
            meter.expect("a meter").id.clone()
        };
        let (calls, tokens) = (meter("api_calls"), meter("llm_tokens"));
        let tiers = [(Some(100), "10"), (None, "5")];
        for price in [
            NewPrice::volume(BASIC, "prod_calls", &calls, &tiers),
            NewPrice::volume(PRO, "prod_calls", &calls, &[(None, "3")]),
            NewPrice::volume(TOKENS, "prod_tokens", &tokens, &[(None, "0.01")]),
            NewPrice::licensed(SEATS, "prod_seats", "1000"),
        ] {
            stripe.create_price(&price).await.expect("a price");
        }
    }

    /// Stops the clocks at a moment, with the account `acct` linked to a subscription that began before.
    pub(crate) async fn start_subscribed(
        &mut self,
        now: DateTime<Utc>,
        prices: &[&str],
        since: DateTime<Utc>,
    ) {
        self.with_prices_at(now).await;
        self.subscribe("acct", prices, since).await;
        self.link_to_subscription("acct").await;
    }

    /// Creates a customer with a subscription that started at a time.
    pub(crate) async fn subscribe(&self, name: &str, prices: &[&str], since: DateTime<Utc>) {
        let new = NewSubscription {
            id: format!("sub_{name}"),
            customer: format!("cus_{name}"),
            prices: prices.iter().map(|price| (*price).to_owned()).collect(),
            anchor: Some(since.timestamp()),
            ..NewSubscription::default()
        };
        self.subscribe_as(new).await;
    }

    pub(crate) async fn subscribe_as(&self, new: NewSubscription) {
        let stripe = self.stripe();
        // It may have had another subscription before.
        let known = stripe.customers().await.expect("customers");
        if known.iter().all(|customer| customer.id != new.customer) {
            stripe
                .create_customer(&new.customer)
                .await
                .expect("a customer");
        }
        stripe
            .create_subscription(&new)
            .await
            .expect("a subscription");
    }

    /// Creates a customer with a subscription that has ended, and returns that.
    pub(crate) async fn customer_with_ended_subscription(&self, customer: &str) -> String {
        let price = NewPrice::licensed(SEATS, "prod_seats", "1000");
        self.stripe().create_price(&price).await.expect("a price");
        let new = NewSubscription {
            id: format!("sub_{customer}"),
            customer: customer.to_owned(),
            prices: vec![price.id],
            ..NewSubscription::default()
        };
        let id = new.id.clone();
        self.subscribe_as(new).await;
        let path = format!("/v1/subscriptions/{id}");
        self.call_stripe("DELETE", &path, &[]).await;
        id
    }

    /// Links an account to the customer with its name.
    pub(crate) async fn link_to_subscription(&self, name: &str) -> Account {
        let put = PutAccount::stripe(name, format!("cus_{name}"));
        let done = self.client().put_account(put).await;
        done.expect("a link").account
    }

    /// The stored subscription of an account.
    pub(crate) async fn subscription(&self, account: &str) -> Option<Subscription> {
        let account = self
            .client()
            .get_account(account)
            .await
            .expect("an account");
        account.subscription
    }

    /// Waits until the stored subscription of an account meets a condition.
    pub(crate) async fn wait_until_subscription(
        &self,
        account: &str,
        is_so: impl Fn(&Subscription) -> bool,
    ) -> Subscription {
        poll("a subscription", || async {
            let known = self.subscription(account).await;
            known.filter(|known| is_so(known))
        })
        .await
    }

    /// Moves both clocks to a time in steps, and waits after each step until the server is idle.
    pub(crate) async fn advance_to(&self, until: DateTime<Utc>, step: TimeDelta) {
        let mut now = self.now();
        while now < until {
            now = (now + step).min(until);
            self.move_clocks(now).await;
            self.wait_until_idle().await;
        }
    }

    /// Moves both clocks past a period's end to a time at which its invoice is final.
    pub(crate) async fn advance_past_draft(&self, period_end: DateTime<Utc>) {
        let is_final = TimeDelta::minutes(80);
        self.advance_past(period_end, is_final).await;
    }

    /// Moves both clocks to a time after a period's end: in long steps before the end, and in short ones around it.
    pub(crate) async fn advance_past(&self, period_end: DateTime<Utc>, by: TimeDelta) {
        let near = period_end - TimeDelta::minutes(20);
        self.advance_to(near, TimeDelta::hours(6)).await;
        self.advance_to(period_end + by, TimeDelta::minutes(10))
            .await;
    }

    /// Waits until the server has done everything that is due: the jobs for period ends and for subscriptions have run,
    /// and no report is left to close or send.
    pub(crate) async fn wait_until_idle(&self) {
        let now = self.clock.now();
        let waits = [
            format!(
                "leases WHERE name IN ('period end', 'subscriptions poll') AND last_run_at >= {now}"
            ),
            format!("subscriptions WHERE ended_at IS NULL AND synced_at < {now}"),
            "subscriptions WHERE sync_requested_at IS NOT NULL".to_owned(),
            "report_runs WHERE closing_finished_at IS NULL".to_owned(),
            format!(
                "usage_reports WHERE state IN ('closed', 'sending', 'uncharged') AND COALESCE(next_attempt_at, 0) <= {now}"
            ),
            // Sent at this moment, without a response yet.
            format!(
                "usage_reports WHERE state = 'sending' AND last_sent_at >= {now} AND last_error IS NULL"
            ),
        ];
        // One query for all, because every step of a clock polls it many times.
        let [jobs, others @ ..] = &waits;
        let left = others
            .iter()
            .map(|table| format!("+ (SELECT COUNT(*) FROM {table})"));
        let left: String = left.collect();
        let sql = format!("SELECT 2 - (SELECT COUNT(*) FROM {jobs}) {left} AS number");
        let database = self.database().await;
        let mut polls = Polls::new();
        // Hundreds of accounts take a while. The server is stuck only if the outstanding work does not decrease.
        let (mut least, mut since, began) = (i64::MAX, Instant::now(), Instant::now());
        let mut moved_at = began;
        loop {
            let statement = Statement::from_string(database.get_database_backend(), &sql);
            let row = database.query_one_raw(statement).await.expect("rows");
            let number = row.expect("a row").try_get::<i64>("", "number");
            let number = number.expect("a number");
            if number == 0 {
                break;
            }
            if number < least {
                (least, since) = (number, Instant::now());
            }
            if since.elapsed() > STALL && moved_at.elapsed() > STALL {
                moved_at = Instant::now();
                self.move_clocks(self.now() + RETRY_STEP).await;
            }
            if since.elapsed() > TIMEOUT || began.elapsed() > 20 * TIMEOUT {
                for table in &waits {
                    eprintln!("{}: {table}", self.count_rows(table).await);
                }
                panic!("the server is not idle: {number} left, {least} at least");
            }
            polls.next().await;
        }
    }

    /// Waits until no billing period is left whose invoices are due to be compared.
    pub(crate) async fn wait_until_compared(&self) {
        let now = self.clock.now();
        let first_read = TimeDelta::minutes(65).num_milliseconds();
        let due = format!(
            "billing_periods WHERE compare_again_at <= {now} OR (compared_at IS NULL AND subscription IS NOT NULL \
             AND period_end <= {now} - {first_read})"
        );
        self.wait_until("all comparisons with invoices", async || {
            self.count_rows(&due).await == 0
        })
        .await;
    }

    /// Moves both clocks by hours, until rows of a table or of a part of it are found. In each hour, Stripe's totals and
    /// invoices are compared.
    pub(crate) async fn advance_until_found(&self, table: &str) {
        const MAX_HOURS: usize = 30;
        for _ in 0..MAX_HOURS {
            self.wait_until_compared().await;
            if self.count_rows(table).await > 0 {
                return;
            }
            self.move_clocks(self.now() + TimeDelta::minutes(61)).await;
            self.wait_until_idle().await;
            let now = self.clock.now();
            let verified = format!("leases WHERE name = 'verification' AND last_run_at >= {now}");
            self.wait_until("a verification", async || {
                self.count_rows(&verified).await == 1
            })
            .await;
        }
        panic!("not found: {table}");
    }

    /// Awaits a change of a subscription, and moves the clocks by two seconds after it has begun.
    pub(crate) fn while_clock_moves<'a, T: 'a>(
        &'a self,
        call: impl Future<Output = T> + 'a,
    ) -> Pin<Box<dyn Future<Output = T> + 'a>> {
        let both = async { tokio::join!(call, self.advance_once_change_begins()).0 };
        Box::pin(within("a change", both))
    }

    /// Moves the clocks by two seconds after a change has begun, so that Stripe gets it in a later second than its
    /// boundary.
    pub(crate) async fn advance_once_change_begins(&self) {
        let begun = "subscription_changes WHERE finished_at IS NULL";
        self.wait_until("a change to begin", async || {
            self.count_rows(begun).await > 0
        })
        .await;
        self.move_clocks(self.now() + TimeDelta::seconds(2)).await;
    }

    /// Calls the fake Stripe directly, like Stripe's dashboard: `POST`, `/v1/subscriptions/sub_acct`.
    pub(crate) async fn call_stripe(&self, method: &str, path: &str, form: &[(&str, &str)]) {
        let (base, key) = self.stripe_address();
        let method = method.parse().expect("a method");
        let request = reqwest::Client::new()
            .request(method, format!("{base}{path}"))
            .bearer_auth(key)
            .form(form);
        let answer = within("an answer", request.send())
            .await
            .expect("an answer");
        let status = answer.status();
        let body = answer.text().await.expect("a body");
        assert!(status.is_success(), "{path}: {status} {body}");
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.clock.now()).expect("a time")
    }

    /// The quantities of a meter on a customer's final invoices, oldest first.
    pub(crate) async fn invoiced_quantities(&self, customer: &str, event_name: &str) -> Vec<i64> {
        let finals = self.final_invoices(customer).await;
        finals
            .iter()
            .flat_map(|invoice| &invoice.lines)
            .filter(|line| line.event_name.as_deref() == Some(event_name))
            .map(|line| line.quantity)
            .collect()
    }

    /// Checks the quantities of `api_calls` on the final invoices of the customer `cus_acct`, oldest first.
    pub(crate) async fn assert_invoiced(&self, quantities: &[i64]) {
        let invoiced = self.invoiced_quantities("cus_acct", "api_calls").await;
        assert_eq!(invoiced, quantities, "on final invoices");
    }

    pub(crate) async fn final_invoices(&self, customer: &str) -> Vec<InvoiceSnapshot> {
        let mut invoices = self.stripe().invoices().await.expect("invoices");
        invoices.retain(|invoice| invoice.customer == customer && invoice.finalized_at.is_some());
        invoices
    }
}
