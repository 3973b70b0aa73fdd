//! `usagectl sign-off`: whether a month is closed, and its file.

use usage_client::PutAccount;

use super::{done, json, usagectl};
use crate::support::world::{World, at, on_both_engines};

on_both_engines!(
    a_month_is_shown_and_exported,
    an_open_month_is_not_exported_unless_it_is_asked_for,
);

const NOW: &str = "2027-04-05T10:00:00Z";

/// What `usage-server export sign-off` prints.
async fn of_server(world: &World, flags: &[&str]) -> String {
    let args = [&["sign-off", "--month=2027-03"], flags].concat();
    world.export_at(at(NOW), &args).await.unwrap().0
}

async fn a_month_is_shown_and_exported(mut world: World) {
    world.freeze(at(NOW)).await;
    let free = PutAccount::free("free");
    world.client().put_account(free).await.unwrap();
    world.count("free", 5_000, at("2027-03-20T05:00:00Z")).await;
    world.report_all().await;
    let shown = usagectl(world.endpoint(), &["sign-off", "2027-03"]).await;
    assert_eq!(shown.code, 0, "{}", shown.err);
    assert!(shown.out.contains("5,000"), "{}", shown.out);
    assert!(
        shown.err.contains("month 2027-03 is closed"),
        "{}",
        shown.err
    );
    let found = json(&world, &["sign-off", "2027-03", "--json"]).await;
    assert_eq!(found["closed"], true);
    assert_eq!(found["totals"][0]["meter"], "api_calls");
    assert_eq!(found["totals"][1]["meter"], "total");
    assert_eq!(found["totals"][1]["not_billable"], 5_000);
    let csv = of_server(&world, &["--format=csv"]).await;
    let export = ["sign-off", "2027-03", "--export", "csv"];
    let ran = usagectl(world.endpoint(), &export).await;
    assert_eq!((ran.code, &ran.out), (0, &csv), "{}", ran.err);
    let sha256 = found["csv"]["sha256"].as_str().unwrap();
    assert!(
        ran.err.contains(&format!("3 rows; SHA-256 {sha256}")),
        "{}",
        ran.err
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("march.jsonl");
    let path = file.to_str().unwrap();
    let export = ["sign-off", "2027-03", "--export", "jsonl", "--output", path];
    assert_eq!(done(&world, &export).await, "");
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written, of_server(&world, &[]).await);
    // A file that exists is kept.
    let again = usagectl(world.endpoint(), &export).await;
    assert_eq!(again.code, 1, "{}", again.err);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    world.finish().await;
}

async fn an_open_month_is_not_exported_unless_it_is_asked_for(mut world: World) {
    world.freeze(at(NOW)).await;
    world.count("acct", 5, at("2027-03-20T05:00:00Z")).await;
    let shown = usagectl(world.endpoint(), &["sign-off", "2027-03"]).await;
    assert_eq!(shown.code, 0, "{}", shown.err);
    assert!(
        shown.err.contains("not closed: month 2027-03"),
        "{}",
        shown.err
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("march.csv");
    let path = file.to_str().unwrap();
    let export = ["sign-off", "2027-03", "--export", "csv", "--output", path];
    let refused = usagectl(world.endpoint(), &export).await;
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.err.contains("5 still open"), "{}", refused.err);
    assert!(!file.exists());
    done(&world, &[&export[..], &["--open"]].concat()).await;
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        written,
        of_server(&world, &["--format=csv", "--open"]).await
    );
    world.finish().await;
}
