//! `usage-server stripe setup` with existing objects that differ from the configuration: it reports them and changes
//! nothing.

use fake_stripe::NewPrice;
use usage_server::commands::setup::{Outcome, SetupReport, set_up};

use super::setup::{Account, fault, outcomes};

/// Runs setup, changes an object, and returns the error of the next run, which must change nothing.
async fn after(change: impl AsyncFn(&Account), more: &[&str]) -> SetupReport {
    let account = Account::new().await;
    account.set_up(&[]).await.unwrap();
    change(&account).await;
    let writes = account.writes().await.len();
    let report = account.set_up(more).await.unwrap();
    assert!(!report.is_healthy());
    let text = report.to_string();
    assert!(
        text.ends_with("Nothing was changed: fix the above, then run it again."),
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
        // Missing objects are not created either.
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

    for (field, value, text) in [
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
        if field == "event_time_window" {
            // The fake Stripe supports no such meter, but can plant one.
            let control = account.fake_stripe.control();
            control
                .create_windowed_meter("api_calls", value)
                .await
                .unwrap();
        } else {
            form.push((field, value));
            account.post("billing/meters", &form).await;
        }
        let report = account.set_up(&[]).await.unwrap();
        let (object, why) = fault(&report);
        assert_eq!(object, "meter");
        assert!(why.contains(text), "{why}");
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
    for (price, text) in [
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
            "charges for meter mtr_other",
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
        assert!(why.contains(text), "{why}");
        assert!(account.writes().await.is_empty(), "nothing is changed");
    }
}
