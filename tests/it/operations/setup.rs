//! `usage-server stripe setup`: what it makes at Stripe, that it makes it once, and what it refuses to touch.

use clap::Parser;
use fake_stripe::{FakeStripe, Fault, LoggedRequest, NewPrice, Settings};
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

/// An empty Stripe account, and what looks into it.
struct Account {
    fake_stripe: FakeStripe,
    http: reqwest::Client,
}

impl Account {
    async fn new() -> Self {
        let fake_stripe = FakeStripe::start(Settings::default()).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { fake_stripe, http }
    }

    /// Reads flags as the command line does; later ones win where there can be one only.
    fn config(&self, more: &[&str]) -> SetupConfig {
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

    async fn set_up(&self, more: &[&str]) -> Result<SetupReport, SetupError> {
        within("a set-up", set_up(&self.config(more))).await
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("{}/v1/{path}", self.fake_stripe.base_url());
        let request = self
            .http
            .get(url)
            .bearer_auth(self.fake_stripe.secret_key());
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let url = format!("{}/v1/{path}", self.fake_stripe.base_url());
        let request = self
            .http
            .post(url)
            .bearer_auth(self.fake_stripe.secret_key());
        let answer = request.form(form).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}");
        answer.json().await.unwrap()
    }

    async fn writes(&self) -> Vec<LoggedRequest> {
        let mut requests = self.fake_stripe.control().requests().await.unwrap();
        requests.retain(|request| request.method != "GET");
        requests
    }

    /// How many meters, products and prices there are.
    async fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for (count, path) in counts
            .iter_mut()
            .zip(["billing/meters", "products", "prices"])
        {
            *count = self.get(path).await["data"].as_array().unwrap().len();
        }
        counts
    }

    async fn price(&self, lookup_key: &str) -> Value {
        let path = format!("prices?lookup_keys[]={lookup_key}&expand[]=data.tiers");
        self.get(&path).await["data"][0].clone()
    }
}

fn outcomes(report: &SetupReport) -> Vec<Outcome> {
    report
        .steps
        .iter()
        .map(|step| step.outcome.clone())
        .collect()
}

/// The one thing that is not as asked.
fn fault(report: &SetupReport) -> (&'static str, String) {
    let mut wrong = report.steps.iter().filter_map(|step| match &step.outcome {
        Outcome::Wrong { why, .. } => Some((step.object, why.clone())),
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
            .ends_with("Nothing to change: everything is as asked.")
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
        // The object is made, and its maker is gone before the answer.
        let cut = Fault::hold("cut")
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
                held = control.wait_for_held("cut", 1, TIMEOUT) => held.unwrap(),
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
    let said = set_up(&config).await.unwrap_err().to_string();
    assert!(said.contains("401"), "{said}");
    config.stripe.stripe_secret_key = None;
    let said = set_up(&config).await.unwrap_err().to_string();
    assert!(said.contains("STRIPE_SECRET_KEY"), "{said}");
}

/// Sets up once, lets something change, and sees what the next run says; it must change nothing.
async fn after(change: impl AsyncFn(&Account), more: &[&str]) -> SetupReport {
    let account = Account::new().await;
    account.set_up(&[]).await.unwrap();
    change(&account).await;
    let writes = account.writes().await.len();
    let report = account.set_up(more).await.unwrap();
    assert!(!report.is_healthy());
    let text = report.to_string();
    assert!(
        text.ends_with("Nothing was changed: mend the above first."),
        "{text}"
    );
    assert_eq!(account.writes().await.len(), writes, "nothing is changed");
    report
}

#[tokio::test]
async fn existing_objects_that_differ_are_reported_and_left_unchanged() {
    let archived = after(
        async |account| {
            let control = account.fake_stripe.control();
            control.deactivate_meter("api_calls").await.unwrap();
        },
        // What is missing is not created either.
        &["--plan=other"],
    )
    .await;
    let (object, why) = fault(&archived);
    assert_eq!(object, "meter");
    assert!(why.contains("archived"), "{why}");
    assert!(outcomes(&archived).contains(&Outcome::Missing));

    let product = after(
        async |account| {
            account
                .post("products/usage_api_calls", &[("active", "false")])
                .await;
        },
        &[],
    )
    .await;
    assert_eq!(fault(&product), ("product", "it is archived".to_owned()));

    let inactive = after(
        async |account| {
            let price = account.price("usage:api_calls:standard").await;
            let path = format!("prices/{}", price["id"].as_str().unwrap());
            account.post(&path, &[("active", "false")]).await;
        },
        &[],
    )
    .await;
    assert_eq!(fault(&inactive), ("price", "it is archived".to_owned()));

    let currency = after(async |_| {}, &["--currency=eur"]).await;
    assert!(
        currency
            .to_string()
            .contains("its currency is usd, not eur")
    );
}

#[tokio::test]
async fn other_tiers_or_another_aggregation_are_reported() {
    let account = Account::new().await;
    account.set_up(&[]).await.unwrap();
    let mut config = account.config(&[]);
    config.tiers.remove(0);
    let report = set_up(&config).await.unwrap();
    let (object, why) = fault(&report);
    assert_eq!(object, "price");
    assert_eq!(why, "its tiers are 1000=0.5+2000 inf=0.25, not inf=0.25");

    for (field, value, said) in [
        (
            "default_aggregation[formula]",
            "count",
            "its aggregation is count",
        ),
        ("event_time_window", "day", "summed by the day"),
        ("customer_mapping[event_payload_key]", "who", "\"who\""),
        ("value_settings[event_payload_key]", "amount", "\"amount\""),
    ] {
        let account = Account::new().await;
        let mut form = vec![
            ("display_name", "Calls"),
            ("event_name", "api_calls"),
            ("default_aggregation[formula]", "sum"),
            ("customer_mapping[type]", "by_id"),
            ("customer_mapping[event_payload_key]", "stripe_customer_id"),
            ("value_settings[event_payload_key]", "value"),
        ];
        form.retain(|(name, _)| *name != field);
        form.push((field, value));
        account.post("billing/meters", &form).await;
        let report = account.set_up(&[]).await.unwrap();
        let (object, why) = fault(&report);
        assert_eq!(object, "meter");
        assert!(why.contains(said), "{why}");
        assert_eq!(account.counts().await, [1, 0, 0], "nothing is changed");
    }
}

#[tokio::test]
async fn a_lookup_key_used_by_another_price_is_reported() {
    let meter = "mtr_calls";
    let key = "usage:api_calls:standard";
    let product = "usage_api_calls";
    let tiers = [(Some(1_000), "0.5"), (None, "0.25")];
    let volume = NewPrice::volume("price_1", product, meter, &tiers);
    let graduated = NewPrice {
        tiers_mode: Some("graduated".to_owned()),
        ..volume.clone()
    };
    let yearly = NewPrice {
        interval: "year".to_owned(),
        ..volume.clone()
    };
    for (price, said) in [
        (graduated, "its tiers are graduated, not volume"),
        (
            NewPrice::per_unit("price_1", product, meter, "1"),
            "its tiers are none",
        ),
        (NewPrice::licensed("price_1", product, "1"), "licensed"),
        (yearly, "every 1 year"),
        (
            NewPrice::volume("price_1", "prod_x", meter, &tiers),
            "belongs to product prod_x",
        ),
        (
            NewPrice::volume("price_1", product, "mtr_other", &tiers),
            "counts meter mtr_other",
        ),
    ] {
        let account = Account::new().await;
        let control = account.fake_stripe.control();
        control
            .create_meter_with_id(meter, "api_calls")
            .await
            .unwrap();
        control
            .create_meter_with_id("mtr_other", "other")
            .await
            .unwrap();
        let price = NewPrice {
            lookup_key: Some(key.to_owned()),
            ..price
        };
        control.create_price(&price).await.unwrap();
        let report = account.set_up(&[]).await.unwrap();
        let (object, why) = fault(&report);
        assert_eq!(object, "price");
        assert!(why.contains(said), "{why}");
        assert!(account.writes().await.is_empty(), "nothing is changed");
    }
}
