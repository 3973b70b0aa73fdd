//! Helpers for tests of reporting: usage at a time, meter events at the fake Stripe, stopped clocks, and direct access
//! to the database.

use chrono::{DateTime, Utc};
use fake_stripe::{LoggedRequest, StoredEvent};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, Statement};
use usage_client::{ForceReport, Increment, ReportState};
use usage_server::clock::Clock;

use super::{Engine, TIMEOUT, World, time::Polls};

impl World {
    /// Counts usage of the default meter at a time.
    pub(crate) async fn count(&self, account: &str, quantity: i64, at: DateTime<Utc>) {
        self.count_of(account, "api_calls", quantity, at).await;
    }

    /// Counts usage of a meter at a time.
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

    /// Forces a run, and does not wait for its end.
    pub(crate) async fn start_run(&self) {
        let run = self.client().force_report(ForceReport::all()).await;
        drop(run.expect("a run"));
    }

    /// A customer's meter events at the fake Stripe, ordered by timestamp.
    pub(crate) async fn meter_events(&self, customer: &str) -> Vec<StoredEvent> {
        let mut events = self.stripe().events().await.expect("events");
        events.retain(|event| event.customer == customer);
        events.sort_by_key(|event| event.timestamp);
        events
    }

    /// The requests that sent a customer's meter events, in order.
    pub(crate) async fn attempts_for(&self, customer: &str) -> Vec<LoggedRequest> {
        let mut requests = self.stripe().requests().await.expect("requests");
        requests.retain(|request| {
            request.path == "/v1/billing/meter_events"
                && request.customer.as_deref() == Some(customer)
        });
        requests
    }

    /// The requests that sent meter events, in order.
    pub(crate) async fn all_attempts(&self) -> Vec<LoggedRequest> {
        let mut requests = self.stripe().requests().await.expect("requests");
        requests.retain(|request| request.path == "/v1/billing/meter_events");
        requests
    }

    /// Restarts the server with a stopped clock, and stops the clock of the fake Stripe.
    pub(crate) async fn freeze(&mut self, now: DateTime<Utc>) {
        self.set_clock(Clock::manual(now.timestamp_millis())).await;
        self.move_clocks(now).await;
    }

    /// Sets the clocks that [`World::freeze`] stopped.
    pub(crate) async fn move_clocks(&self, now: DateTime<Utc>) {
        let now = now.timestamp_millis();
        self.stripe().set_clock(now).await.expect("a clock");
        self.clock.set(now);
    }

    /// Expires all leases, as happens some time after their holder crashed.
    pub(crate) async fn expire_leases(&self) {
        self.execute_sql("UPDATE leases SET held_until = 0").await;
    }

    /// Waits until a background job has run, or has been entered as run at the server's first start.
    pub(crate) async fn wait_until_job_ran(&self, job: &str) {
        let ran = format!("leases WHERE name = '{job}' AND last_run_at IS NOT NULL");
        self.wait_until(job, || async { self.count_rows(&ran).await == 1 })
            .await;
    }

    /// Sets when a background job last ran.
    pub(crate) async fn set_last_run(&self, job: &str, at: DateTime<Utc>) {
        let last = at.timestamp_millis();
        self.execute_sql(&format!(
            "INSERT INTO leases (name, holder, held_until, last_run_at) VALUES ('{job}', '', 0, {last}) \
             ON CONFLICT (name) DO UPDATE SET last_run_at = excluded.last_run_at"
        ))
        .await;
    }

    /// The test's connection to the database.
    pub(super) async fn database(&self) -> &DatabaseConnection {
        self.database
            .get_or_init(async || self.connect_to_database().await)
            .await
    }

    /// Another connection to the database. It has no maximum lifetime, because the pool's task that closes old
    /// connections can loop forever.
    pub(crate) async fn connect_to_database(&self) -> DatabaseConnection {
        let mut options = ConnectOptions::new(&self.database_url);
        options
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None);
        Database::connect(options).await.expect("the database")
    }

    /// Changes the database directly, to simulate the passing of time or a crash.
    pub(crate) async fn execute_sql(&self, statement: &str) {
        let database = self.database().await;
        database
            .execute_unprepared(statement)
            .await
            .expect("a change");
    }

    /// Inserts usage of an hour as if it had been counted, never billed and folded, in any quantity. No archive has it.
    pub(crate) async fn insert_folded(
        &self,
        account: &str,
        meter: &str,
        quantity: i64,
        hour: DateTime<Utc>,
    ) {
        let id = match self.engine {
            Engine::Sqlite => "randomblob(16)",
            Engine::Postgres => "gen_random_uuid()",
        };
        let start = hour.timestamp_millis();
        let end = start + 3_600_000;
        let folded = format!(
            "INSERT INTO folded_reports (account_id, window_start, id, meter, window_end, state, quantity, reports, \
             first_at, last_at, archive) VALUES ('{account}', {start}, {id}, '{meter}', {end}, 'not_billable', \
             {quantity}, 1, {start}, {start}, 1)"
        );
        self.execute_sql(&folded).await;
        let now = self.clock.now();
        let commit = format!("INSERT INTO commits VALUES ({id}, 1, {quantity}, {now})");
        self.execute_sql(&commit).await;
    }

    /// The number of rows of a table, or of a part of it: `commits WHERE quantity = 0`.
    pub(crate) async fn count_rows(&self, table: &str) -> i64 {
        let database = self.database().await;
        let sql = format!("SELECT COUNT(*) AS number FROM {table}");
        let statement = Statement::from_string(database.get_database_backend(), sql);
        let row = database.query_one_raw(statement).await.expect("rows");
        let number = row.expect("a row").try_get("", "number");
        number.expect("a number")
    }

    /// Crashes and restarts, without waiting for the lease of the crashed server.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.crash();
        self.start_server().await;
        // Last, because a statement of the crashed server may still have been running.
        self.expire_leases().await;
    }

    /// Waits until no report of any account is left to send, or to look up.
    pub(crate) async fn wait_until_all_sent(&self) {
        let now = self.clock.now();
        let due = format!(
            "usage_reports WHERE state IN ('closed', 'sending') \
             OR state = 'unknown' AND COALESCE(next_attempt_at, 0) <= {now}"
        );
        self.wait_until("every report to be sent", || async {
            self.count_rows(&due).await == 0
        })
        .await;
    }

    /// Waits until every report of an account is in one of these states. Fails with the actual states.
    pub(crate) async fn wait_until_reports_are(&self, account: &str, states: &[ReportState]) {
        let are_all = async || {
            let reports = self.reports(account).await;
            reports.iter().all(|report| states.contains(&report.state))
        };
        let reached = tokio::time::timeout(TIMEOUT, async {
            let mut polls = Polls::new();
            while !are_all().await {
                polls.next().await;
            }
        });
        assert!(
            reached.await.is_ok(),
            "not all are {states:?}: {:#?}",
            self.reports(account).await
        );
    }
}
