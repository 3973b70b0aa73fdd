//! What `usage-server export sign-off` refuses: what the ledger check or a difference with an invoice leaves open.

use serde_json::Value;
use usage_server::commands::doctor::Severity;

use super::sign_off::{EXPORTED, MARCH, NOW, exported, figure, parsed, use_hostile_accounts};
use crate::support::world::{World, at, on_both_engines};

on_both_engines!(
    a_month_with_a_lost_report_is_refused,
    totals_beyond_64_bits_are_exact,
    each_difference_of_a_time_has_to_be_acknowledged,
);

async fn each_difference_of_a_time_has_to_be_acknowledged(mut world: World) {
    use_hostile_accounts(&mut world).await;
    // The period of a third item, with an hour of the others.
    let start = at("2027-03-20T05:00:00Z").timestamp_millis();
    let end = start + 3_600_000;
    world
        .execute_sql(&format!(
            "INSERT INTO invoice_comparisons (account_id, item, period_start, period_end, subscription, customer, \
             meter, finding, reported, invoiced, changed_at) \
             VALUES ('acct', 'si_4', {start}, {end}, 'sub', 'cus', 'api_calls', 'differs', 9, 0, 1)"
        ))
        .await;
    let csv: Vec<&str> = MARCH.into_iter().chain(["--format=csv"]).collect();
    let why = world.export_at(at(NOW), &csv).await.unwrap_err();
    for part in [
        "1 reports are not final",
        "256 accepted by Stripe and not on a final invoice yet",
        "first: account acct, customer cus, meter api_calls",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    for (column, other, same) in [
        ("acknowledged_at", "2", "NULL"),
        ("finding", "'equal'", "'differs'"),
        ("meter", "'tokens'", "'api_calls'"),
        ("customer", "'cus_2'", "'cus'"),
        ("account_id", "'Acct'", "'acct'"),
    ] {
        let set = |value: &str| {
            format!("UPDATE invoice_comparisons SET {column} = {value} WHERE item = 'si_4'")
        };
        world.execute_sql(&set(other)).await;
        let (printed, _) = world.export_at(at(NOW), &csv).await.unwrap();
        assert_eq!(printed, EXPORTED, "{column}");
        world.execute_sql(&set(same)).await;
        world.export_at(at(NOW), &csv).await.unwrap_err();
    }
    world.finish().await;
}

async fn totals_beyond_64_bits_are_exact(mut world: World) {
    world.freeze(at(NOW)).await;
    let march = at("2027-03-20T05:00:00Z");
    for (account, meter) in [("a", "api_calls"), ("b", "api_calls"), ("c", "tokens")] {
        world
            .insert_folded(account, meter, i64::MAX - 1, march)
            .await;
    }
    let sum = "27670116110564327418";
    let (severity, line) = world.doctor_says(None, "ledger check").await;
    assert_eq!(severity, Severity::Ok, "{line}");
    assert!(line.contains(sum), "{line}");
    for args in [&MARCH[..], &["sign-off", "--month=all"]] {
        let rows = exported(&world, at(NOW), args).await;
        let totals: Vec<(&Value, &Value)> = rows
            .iter()
            .filter(|row| row["row"] != "usage")
            .map(|row| (&row["meter"], &row["counted"]))
            .collect();
        let of_calls = "18446744073709551612";
        assert_eq!(totals[0], (&"api_calls".into(), &of_calls.into()));
        assert_eq!(totals[1], (&"tokens".into(), &(i64::MAX - 1).into()));
        assert_eq!(totals[2].1, sum, "{rows:#?}");
    }
    world.finish().await;
}

async fn a_month_with_a_lost_report_is_refused(mut world: World) {
    use_hostile_accounts(&mut world).await;
    let of_account: Vec<&str> = MARCH.into_iter().chain(["--account=acct"]).collect();
    for args in [&MARCH[..], &of_account] {
        let (_, notes) = world.export_at(at(NOW), args).await.unwrap();
        assert!(
            notes.contains("the ledger check has no difference"),
            "{notes}"
        );
    }
    let lost = "DELETE FROM usage_reports WHERE quantity = 512";
    world.execute_sql(lost).await;
    for args in [&MARCH[..], &of_account] {
        let why = world.export_at(at(NOW), args).await.unwrap_err();
        assert!(why.contains("the ledger check"), "{why}");
        assert!(why.contains("committed"), "{why}");
    }
    // The rows alone do not show it.
    let open: Vec<&str> = MARCH.into_iter().chain(["--open"]).collect();
    let (rows, notes) = world.export_at(at(NOW), &open).await.unwrap();
    assert_eq!(figure(&parsed(&rows), None, "counted"), 1_000_000_001_454);
    assert!(!notes.contains("ledger"), "{notes}");
    // As if it had never been acknowledged.
    let forgotten = "UPDATE commits SET quantity = 0 WHERE quantity = 512";
    world.execute_sql(forgotten).await;
    world.export_at(at(NOW), &MARCH).await.unwrap();
    world.finish().await;
}
