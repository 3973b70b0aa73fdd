//! The rows of a service that has run for months: 50,000 accounts, a million reports, most of them confirmed, and
//! 200,000 that wait to be sent.

use sea_orm::DatabaseConnection;

use super::{execute, query};
use crate::support::world::Engine;

/// Fills the tables. The indexes of reports are built afterwards, which is several times faster.
pub(super) async fn fill(database: &DatabaseConnection, engine: Engine) {
    let indexes = indexes(database, engine).await;
    if engine == Engine::Sqlite {
        execute(database, "PRAGMA synchronous = OFF").await;
    }
    for (name, _) in &indexes {
        execute(database, &format!("DROP INDEX {name}")).await;
    }
    for (table, columns, rows, values) in TABLES {
        let values = values
            .replace("ACCOUNTS", "50000")
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

/// The name and the statement of each index that can be dropped.
async fn indexes(database: &DatabaseConnection, engine: Engine) -> Vec<(String, String)> {
    let sql = match engine {
        Engine::Sqlite => {
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        }
        Engine::Postgres => {
            "SELECT indexname AS name, indexdef AS sql FROM pg_indexes WHERE schemaname = 'public' \
             AND indexname NOT IN (SELECT conname FROM pg_constraint)"
        }
    };
    let rows = query(database, sql).await;
    let text = |row: &sea_orm::QueryResult, column: &str| row.try_get("", column).expect("a text");
    rows.iter()
        .map(|row| (text(row, "name"), text(row, "sql")))
        .collect()
}

/// `ID(n)` is a UUID that grows with `n`.
fn in_dialect(values: &str, engine: Engine) -> String {
    match engine {
        Engine::Sqlite => values.replace("ID(", "unhex(printf('%032x', "),
        Engine::Postgres => values
            .replace("ID(", "CAST(lpad(to_hex(")
            .replace("!)", "), 32, '0') AS uuid)"),
    }
    .replace("!)", "))")
}

/// Of each table: its columns, the number of rows, and the values of row `i`.
const TABLES: [(&str, &str, u64, &str); 14] = [
    (
        "usage_reports",
        "account_id, id, meter, window_start, window_end, period_end, closed_at, quantity, first_at, last_at, state, \
         straddled, generation, event_timestamp, customer, attempts, next_attempt_at, first_sent_at, reported_at, run_id, kind",
        1_000_000,
        "'account-' || (i % ACCOUNTS), ID(i!), 'api_calls', NOW - (20 - i / ACCOUNTS) * HOUR, NOW - (19 - i / ACCOUNTS) * HOUR, \
         CASE WHEN i < 950000 THEN NOW - (19 - i / ACCOUNTS) * HOUR END, \
         CASE WHEN i < 950000 THEN NOW - (19 - i / ACCOUNTS) * HOUR END, \
         7, NOW - (20 - i / ACCOUNTS) * HOUR, NOW - (20 - i / ACCOUNTS) * HOUR + 1000, \
         CASE WHEN i >= 950000 THEN 'open' WHEN i >= 750000 THEN 'closed' WHEN i >= 749900 THEN 'sending' \
            WHEN i >= 749800 THEN 'unknown' WHEN i >= 749700 THEN 'missing' WHEN i >= 650000 THEN 'accepted' \
            WHEN i % 100 = 0 THEN 'not_billable' WHEN i % 100 = 1 THEN 'no_customer' WHEN i % 1000 = 2 THEN 'rejected' \
            ELSE 'confirmed' END, \
         false, 0, CASE WHEN i < 750000 THEN NOW - (20 - i / ACCOUNTS) * HOUR END, \
         CASE WHEN i < 950000 AND i % 100 > 1 THEN 'cus_' || (i % ACCOUNTS) END, 1, NOW, \
         CASE WHEN i < 750000 THEN NOW - (19 - i / ACCOUNTS) * HOUR END, \
         CASE WHEN i < 750000 THEN NOW - (19 - i / ACCOUNTS) * HOUR END, \
         CASE WHEN i < 950000 THEN ID(i / 1000!) END, 'usage'",
    ),
    (
        "idempotency_keys",
        "account_id, key, meter, quantity, created_at",
        1_000_000,
        "'account-' || (i % ACCOUNTS), 'key-' || i, 'api_calls', 1, NOW - i * 3000",
    ),
    (
        "batch_keys",
        "key, fingerprint, results, created_at",
        100_000,
        "'batch-' || i, 'fingerprint', '', NOW - i * 30000",
    ),
    (
        "commits",
        "id, increments, quantity, committed_at",
        200_000,
        "ID(i + 1!), 10, 10, NOW - i * 500",
    ),
    (
        "correction_keys",
        "account_id, key, report_id, created_at",
        10_000,
        "'account-' || i, 'key-' || i, ID(i!), NOW",
    ),
    (
        "account_links",
        "account_id, version, valid_from, customer, recorded_at, ended",
        60_000,
        "'account-' || (i % ACCOUNTS), 1 + i / ACCOUNTS, NOW - 100 * HOUR, 'cus_' || (i % ACCOUNTS), NOW - 100 * HOUR, false",
    ),
    (
        "customers",
        "customer, account_id",
        50_000,
        "'cus_' || i, 'account-' || i",
    ),
    (
        "billing_periods",
        "account_id, item, period_start, period_end, recorded_at, subscription, meter, price, invoice, invoice_state, draft_until",
        300_000,
        "'account-' || (i % ACCOUNTS), 'si_' || (i % ACCOUNTS), NOW - (i / ACCOUNTS) * 720 * HOUR - (i % 720) * HOUR, \
         NOW - (i / ACCOUNTS - 1) * 720 * HOUR - (i % 720) * HOUR, NOW - 100 * HOUR, 'sub_' || (i % ACCOUNTS), 'api_calls', \
         'price', 'in_' || i, CASE WHEN i < ACCOUNTS THEN 'unknown' ELSE 'final' END, NULL",
    ),
    (
        "subscriptions",
        "account_id, subscription, customer, status, billing_mode, cancel_at, synced_at, sync_requested_at",
        50_000,
        "'account-' || i, 'sub_' || i, 'cus_' || i, 'active', 'flexible', CASE WHEN i % 100 = 0 THEN NOW + i END, NOW - i, \
         CASE WHEN i % 100 = 1 THEN NOW + i END",
    ),
    (
        "subscription_changes",
        "account_id, id, kind, request, requested_by, subscription, step, boundary_at, started_at, deadline_at, heartbeat_at, \
         holder, finished_at",
        20_000,
        "'account-' || (i % ACCOUNTS), ID(i!), 'cancel', '{}', 'a', 'sub_' || i, CASE WHEN i < 50 THEN 'draining' ELSE 'done' END, \
         NOW, NOW, NOW, NOW, 'replica', CASE WHEN i < 50 THEN NULL ELSE NOW END",
    ),
    (
        "webhook_events",
        "id, kind, customer, livemode, created_at, received_at, handled_at",
        200_000,
        "'evt_' || i, 'invoice.created', 'cus_' || (i % ACCOUNTS), false, NOW - i * 9000, NOW - i * 9000, \
         CASE WHEN i >= 100 THEN NOW END",
    ),
    (
        "verifications",
        "customer, meter, day, sent_total, finding, changed_at, verified_at",
        300_000,
        "'cus_' || (i % ACCOUNTS), 'api_calls', NOW - (i / ACCOUNTS) * 24 * HOUR, 7, 'equal', NOW, NOW",
    ),
    (
        "report_decisions",
        "account_id, id, report_id, action, reason, requested_by, from_state, generation, decided_at",
        20_000,
        "'account-' || (i % ACCOUNTS), ID(i!), ID(i!), 'retry', 'r', 'a', 'rejected', 1, NOW",
    ),
    (
        "report_runs",
        "id, trigger, requested_by, started_at, heartbeat_at, closing_finished_at, closed_reports, closed_quantity",
        20_000,
        "ID(i!), CASE WHEN i % 10 = 0 THEN 'force' ELSE 'schedule' END, 'a', NOW - i * 60000, NOW - i * 60000, \
         CASE WHEN i < 19995 THEN NOW END, 10, 10",
    ),
];
