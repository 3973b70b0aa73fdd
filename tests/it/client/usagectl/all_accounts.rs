//! The commands about the usage of all accounts: `usage`, `summary` and `accounts --all`.

use super::{done, json, usagectl};
use crate::support::world::{World, at, hours_ago, on_both_engines};

on_both_engines!(
    usage_is_listed_by_quantity_and_by_account,
    a_list_of_the_last_hours_goes_on_as_it_says,
    a_summary_is_printed_in_each_format,
    accounts_that_were_only_counted_are_listed,
    accounts_are_listed_with_their_recent_usage,
    a_command_without_a_start_is_refused,
);

const MARCH: [&str; 4] = ["--start", "2026-03-01", "--end", "2026-04-01"];

async fn in_march(world: &mut World) {
    world.set_time("2026-03-10T12:00:00Z").await;
    for (account, quantity) in [("team:1", 5), ("team:2", 8), ("other", 7)] {
        let time = at("2026-03-10T08:30:00Z");
        world.count(account, quantity, time).await;
    }
    let time = at("2026-03-09T23:30:00Z");
    world.count("other", 100, time).await;
}

async fn usage_is_listed_by_quantity_and_by_account(mut world: World) {
    in_march(&mut world).await;
    let usage = [&["usage", "api_calls"][..], &MARCH].concat();
    let csv = done(&world, &[&usage[..], &["--csv"]].concat()).await;
    assert_eq!(
        csv,
        "account_id,meter,quantity\nother,api_calls,107\nteam:2,api_calls,8\nteam:1,api_calls,5\n"
    );
    let of_team = [&usage[..], &["--prefix", "team:", "--by-account", "--json"]].concat();
    let of_team = json(&world, &of_team).await;
    assert_eq!(of_team[0]["account_id"], "team:1");
    assert_eq!(of_team[1]["quantity"], 8);
    assert_eq!(of_team.as_array().unwrap().len(), 2);
    let table = done(&world, &usage).await;
    assert!(table.contains("other") && table.contains("107"), "{table}");
    world.finish().await;
}

async fn a_list_of_the_last_hours_goes_on_as_it_says(world: World) {
    for (account, quantity) in [("first", 2), ("second", 1)] {
        world.count(account, quantity, hours_ago(1)).await;
    }
    let page = ["usage", "api_calls", "--csv", "--limit", "1"];
    let first = [&page[..], &["--last", "24h"]].concat();
    let first = usagectl(world.endpoint(), &first).await;
    assert!(first.out.contains("first,api_calls,2"), "{}", first.out);
    let flags = first.err.trim().strip_prefix("there are more: ");
    let flags: Vec<&str> = flags.unwrap().split(' ').collect();
    let next = usagectl(world.endpoint(), &[&page[..], &flags].concat()).await;
    assert_eq!(next.code, 0, "{flags:?}: {}", next.err);
    assert_eq!(next.out, "account_id,meter,quantity\nsecond,api_calls,1\n");
    assert_eq!(next.err, "");
    world.finish().await;
}

async fn a_summary_is_printed_in_each_format(mut world: World) {
    in_march(&mut world).await;
    let by_day = [
        &["summary", "--by", "day", "--time-zone", "Europe/Vienna"][..],
        &["--start", "2026-03-09", "--end", "2026-03-11"],
    ]
    .concat();
    let csv = [&by_day[..], &["--csv", "--meter", "api_calls"]].concat();
    assert_eq!(
        done(&world, &csv).await,
        "meter,unit,start,end,state,quantity\n\
         api_calls,call,2026-03-09T23:00:00Z,2026-03-10T23:00:00Z,open,120\n"
    );
    let shown = [&by_day[..], &["--json", "--top", "1"]].concat();
    let shown = json(&world, &shown).await;
    assert_eq!(shown["time_zone"], "Europe/Vienna");
    assert_eq!(shown["accounts"], 3);
    let calls = &shown["meters"][0];
    assert_eq!(calls["meter"], "api_calls");
    assert_eq!(calls["accounts"], 3);
    assert_eq!(calls["quantities"]["not_yet_reported"], 120);
    assert_eq!(calls["states"]["open"], 120);
    assert_eq!(calls["points"].as_array().unwrap().len(), 2);
    assert_eq!(calls["points"][1]["total"], 120);
    let top = calls["top_accounts"].as_array().unwrap();
    assert_eq!(top.len(), 1);
    assert_eq!(top[0]["account_id"], "other");
    let table = done(&world, &by_day).await;
    for part in [
        "3 with usage",
        "accounts with the most usage",
        "team:2",
        "states",
        "points",
    ] {
        assert!(table.contains(part), "{table}");
    }
    let whole = [&["summary", "--csv", "--prefix", "team:"][..], &MARCH].concat();
    assert_eq!(
        done(&world, &whole).await,
        "meter,unit,start,end,state,quantity\n\
         api_calls,call,2026-03-01T00:00:00Z,2026-04-01T00:00:00Z,open,13\n"
    );
    world.finish().await;
}

async fn accounts_that_were_only_counted_are_listed(world: World) {
    world.count("counted", 1, hours_ago(1)).await;
    world.count("able", 1, hours_ago(1)).await;
    done(&world, &["accounts", "put", "both", "--free", "--yes"]).await;
    let all = ["accounts", "--all", "--json"];
    let listed = json(&world, &all).await;
    let ids: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|account| account["account_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["able", "both", "counted"]);
    assert_eq!(listed[0]["billing"], "never linked");
    assert_eq!(listed[1]["billing"], "free");
    let linked = json(&world, &["accounts", "--json"]).await;
    assert_eq!(linked.as_array().unwrap().len(), 1);
    world.finish().await;
}

async fn accounts_are_listed_with_their_recent_usage(mut world: World) {
    in_march(&mut world).await;
    let free = ["accounts", "put", "idle", "--free", "--yes"];
    done(&world, &free).await;
    let february = at("2026-02-20T08:30:00Z");
    world.count("team:1", 3, february).await;
    let all = ["accounts", "--all", "--usage"];
    let csv = done(&world, &[&all[..], &["--csv"]].concat()).await;
    let march = "2026-03-01T00:00:00Z,2026-04-01T00:00:00Z";
    let before = "2026-02-01T00:00:00Z,2026-03-01T00:00:00Z";
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[1..],
        [
            "idle,free,,,,,,,,,".to_owned(),
            format!("other,never linked,,api_calls,{march},107,{before},0,107"),
            format!("team:1,never linked,,api_calls,{march},5,{before},3,8"),
            format!("team:2,never linked,,api_calls,{march},8,{before},0,8"),
        ],
        "{csv}"
    );
    let rows = json(&world, &[&all[..], &["--json"]].concat()).await;
    assert_eq!(rows[2]["account_id"], "team:1");
    assert_eq!(rows[2]["last_30_days"].as_array().unwrap().len(), 30);
    assert_eq!(rows[2]["last_30_days"][29], 5);
    assert_eq!(rows[2]["previous_quantity"], 3);
    let linked = json(&world, &["accounts", "--usage", "--json"]).await;
    assert_eq!(linked.as_array().unwrap().len(), 1);
    assert_eq!(linked[0]["account_id"], "idle");
    let table = done(&world, &all).await;
    assert!(table.contains("last 30 days"), "{table}");
    world.finish().await;
}

async fn a_command_without_a_start_is_refused(world: World) {
    for args in [
        &["usage", "api_calls"][..],
        &["summary"],
        &["summary", "--start", "-7d", "--last", "7d"],
        &["accounts", "--all", "--customer", "cus_a"],
    ] {
        let ran = usagectl(world.endpoint(), args).await;
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
    }
    world.finish().await;
}
