//! What tests of reporting reach for: usage at a moment, Stripe's side of it, clocks that stand still, and the
//! database behind the service's back.

use chrono::{DateTime, Utc};
use fake_stripe::{LoggedRequest, StoredEvent};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, Statement};
use usage_client::{Increment, ReportState};
use usage_server::clock::Clock;

use super::{TIMEOUT, World};

impl World {
    /// Counts usage of the default meter at a moment.
    pub(crate) async fn count(&self, account: &str, quantity: i64, at: DateTime<Utc>) {
        self.count_of(account, "api_calls", quantity, at).await;
    }

    /// Counts usage of a meter at a moment.
    pub(crate) async fn count_of(
        &self,
        account: &str,
        meter: &str,
        quantity: i64,
        at: DateTime<Utc>,
    ) {
        let increment = Increment::new(account)
            .meter(meter)
            .quantity(quantity)
            .timestamp(at);
        self.client().increment(increment).await.expect("counted");
    }

    /// The meter events that the stand-in for Stripe holds of a customer, by their timestamps.
    pub(crate) async fn meter_events(&self, customer: &str) -> Vec<StoredEvent> {
        let mut events = self.stripe().events().await.expect("events");
        events.retain(|event| event.customer == customer);
        events.sort_by_key(|event| event.timestamp);
        events
    }

    /// The calls that gave the stand-in for Stripe a meter event of a customer, in order.
    pub(crate) async fn attempts_for(&self, customer: &str) -> Vec<LoggedRequest> {
        let mut requests = self.stripe().requests().await.expect("requests");
        requests.retain(|request| {
            request.path == "/v1/billing/meter_events"
                && request.customer.as_deref() == Some(customer)
        });
        requests
    }

    /// The calls that gave the stand-in for Stripe a meter event of anybody, in order.
    pub(crate) async fn all_attempts(&self) -> Vec<LoggedRequest> {
        let mut requests = self.stripe().requests().await.expect("requests");
        requests.retain(|request| request.path == "/v1/billing/meter_events");
        requests
    }

    /// Restarts the server under a clock that stands still, as does the one of the stand-in for Stripe.
    pub(crate) async fn freeze(&mut self, now: DateTime<Utc>) {
        self.set_clock(Clock::manual(now.timestamp_millis())).await;
        self.move_clocks(now).await;
    }

    /// Moves the clocks that [`World::freeze`] stopped.
    pub(crate) async fn move_clocks(&self, now: DateTime<Utc>) {
        let now = now.timestamp_millis();
        self.stripe().set_clock(now).await.expect("a clock");
        self.clock.set(now);
    }

    /// Lets every lease run out, as it would after a while when its holder died.
    pub(crate) async fn expire_leases(&self) {
        self.execute_sql("UPDATE leases SET held_until = 0").await;
    }

    /// Waits until a background job has run, or has been entered as run at the server's first start.
    pub(crate) async fn wait_until_job_ran(&self, job: &str) {
        let ran = format!("leases WHERE name = '{job}' AND last_run_at IS NOT NULL");
        self.wait_until(job, || async { self.count_rows(&ran).await == 1 })
            .await;
    }

    /// Makes a background job due now.
    pub(crate) async fn make_job_due(&self, job: &str) {
        self.execute_sql(&format!(
            "UPDATE leases SET last_run_at = 0 WHERE name = '{job}'"
        ))
        .await;
    }

    /// One connection to the database. It is kept, because a pool's task that closes old ones may go round
    /// for ever.
    pub(crate) async fn database(&self) -> DatabaseConnection {
        let mut options = ConnectOptions::new(&self.database_url);
        options
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None);
        Database::connect(options).await.expect("the database")
    }

    /// Changes the database behind the service's back, as only time or a crash would.
    pub(crate) async fn execute_sql(&self, statement: &str) {
        let database = self.database().await;
        database
            .execute_unprepared(statement)
            .await
            .expect("a change");
        database.close().await.expect("a clean end");
    }

    /// How many rows a table has, or a part of it: `commits WHERE quantity = 0`.
    pub(crate) async fn count_rows(&self, table: &str) -> i64 {
        let database = self.database().await;
        let sql = format!("SELECT COUNT(*) AS number FROM {table}");
        let statement = Statement::from_string(database.get_database_backend(), sql);
        let row = database.query_one_raw(statement).await.expect("rows");
        database.close().await.expect("a clean end");
        let number = row.expect("a row").try_get("", "number");
        number.expect("a number")
    }

    /// Crashes, starts again and need not wait for the dead server's lease.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.crash();
        self.start_server().await;
        // Last, since a statement of the dead server may have been under way.
        self.expire_leases().await;
    }

    /// Waits until every report of an account is in one of these states; says what they are when that does
    /// not come true.
    pub(crate) async fn wait_until_reports_are(&self, account: &str, states: &[ReportState]) {
        let reached = tokio::time::timeout(TIMEOUT, async {
            loop {
                let reports = self.reports(account).await;
                if reports.iter().all(|report| states.contains(&report.state)) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        });
        assert!(
            reached.await.is_ok(),
            "not all are {states:?}: {:#?}",
            self.reports(account).await
        );
    }
}
