//! Exports of accounts: complete, of the account alone, and in bounded pieces.

use std::collections::BTreeMap;

use serde_json::Value;
use usage_client::{
    Batch, CreateKey, ForceReport, Increment, KeyRole, PutAccount, Reason, UsageClient,
};

use super::{delete, finished};
use crate::{
    operations::access::{client, first_admin},
    support::world::{Engine, World, hours_ago, on_both_engines, within},
};

on_both_engines!(
    an_export_has_every_row_of_the_account_and_none_of_others,
    an_export_is_not_limited_to_a_page,
    an_export_of_an_account_that_is_deleted_meanwhile_fails,
);

/// The rows of an export, by table.
pub(super) async fn export(client: &UsageClient, account: &str) -> BTreeMap<String, Vec<Value>> {
    let mut export = client.export_account(account).await.unwrap();
    let mut tables: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    while let Some(line) = export.next().await.unwrap() {
        let mut line: Value = serde_json::from_str(&line).unwrap();
        let table = line["table"].as_str().unwrap().to_owned();
        tables.entry(table).or_default().push(line["row"].take());
    }
    tables
}

async fn an_export_has_every_row_of_the_account_and_none_of_others(world: World) {
    world.link_to_new_customer("acct", "cus_1").await;
    world.link_to_new_customer("other", "cus_2").await;
    let counted = hours_ago(3);
    for account in ["acct", "other"] {
        let keyed = Increment::new(account)
            .quantity(4)
            .key("k")
            .timestamp(counted);
        world.client().increment(keyed).await.unwrap();
    }
    let both = ForceReport::accounts(["acct", "other"]);
    let run = world.client().force_report(both).await.unwrap();
    run.summary().await.unwrap();
    world.count("acct", 2, hours_ago(1)).await;
    let (_, admin) = first_admin(&world).await;
    let admin = client(world.endpoint(), &admin).await;
    let key = CreateKey::new("dashboards", KeyRole::Reader)
        .account("acct")
        .account("other");
    admin.create_key(key).await.unwrap();
    let tables = export(&admin, "acct").await;
    let rows = |table: &str| tables.get(table).map_or(0, Vec::len);
    for (table, expected) in [
        ("open_reports", 1),
        ("usage_reports", 1),
        ("account_links", 1),
        ("customers", 1),
        ("idempotency_keys", 2),
        ("report_runs", 1),
        ("api_keys", 1),
    ] {
        assert_eq!(rows(table), expected, "{table}: {tables:#?}");
    }
    // The link and the run, begun and done, and the key.
    assert!(rows("audit_entries") >= 5, "{tables:#?}");
    assert_eq!(tables["usage_reports"][0]["quantity"], 4);
    assert_eq!(tables["usage_reports"][0]["customer"], "cus_1");
    assert_eq!(tables["report_runs"][0]["scope"], r#"["acct"]"#);
    let text = serde_json::to_string(&tables).unwrap();
    assert!(!text.contains("cus_2"), "{text}");
    assert!(!text.contains("secret_hash"), "{text}");
    let others = ["report_runs", "api_keys"].map(|table| tables[table][0].to_string());
    assert!(
        others.iter().all(|row| !row.contains("other")),
        "{others:?}"
    );
    world.finish().await;
}

async fn an_export_is_not_limited_to_a_page(world: World) {
    const HOURS: i64 = 450;
    let put = PutAccount::free("acct");
    world.client().put_account(put).await.unwrap();
    let increments = (1..=HOURS).map(|hour| {
        let one = Increment::new("acct").quantity(hour);
        one.key(format!("hour-{hour}")).timestamp(hours_ago(hour))
    });
    let batch = increments.fold(Batch::new(), Batch::push);
    world.client().increment_batch(batch).await.unwrap();
    let tables = export(&world.client(), "acct").await;
    for table in ["open_reports", "idempotency_keys"] {
        let mut quantities: Vec<i64> = tables[table]
            .iter()
            .map(|row| row["quantity"].as_i64().unwrap())
            .collect();
        quantities.sort_unstable();
        assert_eq!(quantities, (1..=HOURS).collect::<Vec<_>>(), "{table}");
    }
    world.finish().await;
}

/// Gives an account very many reports of no unit.
async fn add_reports(world: &World, account: &str) {
    let id = match world.engine {
        Engine::Sqlite => "unhex(printf('%032x', i))",
        Engine::Postgres => "CAST(lpad(to_hex(i), 32, '0') AS uuid)",
    };
    world
        .execute_sql(&format!(
            "INSERT INTO usage_reports (account_id, id, meter, window_start, window_end, period_end, closed_at, quantity, \
             first_at, last_at, state) \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) \
             SELECT '{account}', {id}, 'api_calls', 0, 3600000, 3600000, 3600000, 0, 0, 0, 'not_billable' FROM n"
        ))
        .await;
}

async fn an_export_of_an_account_that_is_deleted_meanwhile_fails(world: World) {
    finished(&world, "acct", 5).await;
    add_reports(&world, "acct").await;
    let exporting = UsageClient::connect(world.endpoint()).await.unwrap();
    let mut export = exporting.export_account("acct").await.unwrap();
    export.next().await.unwrap().expect("a first line");
    // Most lines are not sent before they are read.
    let deleted = delete(&world.client(), "acct").await.unwrap();
    let rows = deleted
        .rows
        .iter()
        .find(|(table, _)| table == "usage_reports");
    assert_eq!(rows.unwrap().1, 25_001);
    let read = within("the end of the export", async {
        let mut lines = 1;
        loop {
            match export.next().await {
                Ok(Some(_)) => lines += 1,
                Ok(None) => panic!("it ended as if {lines} lines were all"),
                Err(error) => return (lines, error),
            }
        }
    });
    let (lines, error) = read.await;
    assert_eq!(error.reason(), Some(&Reason::AccountDeleted), "{error}");
    assert!(lines < 25_001, "{lines}");
    world.finish().await;
}
