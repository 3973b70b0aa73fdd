//! `usagectl find` and `usagectl explain`.

use chrono::TimeDelta;
use serde_json::Value;
use usage_client::Increment;

use super::{done, json, usagectl};
use crate::support::world::{World, at, billing::BASIC, on_both_engines};

on_both_engines!(
    a_key_is_followed_to_its_line,
    a_period_is_explained_as_a_table_json_and_csv,
    the_limit_counts_reports_too,
    what_is_not_found_fails,
);

const START: &str = "2027-03-10T13:12:34Z";
const NOW: &str = "2027-03-20T08:30:10Z";

/// An account with 7 units of a key, 20 of another one and 3 without one, in one report.
async fn begin(world: &mut World) {
    world.start_subscribed(at(NOW), &[BASIC], at(START)).await;
    let increment = |quantity| Increment::new("acct").quantity(quantity).timestamp(at(NOW));
    for increment in [
        increment(7).key("order-7"),
        increment(20).key("order-20"),
        increment(3).without_key(),
    ] {
        world.client().increment(increment).await.unwrap();
    }
    world.report_all().await;
    world.wait_until_sent("acct").await;
}

async fn a_key_is_followed_to_its_line(mut world: World) {
    begin(&mut world).await;
    let args = ["find", "order-7", "--account", "acct", "--json"];
    let found = json(&world, &args).await;
    let [row] = found.as_array().unwrap().as_slice() else {
        panic!("{found}");
    };
    let report = world.reports("acct").await.remove(0);
    for (name, value) in [
        ("quantity", Value::from(7)),
        ("meter", "api_calls".into()),
        ("timestamp", NOW.into()),
        ("report", report.id.into()),
        ("report_quantity", 30.into()),
        ("identifier", report.identifier.into()),
        ("customer", "cus_acct".into()),
        ("price", BASIC.into()),
        ("period_start", START.into()),
        ("invoiced", Value::Null),
    ] {
        assert_eq!(row[name], value, "{name}");
    }
    let key = row["key"].as_str().unwrap();
    let again = done(&world, &["find", key, "--account", "acct", "--csv"]).await;
    let lines: Vec<&str> = again.lines().collect();
    assert_eq!(lines.len(), 2, "{again}");
    assert!(
        lines[1].starts_with(&format!("{key},acct,api_calls,7,")),
        "{again}"
    );
    let table = done(&world, &["find", "order-7", "--account", "acct"]).await;
    assert!(table.contains(key) || table.contains(&key[..8]), "{table}");
    world.finish().await;
}

async fn a_period_is_explained_as_a_table_json_and_csv(mut world: World) {
    begin(&mut world).await;
    let rows = json(&world, &["explain", "acct", "--at", NOW, "--json"]).await;
    let rows = rows.as_array().unwrap();
    let shown: Vec<(&str, i64)> = rows
        .iter()
        .map(|row| {
            let name = row["row"].as_str().unwrap();
            let figure = ["quantity", "reported"][usize::from(name == "line")];
            (name, row[figure].as_i64().unwrap())
        })
        .collect();
    let of = |name| shown.iter().filter(move |(row, _)| *row == name);
    assert_eq!(of("line").map(|(_, figure)| *figure).sum::<i64>(), 30);
    assert_eq!(of("report").map(|(_, figure)| *figure).sum::<i64>(), 30);
    assert_eq!(of("increment").count(), 2);
    assert_eq!(of("increment").map(|(_, figure)| *figure).sum::<i64>(), 27);
    assert_eq!(shown.last(), Some(&("without_key", 3)));
    assert_eq!(rows[0]["price"], BASIC);
    assert_eq!(rows[0]["reported_of_other_accounts"], 0);
    // The same selection as an interval, and page by page.
    let soon = (at(NOW) + TimeDelta::hours(1)).to_rfc3339();
    let by_time = ["explain", "acct", "--start", NOW, "--end", &soon, "--csv"];
    let csv = done(&world, &by_time).await;
    assert_eq!(csv.lines().count(), 1 + rows.len(), "{csv}");
    let first = usagectl(
        world.endpoint(),
        &["explain", "acct", "--at", NOW, "--without-increments"],
    )
    .await;
    assert_eq!((first.code, &*first.err), (0, ""), "{}", first.out);
    assert!(!first.out.contains("without_key"), "{}", first.out);
    world.finish().await;
}

async fn the_limit_counts_reports_too(mut world: World) {
    begin(&mut world).await;
    let earlier = at(NOW) - TimeDelta::hours(2);
    world.count("acct", 5, earlier).await;
    let mut quantities = Vec::new();
    let mut token: Option<String> = None;
    for _ in 0..2 {
        let mut args = vec!["explain", "acct", "--at", NOW, "--json"];
        args.extend(["--without-increments", "--limit", "1"]);
        if let Some(token) = &token {
            args.extend(["--page-token", token.as_str()]);
        }
        let page = usagectl(world.endpoint(), &args).await;
        assert_eq!(page.code, 0, "{}", page.err);
        let rows: Value = serde_json::from_str(&page.out).unwrap();
        let rows = rows.as_array().unwrap().iter();
        let reports = rows.filter(|row| row["row"] == "report");
        quantities.push(
            reports
                .map(|row| row["quantity"].clone())
                .collect::<Vec<_>>(),
        );
        let more = page.err.split_once("--page-token ");
        token = more.map(|(_, token)| token.trim().to_owned());
    }
    assert_eq!(quantities, [[Value::from(5)], [Value::from(30)]]);
    assert_eq!(token, None);
    world.finish().await;
}

async fn what_is_not_found_fails(mut world: World) {
    begin(&mut world).await;
    for (args, code, words) in [
        (vec!["find", "order-8", "--account", "acct"], 1, "36 days"),
        (vec!["explain", "--invoice", "in_missing"], 1, "in_missing"),
        (vec!["explain", "other"], 1, "no billing period"),
        (vec!["explain"], 2, "ACCOUNT"),
        (
            vec!["explain", "acct", "--invoice", "in_1", "--at", "now"],
            2,
            "--at",
        ),
    ] {
        let ran = usagectl(world.endpoint(), &args).await;
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
    }
    world.finish().await;
}
