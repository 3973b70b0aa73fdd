//! `usage-server export sign-off`: a month's usage and what became of it, for finance.

use std::os::unix::fs::PermissionsExt as _;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use usage_client::{ChangePlan, Correct, PutAccount, ResolveAction, ResolveReport};
use usage_server::{commands::export, domain::hex::hex, store::Store};

use super::export::Interrupted;
use crate::support::world::{
    World, at,
    billing::{BASIC, PRO},
    on_both_engines, within,
};

on_both_engines!(
    a_month_is_the_same_to_the_byte_on_both_engines,
    a_month_that_is_not_closed_is_refused,
    the_totals_of_all_months_equal_the_ledger_check,
    billing_periods_that_straddle_a_month_are_signed_off_by_the_time_of_usage,
    usage_that_comes_late_changes_the_month,
    usage_that_comes_during_the_export_is_noticed,
    flags_of_other_kinds_are_refused,
);

pub(crate) const NOW: &str = "2027-04-05T10:00:00Z";
pub(crate) const MARCH: [&str; 3] = ["sign-off", "--month", "2027-03"];

/// Accounts whose ids begin like formulas, with usage in March that is about to be in every state, and some in April. The
/// quantity of each report is another one.
pub(crate) async fn use_hostile_accounts(world: &mut World) {
    world.freeze(at(NOW)).await;
    let march = at("2027-03-20T05:00:00Z");
    for (account, meter, quantity, time) in [
        ("=1+1", "api_calls", 1, march),
        ("=1+1", "api_calls", 2, march + TimeDelta::days(1)),
        ("=1+1", "tokens", 4, march),
        ("@SUM", "api_calls", 8, at("2027-03-31T23:59:59.999Z")),
        ("@SUM", "api_calls", 16, at("2027-04-01T00:00:00Z")),
        ("-2+3", "api_calls", 32, march),
        ("+a/b", "api_calls", 64, march),
        ("Acct", "api_calls", 128, march),
        ("acct", "api_calls", 256, march),
        ("acct", "api_calls", 512, march + TimeDelta::days(1)),
        ("acct", "api_calls", 1_024, march + TimeDelta::days(2)),
        (
            "acct",
            "api_calls",
            999_999_999_999,
            march + TimeDelta::days(3),
        ),
    ] {
        world.count_of(account, meter, quantity, time).await;
    }
    world.report_all().await;
    let client = world.client();
    for (quantity, key) in [(100, "one"), (-30, "two")] {
        let correction = Correct::new("acct", quantity, "=HYPERLINK(\"x\")")
            .timestamp(march)
            .key(key);
        client.correct(correction).await.unwrap();
    }
    set(world, 32, "rejected").await;
    let reports = world.reports("-2+3").await;
    let decision = ResolveReport::new("-2+3", &reports[0].id, ResolveAction::WriteOff, "=1");
    client.resolve_report(decision).await.unwrap();
    world.stop().await;
    for (quantity, state) in [
        (1, "invoiced"),
        (2, "confirmed"),
        (4, "invoiced"),
        (8, "not_billable"),
        (64, "invoiced"),
        (128, "invoiced"),
        (256, "confirmed"),
        (512, "invoiced"),
        (1_024, "not_billable"),
        (999_999_999_999, "invoiced"),
        (100, "invoiced"),
        (-30, "invoiced"),
    ] {
        set(world, quantity, state).await;
    }
    let found = "UPDATE usage_reports SET kind = 'already_sent' WHERE quantity = 64";
    world.execute_sql(found).await;
    // It is not in `commits`, as after a restore.
    let lost = "UPDATE commits SET quantity = quantity - 64 WHERE quantity = 64";
    world.execute_sql(lost).await;
    acknowledge_differences(world, march).await;
}

/// Differences that an admin acknowledged, two of them of items whose periods overlap.
async fn acknowledge_differences(world: &World, march: DateTime<Utc>) {
    let (start, end) = (
        march.timestamp_millis() - 1,
        at("2027-04-20T00:00:00Z").timestamp_millis(),
    );
    for (account, item) in [("acct", "si_1"), ("acct", "si_2"), ("=1+1", "si_3")] {
        world
            .execute_sql(&format!(
                "INSERT INTO invoice_comparisons (account_id, item, period_start, period_end, subscription, customer, \
                 meter, finding, reported, invoiced, changed_at, acknowledged_at, acknowledged_by, acknowledged_reason) \
                 VALUES ('{account}', '{item}', {start}, {end}, 'sub', 'cus', 'api_calls', 'void', 9, 0, 1, 2, 'ann', 'known')"
            ))
            .await;
    }
}

/// Sets the state of the report with a quantity. What Stripe has gets an event in its window.
async fn set(world: &World, quantity: i64, state: &str) {
    let of_stripe = if state == "not_billable" {
        "customer = NULL"
    } else {
        "customer = 'cus', event_timestamp = window_start"
    };
    let sql = format!(
        "UPDATE usage_reports SET state = '{state}', {of_stripe} WHERE quantity = {quantity}"
    );
    world.execute_sql(&sql).await;
    let set = format!("usage_reports WHERE quantity = {quantity} AND state = '{state}'");
    assert_eq!(world.count_rows(&set).await, 1);
}

/// The month of [`use_hostile_accounts`], as every engine exports it.
pub(crate) const EXPORTED: &str = "\
row,account_id,customer,meter,period_start,period_end,reports,counted,already_sent,corrected,not_billable,written_off,reported,confirmed,invoiced,acknowledged,difference,open,to_send,no_customer,needs_decision,final,decisions,decided\r\n\
usage,'+a/b,cus,api_calls,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,1,0,64,0,0,0,64,64,64,0,0,0,0,0,0,true,0,[]\r\n\
usage,'-2+3,cus,api_calls,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,1,32,0,0,0,32,0,0,0,0,0,0,0,0,0,true,1,\"[\"\"write_off 2027-04-05T10:00:00Z\"\"]\"\r\n\
usage,'=1+1,cus,api_calls,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,2,3,0,0,0,0,3,3,1,2,0,0,0,0,0,true,0,[]\r\n\
usage,'=1+1,cus,tokens,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,1,4,0,0,0,0,4,4,4,0,0,0,0,0,0,true,0,[]\r\n\
usage,'@SUM,,api_calls,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,1,8,0,0,8,0,0,0,0,0,0,0,0,0,0,true,0,[]\r\n\
usage,Acct,cus,api_calls,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,1,128,0,0,0,0,128,128,128,0,0,0,0,0,0,true,0,[]\r\n\
usage,acct,,api_calls,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,1,1024,0,0,1024,0,0,0,0,0,0,0,0,0,0,true,0,[]\r\n\
usage,acct,cus,api_calls,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,5,1000000000767,0,70,0,0,1000000000837,1000000000837,1000000000581,256,0,0,0,0,0,true,0,[]\r\n\
meter_total,,,api_calls,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,12,1000000001962,64,70,1032,32,1000000001032,1000000001032,1000000000774,258,0,0,0,0,0,true,1,[]\r\n\
meter_total,,,tokens,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,1,4,0,0,0,0,4,4,4,0,0,0,0,0,0,true,0,[]\r\n\
total,,,,2027-03-01T00:00:00Z,2027-04-01T00:00:00Z,13,1000000001966,64,70,1032,32,1000000001036,1000000001036,1000000000778,258,0,0,0,0,0,true,1,[]\r\n";

async fn a_month_is_the_same_to_the_byte_on_both_engines(mut world: World) {
    use_hostile_accounts(&mut world).await;
    let sha256 = |text: &str| hex(&Sha256::digest(text));
    for page in ["1", "2", "3", "10000"] {
        let args = ["--format=csv", "--accounts-per-page", page];
        let args: Vec<&str> = MARCH.into_iter().chain(args).collect();
        let (printed, notes) = world.export_at(at(NOW), &args).await.unwrap();
        assert_eq!(printed, EXPORTED, "{page} accounts a page");
        let digest = sha256(EXPORTED);
        assert!(notes.contains(&format!("SHA-256 {digest}\n")), "{notes}");
        assert!(notes.contains("11 rows"), "{notes}");
    }
    // Years later it is the same, in a file too, and as JSON.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("march.jsonl");
    let out = format!("--out={}", file.display());
    let args: Vec<&str> = MARCH.into_iter().chain([out.as_str()]).collect();
    let (printed, notes) = world
        .export_at(at("2032-01-01T00:00:00Z"), &args)
        .await
        .unwrap();
    assert_eq!(printed, "");
    let contents = std::fs::read_to_string(&file).unwrap();
    assert!(notes.contains(&sha256(&contents)), "{notes}");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let rows = parsed(&contents);
    assert_eq!(rows.len(), 11);
    assert_eq!(rows[2]["account_id"], "=1+1");
    let names = rows[0].as_object().unwrap().len();
    let header = EXPORTED.lines().next().unwrap();
    assert_eq!(header.split(',').count(), names);
    // The rows of one account are its part of the whole.
    let args: Vec<&str> = MARCH.into_iter().chain(["--account=acct"]).collect();
    let (of_account, _) = world.export_at(at(NOW), &args).await.unwrap();
    let of_account = parsed(&of_account);
    assert_eq!(of_account[..2], rows[6..8]);
    assert_eq!(of_account.len(), 4);
    assert_eq!(of_account[3]["counted"], 1_000_000_001_791_i64);
    world.finish().await;
}

pub(super) fn parsed(lines: &str) -> Vec<Value> {
    let lines = lines.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(super) async fn exported(world: &World, now: DateTime<Utc>, args: &[&str]) -> Vec<Value> {
    parsed(&world.export_at(now, args).await.unwrap().0)
}

/// The figure of the only row of an account, or of the total.
pub(super) fn figure(rows: &[Value], account: Option<&str>, name: &str) -> i64 {
    let is_meant = |row: &&Value| match account {
        Some(account) => row["account_id"] == account,
        None => row["row"] == "total",
    };
    let found: Vec<&Value> = rows.iter().filter(is_meant).collect();
    assert_eq!(found.len(), 1, "{account:?}: {rows:#?}");
    found[0][name]
        .as_i64()
        .unwrap_or_else(|| panic!("{name}: {found:?}"))
}

async fn a_month_that_is_not_closed_is_refused(mut world: World) {
    world.freeze(at(NOW)).await;
    world.count("acct", 5, at(NOW) - TimeDelta::days(10)).await;
    world.count("other", 6, at(NOW) - TimeDelta::days(10)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("march.jsonl");
    let out = format!("--out={}", file.display());
    let refused = async |world: &World, now: &str, parts: &[&str]| {
        let args: Vec<&str> = MARCH.into_iter().chain([out.as_str()]).collect();
        let why = world.export_at(at(now), &args).await.unwrap_err();
        for part in parts {
            assert!(why.contains(part), "{part}: {why}");
        }
        assert!(why.contains("--open exports it as it is"), "{why}");
        assert!(!file.exists());
    };
    let not_over = ["month 2027-03 is not over", "2027-04-01T00:00:00Z"];
    refused(&world, "2027-03-31T23:59:59Z", &not_over).await;
    let first = "first: account acct, customer none, meter api_calls";
    let open = [
        "month 2027-03 is not closed",
        "2 reports",
        "11 still open",
        first,
    ];
    refused(&world, NOW, &open).await;
    world.report_all().await;
    refused(&world, NOW, &["2 reports", "11 without a customer"]).await;
    world.stop().await;
    set(&world, 5, "accepted").await;
    let accepted = "5 accepted by Stripe and not on a final invoice yet";
    refused(&world, NOW, &["6 without a customer", accepted]).await;
    set(&world, 5, "confirmed").await;
    refused(&world, NOW, &["6 without a customer", accepted]).await;
    set(&world, 5, "invoiced").await;
    for state in [
        "too_late",
        "missing",
        "uncharged",
        "unknown",
        "rejected",
        "customer_deleted",
    ] {
        set(&world, 6, state).await;
        let first = "first: account other, customer cus, meter api_calls";
        refused(
            &world,
            NOW,
            &["1 reports", "6 waiting for a decision", first],
        )
        .await;
    }
    for state in ["closed", "sending"] {
        set(&world, 6, state).await;
        refused(&world, NOW, &["6 to be sent to Stripe"]).await;
    }
    assert_exported_as_it_is(&world).await;
    world.finish().await;
}

/// Whoever wants the month as it is gets it, with what is not final in its rows.
async fn assert_exported_as_it_is(world: &World) {
    let args: Vec<&str> = MARCH.into_iter().chain(["--open"]).collect();
    let rows = exported(world, at(NOW), &args).await;
    let is_final: Vec<&Value> = rows.iter().map(|row| &row["final"]).collect();
    assert_eq!(is_final, [&true, &false, &false, &false]);
    assert_eq!(figure(&rows, Some("acct"), "difference"), 0);
    for (name, expected) in [
        ("difference", 6),
        ("to_send", 6),
        ("invoiced", 5),
        ("counted", 11),
    ] {
        assert_eq!(figure(&rows, None, name), expected, "{name}");
    }
    // A month that is not over is not final, whatever its reports are.
    set(world, 6, "written_off").await;
    let early = at("2027-03-31T23:59:59Z");
    let rows = exported(world, early, &args).await;
    assert!(rows.iter().all(|row| row["final"] == false), "{rows:#?}");
    let closed = exported(world, at("2027-04-01T00:00:00Z"), &MARCH).await;
    assert!(closed.iter().all(|row| row["final"] == true), "{closed:#?}");
}

async fn the_totals_of_all_months_equal_the_ledger_check(mut world: World) {
    use_hostile_accounts(&mut world).await;
    let all = ["sign-off", "--month=all", "--open"];
    let rows = exported(&world, at(NOW), &all).await;
    let store = Store::open(&world.database_url, 4).await.unwrap();
    let ledger = store.ledger_totals().await.unwrap();
    store.close().await.unwrap();
    assert!(ledger.is_balanced());
    let of_state = |state: &str| ledger.reports.get(state).copied().unwrap_or_default();
    for (name, expected) in [
        ("counted", ledger.committed),
        ("corrected", ledger.corrections),
        ("no_customer", of_state("no_customer")),
        ("not_billable", of_state("not_billable")),
        ("written_off", of_state("written_off")),
    ] {
        assert_eq!(i128::from(figure(&rows, None, name)), expected, "{name}");
    }
    let mut sum_of_months = 0;
    for month in ["2027-02", "2027-03", "2027-04", "2027-05"] {
        let args = ["sign-off", "--month", month, "--open"];
        let of_month = exported(&world, at(NOW), &args).await;
        sum_of_months += figure(&of_month, None, "counted");
        // The rows of a month are those of all months.
        let usage = of_month.iter().filter(|row| row["row"] == "usage");
        for row in usage {
            assert!(rows.contains(row), "{row} is not in {rows:#?}");
        }
    }
    assert_eq!(i128::from(sum_of_months), ledger.committed);
    // An increment that no report has is noticed.
    let commit =
        |from: i64, to: i64| format!("UPDATE commits SET quantity = {to} WHERE quantity = {from}");
    world.execute_sql(&commit(4, 5)).await;
    let why = world.export_at(at(NOW), &all).await.unwrap_err();
    assert!(why.contains("the ledger check"), "{why}");
    world.execute_sql(&commit(5, 4)).await;
    world.finish().await;
}

async fn billing_periods_that_straddle_a_month_are_signed_off_by_the_time_of_usage(
    mut world: World,
) {
    const START: &str = "2027-03-10T13:12:34Z";
    const END: &str = "2027-04-10T13:12:34Z";
    let begin = at("2027-03-31T22:00:00Z");
    world.start_subscribed(begin, &[BASIC], at(START)).await;
    let client = world.client();
    client.put_account(PutAccount::free("free")).await.unwrap();
    for (moment, account, quantity) in [
        ("2027-03-31T23:30:00Z", "acct", 100),
        ("2027-03-31T23:40:00Z", "free", 3),
        ("2027-04-01T00:30:00Z", "acct", 20),
    ] {
        world.advance_to(at(moment), TimeDelta::hours(1)).await;
        world.count(account, quantity, at(moment)).await;
    }
    let soon = at(END) - TimeDelta::days(1);
    world.advance_to(soon, TimeDelta::hours(12)).await;
    let change = client.change_plan(ChangePlan::new("acct", PRO));
    world.while_clock_moves(change).await.unwrap();
    world.count("acct", 7, world.now()).await;
    world.advance_past_draft(at(END)).await;
    world.report_all().await;
    let finished = "(SELECT COUNT(*) AS unfinished FROM all_reports \
        WHERE state NOT IN ('invoiced', 'not_billable')) AS reports WHERE unfinished = 0";
    world.advance_until_found(finished).await;
    let now = world.now();
    let march = exported(&world, now, &MARCH).await;
    for (name, expected) in [
        ("counted", 103),
        ("invoiced", 100),
        ("not_billable", 3),
        ("difference", 0),
    ] {
        assert_eq!(figure(&march, None, name), expected, "{name}: {march:#?}");
    }
    assert_eq!(march[0]["customer"], "cus_acct");
    let april = ["sign-off", "--month=2027-04", "--open"];
    let april = exported(&world, now, &april).await;
    assert_eq!(figure(&april, None, "invoiced"), 27, "{april:#?}");
    let all = ["sign-off", "--month=all", "--open"];
    let all = exported(&world, now, &all).await;
    let invoiced = world.invoiced_quantities("cus_acct", "api_calls").await;
    assert_eq!(figure(&all, None, "invoiced"), invoiced.iter().sum::<i64>());
    world.finish().await;
}

async fn usage_that_comes_late_changes_the_month(mut world: World) {
    world.freeze(at(NOW)).await;
    let free = PutAccount::free("free");
    world.client().put_account(free).await.unwrap();
    let march = at(NOW) - TimeDelta::days(10);
    world.count("free", 5, march).await;
    world.report_all().await;
    let before = world.export_at(at(NOW), &MARCH).await.unwrap();
    assert_eq!(world.export_at(at(NOW), &MARCH).await.unwrap(), before);
    // Usage of April changes nothing.
    world.count("free", 7, at(NOW)).await;
    assert_eq!(world.export_at(at(NOW), &MARCH).await.unwrap(), before);
    world.count("free", 9, march).await;
    let why = world.export_at(at(NOW), &MARCH).await.unwrap_err();
    assert!(why.contains("9 still open"), "{why}");
    world.report_all().await;
    let after = exported(&world, at(NOW), &MARCH).await;
    assert_eq!(figure(&after, None, "counted"), 14);
    assert_eq!(figure(&after, None, "reports"), 2);
    world.finish().await;
}

async fn usage_that_comes_during_the_export_is_noticed(mut world: World) {
    world.freeze(at(NOW)).await;
    let client = world.client();
    let march = at(NOW) - TimeDelta::days(10);
    // Their rows are more than is kept until it is written.
    for number in 0..60 {
        let name = format!("free-{number}");
        client.put_account(PutAccount::free(&name)).await.unwrap();
        world.count(&name, 5, march).await;
    }
    world.report_all().await;
    let args: Vec<&str> = MARCH.into_iter().chain(["--accounts-per-page=1"]).collect();
    let command = world.export_command(&args).unwrap();
    let late = usage_client::Increment::new("free-9").timestamp(march);
    let mut out = Interrupted {
        printed: Vec::new(),
        meanwhile: Some(async move { client.increment(late).await.unwrap() }),
    };
    let now = at(NOW).timestamp_millis();
    let mut notes = Vec::new();
    let exporting = export::run(&command, now, &mut out, &mut notes);
    let failed = within("an export", exporting).await.unwrap_err();
    assert!(failed.to_string().contains("meanwhile"), "{failed}");
    world.finish().await;
}

async fn flags_of_other_kinds_are_refused(world: World) {
    for (args, part) in [
        (&["sign-off"][..], "needs --month"),
        (&["sign-off", "--month=2027-3"], "month such as 2026-10"),
        (
            &["sign-off", "--month=2027-03", "--from=2027-03-01"],
            "--from",
        ),
        (&["reports", "--month=2027-03"], "--month"),
        (&["audit", "--open"], "--open"),
        (
            &["sign-off", "--month=all", "--accounts-per-page=0"],
            "accounts-per-page",
        ),
    ] {
        let why = world.export_at(at(NOW), args).await.unwrap_err();
        assert!(why.contains(part), "{part}: {why}");
    }
    // Nothing was ever counted.
    let rows = exported(&world, at(NOW), &MARCH).await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0]["final"], true);
    world.finish().await;
}
