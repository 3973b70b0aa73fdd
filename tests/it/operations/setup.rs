//! `usage-server stripe setup`: creates objects at Stripe once, and leaves existing ones unchanged.

use clap::Parser;
use fake_stripe::{FakeStripe, Fault, LoggedRequest, Settings};
use serde_json::Value;
use usage_server::commands::setup::{Outcome, SetupConfig, SetupError, SetupReport, set_up};

use crate::support::world::{TIMEOUT, within};

const FLAGS: [&str; 5] = [
    "--meters=api_calls:call,tokens=llm_tokens:token",
    "--default-meter=api_calls",
    "--tier=api_calls:1000=0.50+2000",
    "--tier=api_calls:inf=0.25",
    "--tier=tokens:inf=+99",
];

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: SetupConfig,
}

/// An empty account of the fake Stripe, and access to it.
pub(super) struct Account {
    pub(super) fake_stripe: FakeStripe,
    http: reqwest::Client,
}

impl Account {
    pub(super) async fn new() -> Self {
        let fake_stripe = FakeStripe::start(Settings::default()).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { fake_stripe, http }
    }

    /// Parses flags as the command line does. Of a flag that can be given once, the last one is used.
    pub(super) fn config(&self, more: &[&str]) -> SetupConfig {
        let mut flags: Vec<String> = ["setup"]
            .iter()
            .chain(&FLAGS)
            .map(|flag| (*flag).to_owned())
            .collect();
        flags.push(format!(
            "--stripe-secret-key={}",
            self.fake_stripe.secret_key()
        ));
        flags.push(format!("--stripe-api-base={}", self.fake_stripe.base_url()));
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        Cli::try_parse_from(flags).unwrap().config
    }

    pub(super) async fn set_up(&self, more: &[&str]) -> Result<SetupReport, SetupError> {
        within("a set-up", set_up(&self.config(more))).await
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let url = format!("{}/v1/{path}", self.fake_stripe.base_url());
        let request = self
            .http
            .get(url)
            .bearer_auth(self.fake_stripe.secret_key());
        request.send().await.unwrap().json().await.unwrap()
    }

    pub(super) async fn post(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let url = format!("{}/v1/{path}", self.fake_stripe.base_url());
        let request = self
            .http
            .post(url)
            .bearer_auth(self.fake_stripe.secret_key());
        let answer = request.form(form).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}");
        answer.json().await.unwrap()
    }

    pub(super) async fn writes(&self) -> Vec<LoggedRequest> {
        let mut requests = self.fake_stripe.control().requests().await.unwrap();
        requests.retain(|request| request.method != "GET");
        requests
    }

    /// The numbers of meters, products and prices.
    pub(super) async fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for (count, path) in counts
            .iter_mut()
            .zip(["billing/meters", "products", "prices"])
        {
            *count = self.get(path).await["data"].as_array().unwrap().len();
        }
        counts
    }

    pub(super) async fn price(&self, lookup_key: &str) -> Value {
        let path = format!("prices?lookup_keys[]={lookup_key}&expand[]=data.tiers");
        self.get(&path).await["data"][0].clone()
    }
}

pub(super) fn outcomes(report: &SetupReport) -> Vec<Outcome> {
    report
        .steps
        .iter()
        .map(|step| step.outcome.clone())
        .collect()
}

/// The only object that differs.
pub(super) fn fault(report: &SetupReport) -> (&'static str, String) {
    let mut wrong = report.steps.iter().filter_map(|step| match &step.outcome {
        Outcome::Different { difference, .. } => Some((step.object, difference.clone())),
        _ => None,
    });
    let fault = wrong.next().expect("a fault");
    assert_eq!(wrong.next(), None, "one fault");
    fault
}

#[tokio::test]
async fn setup_creates_what_usage_needs_and_a_second_run_changes_nothing() {
    let account = Account::new().await;
    let report = account.set_up(&[]).await.unwrap();
    assert_eq!(outcomes(&report), vec![Outcome::Created; 6]);
    assert!(report.is_healthy());
    assert!(
        report.to_string().ends_with("Stripe is set up."),
        "{report}"
    );

    let meters = account.get("billing/meters").await;
    let meter = meters["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|meter| meter["event_name"] == "llm_tokens")
        .unwrap();
    assert_eq!(meter["default_aggregation"]["formula"], "sum");
    assert_eq!(meter["event_time_window"], Value::Null);
    assert_eq!(
        meter["customer_mapping"]["event_payload_key"],
        "stripe_customer_id"
    );
    assert_eq!(meter["value_settings"]["event_payload_key"], "value");
    let product = account.get("products/usage_api_calls").await;
    assert_eq!(product["unit_label"], "call");
    let price = account.price("usage:api_calls:standard").await;
    assert_eq!(price["product"], "usage_api_calls");
    assert_eq!(price["tiers_mode"], "volume");
    assert_eq!(price["currency"], "usd");
    assert_eq!(price["recurring"]["interval"], "month");
    assert_eq!(price["recurring"]["usage_type"], "metered");
    assert_eq!(price["tiers"][0]["up_to"], 1_000);
    assert_eq!(price["tiers"][0]["unit_amount_decimal"], "0.5");
    assert_eq!(price["tiers"][0]["flat_amount_decimal"], "2000");
    assert_eq!(price["tiers"][1]["up_to"], Value::Null);
    let tokens = account.price("usage:llm_tokens:standard").await;
    assert_eq!(tokens["recurring"]["meter"], meter["id"]);
    assert_eq!(tokens["tiers"][0]["flat_amount_decimal"], "99");

    let writes = account.writes().await.len();
    let again = account.set_up(&[]).await.unwrap();
    assert_eq!(outcomes(&again), vec![Outcome::Found; 6]);
    assert!(
        again
            .to_string()
            .ends_with("Nothing to change: everything matches.")
    );
    assert_eq!(
        account.writes().await.len(),
        writes,
        "a second run writes nothing"
    );
}

#[tokio::test]
async fn a_dry_setup_shows_its_steps_and_writes_nothing() {
    let account = Account::new().await;
    let report = account.set_up(&["--dry-run"]).await.unwrap();
    assert_eq!(outcomes(&report), vec![Outcome::Missing; 6]);
    let text = report.to_string();
    assert_eq!(text.matches("would be created").count(), 6, "{text}");
    assert!(text.ends_with("nothing was changed."), "{text}");
    assert!(account.writes().await.is_empty());
}

#[tokio::test]
async fn two_plans_share_a_meter_and_a_product() {
    let account = Account::new().await;
    account.set_up(&[]).await.unwrap();
    account.set_up(&["--plan=pro"]).await.unwrap();
    assert_eq!(account.counts().await, [2, 2, 4]);
}

#[tokio::test]
async fn concurrent_setups_create_everything_once() {
    let account = Account::new().await;
    let runs = futures_util::future::join_all((0..4).map(|_| account.set_up(&[]))).await;
    for report in runs {
        assert!(report.unwrap().is_healthy());
    }
    assert_eq!(account.counts().await, [2, 2, 2]);
}

#[tokio::test]
async fn an_interrupted_setup_resumes_at_any_step() {
    for path in ["/v1/billing/meters", "/v1/products", "/v1/prices"] {
        let account = Account::new().await;
        // The object is created, and the process that created it ends before the response.
        let cut = Fault::block_until_released("cut")
            .after_executing()
            .on_method("POST")
            .on_path(path);
        let control = account.fake_stripe.control();
        control.script(cut).await.unwrap();
        {
            let config = account.config(&[]);
            let first = set_up(&config);
            tokio::select! {
                _ = first => panic!("the answer was held"),
                held = control.wait_for_blocked("cut", 1, TIMEOUT) => held.unwrap(),
            }
        }
        control.release("cut").await.unwrap();
        assert!(account.set_up(&[]).await.unwrap().is_healthy());
        assert_eq!(account.counts().await, [2, 2, 2], "{path}");
    }
}

#[tokio::test]
async fn unanswered_setup_requests_are_retried() {
    for fault in [
        Fault::status(500),
        Fault::accept_then_drop(),
        Fault::undecodable(),
        Fault::status(429),
    ] {
        let account = Account::new().await;
        let control = account.fake_stripe.control();
        control
            .script(fault.clone().on_method("POST"))
            .await
            .unwrap();
        control.script(fault.on_method("GET")).await.unwrap();
        assert!(account.set_up(&[]).await.unwrap().is_healthy());
        assert_eq!(account.counts().await, [2, 2, 2]);
    }
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_reported() {
    let account = Account::new().await;
    let mut config = account.config(&[]);
    config.stripe.stripe_secret_key = Some("sk_test_other".to_owned().into());
    let text = set_up(&config).await.unwrap_err().to_string();
    assert!(text.contains("401"), "{text}");
    config.stripe.stripe_secret_key = None;
    let text = set_up(&config).await.unwrap_err().to_string();
    assert!(text.contains("STRIPE_SECRET_KEY"), "{text}");
}
