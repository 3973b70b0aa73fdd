//! The rows of a service that has run for months: 50,000 accounts, a million reports, most of them confirmed, 200,000
//! that are to be sent, of which half wait for an hour, and half a million idempotency keys.

use sea_orm::DatabaseConnection;

use super::{execute, query};
use crate::support::world::Engine;

/// Fills the tables. Indexes are built afterwards, which is several times faster, in the order in which they were
/// created: of two that suit a query equally well, SQLite takes the newer one.
pub(super) async fn fill(database: &DatabaseConnection, engine: Engine) {
    for table in tables(database, engine).await {
        let is_filled = TABLES.iter().any(|(name, ..)| *name == table);
        let is_small = SMALL_TABLES.contains(&table.as_str());
        assert!(is_filled || is_small, "{table} gets no rows here");
    }
    let indexes = indexes(database, engine).await;
    if engine == Engine::Sqlite {
        execute(
            database,
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -262144",
        )
        .await;
    } else {
        execute(database, "SET maintenance_work_mem = '256MB'").await;
    }
    for (name, _) in &indexes {
        execute(database, &format!("DROP INDEX {name}")).await;
    }
    for (table, columns, rows, values) in TABLES {
        if engine == Engine::Postgres {
            // The autovacuum also collects statistics, at a time of its choice.
            let sql = format!(
                "ALTER TABLE {table} SET UNLOGGED; ALTER TABLE {table} SET (autovacuum_enabled = false)"
            );
            execute(database, &sql).await;
        }
        let values = values
            .replace("NOW", "1790000000000")
            .replace("HOUR", "3600000");
        let values = in_dialect(&values, engine);
        let numbers = match engine {
            Engine::Sqlite => format!(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows})"
            ),
            Engine::Postgres => format!(
                "WITH n(i) AS (SELECT CAST(s AS bigint) FROM generate_series(0, {rows} - 1) AS s)"
            ),
        };
        let sql = format!("INSERT INTO {table} ({columns}) {numbers} SELECT {values} FROM n");
        execute(database, &sql).await;
    }
    for (_, sql) in &indexes {
        execute(database, sql).await;
    }
}

async fn tables(database: &DatabaseConnection, engine: Engine) -> Vec<String> {
    let sql = match engine {
        Engine::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table'",
        Engine::Postgres => {
            "SELECT CAST(tablename AS text) AS name FROM pg_tables WHERE schemaname = 'public'"
        }
    };
    let rows = query(database, sql).await;
    rows.iter()
        .map(|row| row.try_get("", "name").expect("a name"))
        .collect()
}

/// The name and the statement of each index that can be dropped.
async fn indexes(database: &DatabaseConnection, engine: Engine) -> Vec<(String, String)> {
    let sql = match engine {
        Engine::Sqlite => {
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY rowid"
        }
        Engine::Postgres => {
            "SELECT indexname AS name, indexdef AS sql FROM pg_indexes WHERE schemaname = 'public' \
             AND indexname NOT IN (SELECT conname FROM pg_constraint) \
             ORDER BY CAST(CAST(quote_ident(indexname) AS regclass) AS oid)"
        }
    };
    let rows = query(database, sql).await;
    let text = |row: &sea_orm::QueryResult, column: &str| row.try_get("", column).expect("a text");
    rows.iter()
        .map(|row| (text(row, "name"), text(row, "sql")))
        .collect()
}

/// `ID(n!)` is a UUID that grows with `n`.
fn in_dialect(values: &str, engine: Engine) -> String {
    match engine {
        Engine::Sqlite => values
            .replace("ID(", "unhex(printf('%032x', ")
            .replace("!)", "))"),
        Engine::Postgres => values
            .replace("ID(", "CAST(lpad(to_hex(")
            .replace("!)", "), 32, '0') AS uuid)"),
    }
}

/// Tables with few rows, whatever the number of accounts.
const SMALL_TABLES: [&str; 6] = [
    "boundary_version",
    "deletion_salts",
    "job_cursors",
    "leases",
    "sending",
    "seaql_migrations",
];

/// Of each table: its columns, the number of rows, and the values of row `i`. An account has a report for each of the
/// last 20 hours.
const TABLES: [(&str, &str, u64, &str); 24] = [
    (
        "usage_reports",
        "account_id, id, meter, window_start, window_end, period_end, closed_at, quantity, first_at, last_at, state, \
         straddled, generation, event_timestamp, customer, attempts, next_attempt_at, send_by, first_sent_at, reported_at, run_id, kind",
        1_000_000,
        "'account-' || (i / 20), ID(i % 20 * 50000 + i / 20!), 'api_calls', \
         NOW - (20 - i % 20) * HOUR, NOW - (19 - i % 20) * HOUR, \
         NOW - (19 - i % 20) * HOUR, NOW - (19 - i % 20) * HOUR, \
         7, NOW - (20 - i % 20) * HOUR, NOW - (20 - i % 20) * HOUR + 1000, \
         CASE WHEN i % 20 >= 15 THEN 'closed' \
            WHEN i % 20 < 13 AND i % 2000 = 0 THEN 'sending' WHEN i % 2000 = 1 THEN 'unknown' \
            WHEN i % 20 >= 13 AND i % 2000 = 13 THEN 'missing' WHEN i % 20 >= 13 THEN 'accepted' \
            WHEN i % 20 = 2 AND i % 1000 < 200 THEN 'not_billable' WHEN i % 1000 = 3 THEN 'no_customer' \
            WHEN i % 1000 = 4 THEN 'rejected' ELSE 'confirmed' END, \
         false, 0, CASE WHEN i % 20 < 15 THEN NOW - (20 - i % 20) * HOUR END, \
         'cus_' || (i / 20), 1, CASE WHEN i % 20 >= 17 THEN NOW + HOUR END, \
         CASE WHEN i % 1000 <> 15 THEN NOW + i / 20 % 720 * HOUR END, \
         CASE WHEN i % 20 < 15 THEN NOW - (19 - i % 20) * HOUR END, \
         CASE WHEN i % 20 < 15 THEN NOW - (19 - i % 20) * HOUR END, \
         ID(i % 20 * 1000 + i / 1000!), 'usage'",
    ),
    (
        "open_reports",
        "account_id, window_start, meter, id, window_end, quantity, first_at, last_at",
        50_000,
        "'account-' || i, NOW - HOUR / 2, 'api_calls', ID(1000000 + i!), NOW + HOUR / 2, 7, NOW - 1000, NOW",
    ),
    (
        "folded_reports",
        "account_id, window_start, id, meter, window_end, state, customer, event_timestamp, sent_at, quantity, reports, \
         first_at, last_at, archive",
        // An account has one for each of ten hours of more than a year ago.
        500_000,
        "'account-' || (i / 10), NOW - (10000 - i % 10) * HOUR, ID(i + 1!), 'api_calls', NOW - (9999 - i % 10) * HOUR, \
         CASE WHEN i % 100 = 0 THEN 'not_billable' ELSE 'invoiced' END, 'cus_' || (i / 10), \
         CASE WHEN i % 100 > 0 THEN NOW - (10000 - i % 10) * HOUR END, NOW - (9999 + i % 1) * HOUR, 7, 1 + i % 2, \
         NOW - (10000 - i % 10) * HOUR, NOW - (10000 - i % 10) * HOUR, 1 + i / 100",
    ),
    (
        "report_archives",
        "number, file, sha256, bytes, reports, folded_reports, quantity, first_window, last_window_end, first_id, last_id, \
         created_at",
        5_000,
        "i + 1, 'usage-reports_' || i, 'sha', 70000, 150, 100, 700, NOW - (10000 + i % 1) * HOUR, NOW - (9989 + i % 1) * HOUR, ID(i * 100 + 1!), \
         ID(i * 100 + 100!), NOW - (1000 + i % 1) * HOUR",
    ),
    (
        "idempotency_keys",
        "key, account_id, meter, quantity, created_at, report_id",
        500_000,
        // As random as the keys of most callers: 61 and the number of rows have no common factor.
        "ID(i * 61 % 500000!), 'account-' || (i / 10), 'api_calls', 1, NOW - i % 10 * HOUR - i / 10, ID(i!)",
    ),
    (
        "batch_keys",
        "caller, key, fingerprint, results, created_at",
        100_000,
        "'backend', 'batch-' || i, 'fingerprint', '', NOW - i * 30000",
    ),
    (
        "commits",
        "id, increments, quantity, committed_at",
        100_000,
        // As much as the reports contain.
        "ID(i + 1!), 10, 105 + i % 2 * 7, NOW - i * 500",
    ),
    (
        "correction_keys",
        "account_id, key, report_id, created_at",
        30_000,
        "'account-' || i, 'key-' || i, ID(i!), NOW",
    ),
    (
        "account_links",
        "account_id, version, valid_from, customer, recorded_at, ended",
        60_000,
        "'account-' || (i % 50000), 1 + i / 50000, NOW - 100 * HOUR, 'cus_' || (i % 50000), NOW - 100 * HOUR, false",
    ),
    (
        "boundary_changes",
        "version, previous, account_id, recorded_at",
        50_000,
        "(i + 1) * 1000, i * 1000, 'account-' || i, NOW - i * 1000",
    ),
    (
        "customers",
        "customer, account_id, watch",
        50_000,
        "'cus_' || i, 'account-' || i, CASE WHEN i % 1000 = 0 THEN 'unverified' END",
    ),
    (
        "billing_periods",
        "account_id, item, period_start, period_end, recorded_at, subscription, meter, price, invoice, invoice_state, draft_until, \
         compared_at, compare_again_at, compare_failing_since",
        150_000,
        "'account-' || (i / 3), 'si_' || (i / 3), NOW - (i % 3) * 720 * HOUR - (i / 3 % 720) * HOUR, \
         NOW - (i % 3 - 1) * 720 * HOUR - (i / 3 % 720) * HOUR, NOW - 100 * HOUR, 'sub_' || (i / 3), 'api_calls', \
         'price', 'in_' || i, CASE WHEN i % 3 = 0 THEN 'unknown' ELSE 'final' END, NULL, \
         CASE WHEN i % 3 > 0 THEN NOW - HOUR END, CASE WHEN i % 30 = 1 THEN NOW + i % 700 * HOUR END, \
         CASE WHEN i % 3000 = 1 THEN NOW - i END",
    ),
    (
        "invoice_lines",
        "account_id, invoice, line, invoice_status, invoice_created, item, period_start, price, line_start, line_end, quantity, \
         amount, currency, read_at",
        100_000,
        "'account-' || (i / 2), 'in_' || i, 'il_' || i, 'paid', NOW - (i % 3) * 720 * HOUR, 'si_' || (i / 2), \
         NOW - (1 + i % 2) * 720 * HOUR, 'price', NOW, NOW, 7, 7, 'usd', NOW",
    ),
    (
        "invoice_comparisons",
        "account_id, item, period_start, period_end, subscription, customer, meter, price, finding, reported, invoiced, changed_at",
        100_000,
        "'account-' || (i / 2), 'si_' || (i / 2), NOW - (1 + i % 2) * 720 * HOUR, NOW - i % 2 * 720 * HOUR, 'sub_' || (i / 2), \
         'cus_' || (i / 2), 'api_calls', 'price', CASE WHEN i % 1000 = 0 THEN 'differs' WHEN i % 1000 = 1 THEN 'no_period' ELSE 'equal' END, 7, 7, NOW - i * 1000",
    ),
    (
        "subscriptions",
        "account_id, subscription, customer, status, billing_mode, cancel_at, ended_at, synced_at, sync_requested_at",
        50_000,
        "'account-' || i, 'sub_' || i, 'cus_' || i, 'active', 'flexible', CASE WHEN i % 100 = 0 THEN NOW + i END, \
         CASE WHEN i % 3 = 0 THEN NOW - i END, NOW - i, CASE WHEN i % 100 = 1 THEN NOW + i END",
    ),
    (
        "subscription_changes",
        "account_id, id, kind, request, requested_by, subscription, step, boundary_at, started_at, deadline_at, heartbeat_at, \
         holder, finished_at",
        30_000,
        "'account-' || i, ID(i!), 'cancel', '{}', 'a', 'sub_' || i, CASE WHEN i < 50 THEN 'draining' ELSE 'done' END, \
         NOW, NOW, NOW, NOW, 'replica', CASE WHEN i < 50 THEN NULL ELSE NOW END",
    ),
    (
        "webhook_events",
        "id, kind, customer, livemode, created_at, received_at, handled_at",
        100_000,
        "'evt_' || i, 'invoice.created', 'cus_' || (i % 50000), false, NOW - i * 9000, NOW - i * 9000, \
         CASE WHEN i >= 100 THEN NOW END",
    ),
    (
        "verifications",
        "customer, meter, day, sent_total, finding, changed_at, verified_at",
        150_000,
        "'cus_' || (i / 3), 'api_calls', NOW - (i % 3) * 24 * HOUR, 7, 'equal', NOW, NOW",
    ),
    (
        "report_decisions",
        "account_id, id, report_id, action, reason, requested_by, from_state, generation, decided_at",
        30_000,
        "'account-' || i, ID(i!), ID(i!), 'retry', 'r', 'a', 'rejected', 1, NOW",
    ),
    (
        "report_runs",
        "id, trigger, requested_by, started_at, heartbeat_at, closing_finished_at, closed_reports, closed_quantity",
        30_000,
        "ID(i!), CASE WHEN i % 10 = 0 THEN 'force' ELSE 'schedule' END, 'a', NOW - i * 60000, NOW - i * 60000, \
         CASE WHEN i >= 5 THEN NOW END, 10, 10",
    ),
    (
        "api_keys",
        "id, name, role, scope, secret_hash, created_at, revoked_at, last_used_at",
        100_000,
        "'key-' || i, 'name', 'writer', '{}', 'hash', NOW, CASE WHEN i % 2 = 0 THEN NOW END, NOW - i * 1000",
    ),
    (
        "console_sessions",
        "hash, key_id, created_at, expires_at",
        20_000,
        "'hash-' || i, 'key-' || (i % 50), NOW - i * 1000, NOW - i * 1000 + 8 * HOUR",
    ),
    (
        "audit_entries",
        "id, at, actor, key_id, key_name, address, action_id, request_id, action, account_id, outcome",
        200_000,
        "ID(i!), NOW - i * 1000, 'key', 'key-' || (i % 50), 'name', '127.0.0.1:1', ID(i / 2!), '', 'PutAccount', \
         'account-' || (i % 50000), CASE WHEN i % 2 = 0 THEN 'begun' ELSE 'done' END",
    ),
    (
        "deleted_accounts",
        "digest, version, deleted_at, anonymised_at",
        20_000,
        "'digest-' || i, i, NOW - i * 1000, NOW - i * 1000",
    ),
];
