//! After a deletion the former id stands nowhere in the database, and every total is as before.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};
use sha2::{Digest as _, Sha256};
use usage_client::{
    CancelSubscription, Correct, CreateKey, DeleteAccount, ForceReport, Increment, KeyRole,
    ListAuditEntries, ListReports, PutAccount, Reason, ReportState, UsageClient,
};
use usage_server::domain::hex::hex;

use super::{assert_reason, preview};
use crate::{
    operations::access::{client, first_admin},
    support::world::{Engine, World, at, billing::BASIC, on_both_engines},
};

on_both_engines!(
    the_id_of_a_deleted_account_stands_nowhere,
    keys_of_deleted_accounts_stay_limited,
);

/// An id that is a part of no other text.
const ID: &str = "customer:42@example.org";
const START: &str = "2027-03-10T13:12:34Z";

/// The columns of all tables in which a text stands, such as `usage_reports.note`.
async fn columns_with(
    database: &DatabaseConnection,
    engine: Engine,
    text: &str,
) -> BTreeSet<String> {
    let (columns, place) = match engine {
        Engine::Sqlite => (
            "SELECT m.name AS name, p.name AS part FROM sqlite_master AS m, pragma_table_info(m.name) AS p \
             WHERE m.type = 'table'",
            "instr",
        ),
        Engine::Postgres => (
            "SELECT CAST(c.table_name AS text) AS name, CAST(c.column_name AS text) AS part \
             FROM information_schema.columns AS c JOIN information_schema.tables AS t \
             ON t.table_schema = c.table_schema AND t.table_name = c.table_name \
             WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE'",
            "strpos",
        ),
    };
    let backend = database.get_database_backend();
    let statement = Statement::from_string(backend, columns);
    let mut found = BTreeSet::new();
    for row in database.query_all_raw(statement).await.unwrap() {
        let table: String = row.try_get("", "name").unwrap();
        let column: String = row.try_get("", "part").unwrap();
        let sql = format!(
            "SELECT COUNT(*) AS number FROM \"{table}\" WHERE {place}(CAST(\"{column}\" AS text), $1) > 0"
        );
        let rows = Statement::from_sql_and_values(backend, sql, [text.into()]);
        let rows = database.query_one_raw(rows).await.unwrap().unwrap();
        if rows.try_get::<i64>("", "number").unwrap() > 0 {
            found.insert(format!("{table}.{column}"));
        }
    }
    found
}

/// Figures that a deletion must not change.
async fn figures(database: &DatabaseConnection) -> Vec<(String, i64, i64)> {
    let sql = "SELECT state || ' ' || kind AS part, COUNT(*) AS number, CAST(SUM(quantity) AS bigint) AS quantity \
        FROM all_reports GROUP BY state, kind \
        UNION ALL SELECT 'commits', 0, CAST(SUM(quantity) AS bigint) FROM commits \
        UNION ALL SELECT 'lines', COUNT(*), CAST(SUM(quantity) AS bigint) FROM invoice_lines \
        UNION ALL SELECT 'comparisons', COUNT(*), CAST(SUM(reported) AS bigint) FROM invoice_comparisons \
        UNION ALL SELECT 'periods', COUNT(*), 0 FROM billing_periods \
        UNION ALL SELECT 'links', COUNT(*), CAST(SUM(valid_from) AS bigint) FROM account_links \
        UNION ALL SELECT 'changes', COUNT(*), 0 FROM subscription_changes \
        UNION ALL SELECT 'subscriptions', COUNT(*), 0 FROM subscriptions ORDER BY 1";
    let statement = Statement::from_string(database.get_database_backend(), sql);
    let rows = database.query_all_raw(statement).await.unwrap();
    let figure = |row: sea_orm::QueryResult| {
        let number = |column| row.try_get::<Option<i64>>("", column).unwrap();
        (
            row.try_get("", "part").unwrap(),
            number("number").unwrap_or(0),
            number("quantity").unwrap_or(0),
        )
    };
    rows.into_iter().map(figure).collect()
}

/// An account with everything that an account can have, of which nothing is left to be billed.
async fn invoiced(world: &mut World) {
    let now = at("2027-03-20T08:30:10Z");
    world.with_prices_at(now).await;
    world.subscribe("x", &[BASIC], at(START)).await;
    let calls = world.client();
    let put = PutAccount::stripe(ID, "cus_x");
    calls.put_account(put).await.unwrap();
    let used = now - TimeDelta::hours(3);
    let keyed = Increment::new(ID).quantity(120).key("k").timestamp(used);
    calls.increment(keyed).await.unwrap();
    world.count("other", 7, used).await;
    let gift = Correct::new(ID, -20, format!("a gift to {ID}"))
        .timestamp(used)
        .requested_by(ID)
        .key(format!("gift-{ID}"));
    calls.correct(gift).await.unwrap();
    let both = ForceReport::accounts([ID, "other"]);
    let run = calls.force_report(both).await.unwrap();
    run.summary().await.unwrap();
    let cancel = CancelSubscription::now(ID).requested_by(ID);
    let cancelled = world.while_clock_moves(calls.cancel_subscription(cancel));
    cancelled.await.unwrap();
    world
        .advance_until_found(&format!(
            "boundary_version WHERE NOT EXISTS (SELECT 1 FROM usage_reports WHERE account_id = '{ID}' \
             AND state NOT IN ('invoiced', 'not_billable'))"
        ))
        .await;
}

async fn audit(admin: &UsageClient) -> Vec<(String, String)> {
    let page = admin.list_audit_entries(ListAuditEntries::new()).await;
    let entries = page.unwrap().entries.into_iter();
    let entries = entries.filter(|entry| entry.action == "DeleteAccount");
    entries
        .map(|entry| {
            (
                format!("{:?}", entry.outcome),
                entry.account_id.unwrap_or_default(),
            )
        })
        .collect()
}

/// Checks that the search finds the id: in keys, in names, in texts of people and in JSON.
fn assert_stands_in_all_kinds_of_columns(found: &BTreeSet<String>) {
    for column in [
        "account_links.account_id",
        "api_keys.name",
        "api_keys.scope",
        "audit_entries.account_id",
        "audit_entries.after",
        "audit_entries.request",
        "billing_periods.account_id",
        "correction_keys.key",
        "customers.account_id",
        "idempotency_keys.account_id",
        "invoice_comparisons.account_id",
        "invoice_lines.account_id",
        "report_runs.scope",
        "subscription_changes.account_id",
        "subscription_changes.requested_by",
        "subscriptions.account_id",
        "usage_reports.account_id",
        "usage_reports.entered_by",
        "usage_reports.note",
    ] {
        assert!(found.contains(column), "{column} is not in {found:#?}");
    }
}

/// What admins and callers do under the id of a deleted account is refused, and recorded without it.
async fn act_late(admin: &UsageClient) {
    let late = admin.put_account(PutAccount::free(ID)).await;
    assert_reason(late, &Reason::AccountDeleted);
    let late = admin
        .force_report(ForceReport::accounts(["other", ID]))
        .await;
    assert_reason(late, &Reason::AccountDeleted);
    let late = admin.increment(Increment::new(ID)).await;
    assert_reason(late, &Reason::AccountDeleted);
}

/// Lets the jobs run, until the id stands nowhere: the search for keys deletes those of the account, and remembers the last of
/// them until its next step.
async fn let_jobs_go_on(world: &World, database: &DatabaseConnection) {
    world
        .move_clocks(world.now() + TimeDelta::minutes(61))
        .await;
    world.wait_until_idle().await;
    world
        .wait_until("no trace of the account", async || {
            columns_with(database, world.engine, ID).await.is_empty()
        })
        .await;
}

async fn the_id_of_a_deleted_account_stands_nowhere(mut world: World) {
    invoiced(&mut world).await;
    assert_eq!(preview(&world, ID).await.obstacles, []);
    let (_, root) = first_admin(&world).await;
    let admin = client(world.endpoint(), &root).await;
    let alone = CreateKey::new(format!("dashboard of {ID}"), KeyRole::Reader).account(ID);
    admin.create_key(alone).await.unwrap();
    let two = CreateKey::new("two", KeyRole::Reader)
        .account(ID)
        .account("other");
    admin.create_key(two).await.unwrap();
    let database = world.connect_to_database().await;
    let before = columns_with(&database, world.engine, ID).await;
    assert_stands_in_all_kinds_of_columns(&before);
    let figures_before = figures(&database).await;
    let call = DeleteAccount::new(ID).requested_by(ID);
    let done = admin.delete_account(call).await.unwrap();
    assert_eq!(done.stripe_customers, ["cus_x"]);
    let token = done.token.clone().unwrap();
    act_late(&admin).await;
    let_jobs_go_on(&world, &database).await;
    let unkeyed = Sha256::digest(ID.as_bytes());
    let unkeyed = hex(&unkeyed);
    let digests = columns_with(&database, world.engine, &unkeyed).await;
    assert_eq!(digests, BTreeSet::new());
    assert_eq!(figures(&database).await, figures_before);
    let own = [
        ("Done".to_owned(), token.clone()),
        ("Begun".to_owned(), token.clone()),
    ];
    assert_eq!(audit(&admin).await, own);
    let reports = ListReports::new().account(&token);
    let reports = admin.list_all_reports(reports, 10).await.unwrap().reports;
    let mut quantities: Vec<i64> = reports.iter().map(|report| report.quantity).collect();
    quantities.sort_unstable();
    assert_eq!(quantities, [-20, 120]);
    assert!(
        reports
            .iter()
            .all(|report| report.state == ReportState::Invoiced)
    );
    // Nothing was changed at Stripe, and the customer can be linked again.
    let customers = world.stripe().customers().await.unwrap();
    assert!(customers.iter().any(|customer| customer.id == "cus_x"));
    database.close().await.unwrap();
    world.finish().await;
}

async fn keys_of_deleted_accounts_stay_limited(world: World) {
    super::finished(&world, "acct", 5).await;
    world.count("other", 2, world.now()).await;
    let (_, root) = first_admin(&world).await;
    let admin = client(world.endpoint(), &root).await;
    let alone = CreateKey::new("alone", KeyRole::Reader).account("acct");
    let both = CreateKey::new("both", KeyRole::Reader)
        .account("acct")
        .account("other");
    let alone = admin.create_key(alone).await.unwrap().text;
    let both = admin.create_key(both).await.unwrap().text;
    let done = admin
        .delete_account(DeleteAccount::new("acct"))
        .await
        .unwrap();
    let token = done.token.unwrap();
    let endpoint = world.endpoint();
    // Servers remember keys for seconds; a new connection to another server would not matter.
    let (alone, both) = (
        client(endpoint, &alone).await,
        client(endpoint, &both).await,
    );
    assert_eq!(
        both.get(world.recent("other")).await.unwrap().account_id,
        "other"
    );
    for account in ["other", token.as_str()] {
        let refused = alone.get(world.recent(account)).await;
        assert_reason(refused, &Reason::PermissionDenied);
    }
    assert_reason(
        both.get(world.recent(&token)).await,
        &Reason::PermissionDenied,
    );
    world.finish().await;
}
