//! The service of one database: its servers, and a fake Stripe over real HTTP that outlives them. What must hold in the
//! end.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

use chrono::DateTime;
use fake_stripe::{FakeStripe, Fault, Settings};
use serde_json::Value;
use usage_client::{ForceReport, PutAccount};
use usage_server::clock::Clock;

use crate::{
    callers::Calls,
    load::{ACCOUNTS, account},
    process::{Process, TIMEOUT},
    random::Random,
    wait_until, within,
};

const DAY_MS: i64 = 86_400_000;
const EVENTS: &str = "/v1/billing/meter_events";
/// A schedule that does not fire before 2052, in the next February with five Thursdays.
const NEVER: &str = "0 0 * 2 4#5";

/// A database, and the fake Stripe.
#[derive(Debug)]
pub(crate) struct Service {
    url: String,
    stripe: FakeStripe,
    is_insecure: bool,
}

impl Service {
    /// A fake Stripe with a customer for each account.
    pub(crate) async fn new(url: String) -> Self {
        let stripe = FakeStripe::start(Settings::default()).await.unwrap();
        let control = stripe.control();
        control.create_meter("api_calls").await.unwrap();
        for number in 0..ACCOUNTS {
            let customer = customer(number);
            control.create_subscribed_customer(&customer).await.unwrap();
        }
        Self {
            url,
            stripe,
            is_insecure: false,
        }
    }

    /// Also accepts a database that does not wait for its disk, which no power cut meets.
    pub(crate) fn on_insecure_database(mut self) -> Self {
        self.is_insecure = true;
        self
    }

    fn command(&self) -> Command {
        let mut command = Process::binary();
        command
            .env("DATABASE_URL", &self.url)
            .env("STRIPE_SECRET_KEY", self.stripe.secret_key())
            .env("STRIPE_API_BASE", self.stripe.base_url())
            .env("STRIPE_RETRY_MS", "20")
            .env("STRIPE_EVENTS_PER_SEC", "1000")
            .env("REPORT_SCHEDULE", NEVER);
        if self.is_insecure {
            command.env("INSECURE_DURABILITY", "true");
        }
        command
    }

    /// Starts a server.
    pub(crate) async fn serve(&self) -> Process {
        Process::start(self.command(), &[]).await
    }

    /// Starts the first server, and links the accounts.
    pub(crate) async fn serve_first(&self) -> Process {
        let process = self.serve().await;
        let from = DateTime::from_timestamp_millis(Clock::system().now() - 20 * DAY_MS).unwrap();
        for number in 0..ACCOUNTS {
            let link = PutAccount::stripe(account(number), customer(number)).bill_from(from);
            let put = within("a link", process.client().put_account(link)).await;
            put.unwrap();
        }
        process
    }

    /// Lets some answers about meter events come late, after they were accepted, so that a kill is often between.
    pub(crate) async fn delay_answers(&self, random: &mut Random) {
        let millis = u64::try_from(20 + random.below(300)).unwrap();
        let delay = Fault::delay(Duration::from_millis(millis)).on_path(EVENTS);
        let delay = delay.on_method("POST").after_executing().times(3);
        self.stripe.control().script(delay).await.unwrap();
    }

    /// Waits until Stripe has accepted a meter event, whose answer waits for [`Service::release_answer`]. The name must be
    /// new.
    pub(crate) async fn hold_next_answer(&self, name: &str) {
        let hold = Fault::block_until_released(name).on_path(EVENTS);
        let hold = hold.on_method("POST").after_executing();
        let control = self.stripe.control();
        control.script(hold).await.unwrap();
        control.wait_for_blocked(name, 1, TIMEOUT).await.unwrap();
    }

    pub(crate) async fn release_answer(&self, name: &str) {
        self.stripe.control().release(name).await.unwrap();
    }

    /// The units at Stripe.
    pub(crate) async fn sent(&self) -> i64 {
        let totals = self.stripe.control().totals().await.unwrap();
        totals.values().sum()
    }

    /// Repeats every call, which must be a duplicate; reports the rest; compares Stripe with what is counted; asks the
    /// doctor.
    pub(crate) async fn check(&self, process: &Process, calls: &Calls) {
        calls.repeat(process, "at the end").await;
        let mut counted = BTreeMap::new();
        for number in 0..ACCOUNTS {
            let total = process.total(&account(number)).await;
            counted.insert(customer(number), total);
        }
        let all: i64 = counted.values().sum();
        self.stripe.control().clear_faults().await.unwrap();
        let client = process.client();
        let run = within("a run", client.force_report(ForceReport::all())).await;
        // Not watched: what another server had claimed may be sent after it.
        drop(run.unwrap());
        wait_until("the usage at Stripe", || async { self.sent().await >= all }).await;
        let run = within("a run", client.force_report(ForceReport::all())).await;
        within("a run", run.unwrap().summary()).await.unwrap();
        self.check_stripe(&counted).await;
        self.check_ledger();
    }

    /// Each unit is at Stripe once.
    async fn check_stripe(&self, counted: &BTreeMap<String, i64>) {
        let control = self.stripe.control();
        let totals = control.totals().await.unwrap().into_iter();
        let totals: BTreeMap<String, i64> = totals
            .map(|((customer, _), total)| (customer, total))
            .collect();
        assert_eq!(&totals, counted, "at Stripe, and counted");
        let events = control.events().await.unwrap();
        let identifiers: BTreeSet<&str> = events
            .iter()
            .map(|event| event.identifier.as_str())
            .collect();
        assert_eq!(
            identifiers.len(),
            events.len(),
            "an identifier was accepted twice"
        );
    }

    /// What was committed equals what all reports contain, and no report waits for a decision.
    fn check_ledger(&self) {
        let output = self.command().args(["doctor", "--json"]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let findings: Vec<Value> = serde_json::from_str(&printed).expect(&printed);
        let has = |check: &str, severity: &str| {
            let mut lines = findings.iter();
            lines.any(|line| line["check"] == check && line["severity"] == severity)
        };
        assert!(has("ledger check", "ok"), "{printed}");
        assert!(!has("reports", "bad"), "{printed}");
    }
}

fn customer(number: usize) -> String {
    format!("cus_{number}")
}
