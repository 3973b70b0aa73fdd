//! Statements whose plans may do what no other plan may.

use super::plan::Fault;
use crate::support::world::Engine;

/// A part of a statement, what its plan may do, and why.
type Exception = (&'static str, Fault, &'static str);

const EXCEPTIONS: [Exception; 40] = [
    (
        r#"DELETE FROM "console_sessions""#,
        Fault::ReadsInFull,
        "a restore ends all sessions, once",
    ),
    (
        "AS usage_reports_sums GROUP BY meter, state",
        Fault::ReadsInFull,
        "`GetSummary` sums the reports of all accounts in a period: an index of the period would cost each close, and two such calls read at a time",
    ),
    (
        "ROW_NUMBER() OVER (PARTITION BY meter",
        Fault::ReadsInFull,
        "the same call ranks all accounts with usage in the period",
    ),
    (
        "whole AS (SELECT account_id, parts",
        Fault::ReadsInFull,
        "`ListUsage` by quantity sums the reports of all accounts before the first one is known, two calls at a time",
    ),
    (
        ") AS usage_reports_sums UNION ALL",
        Fault::ReadsInFull,
        "`ListUsage` by account reads an index of accounts until a page has enough of them, two calls at a time",
    ),
    (
        "WHERE COALESCE(reported_at, first_sent_at, ?) >= ? GROUP BY account_id, meter",
        Fault::ReadsInFull,
        "adopting another Stripe account shows once what becomes of all reports",
    ),
    (
        r#"SET "first_sent_at" = COALESCE("#,
        Fault::ReadsInFull,
        "adopting another Stripe account marks all reports once that the former one may have",
    ),
    (
        r#""window_start" <= ? ORDER BY "open_reports"."account_id" ASC, "open_reports"."window_start" ASC"#,
        Fault::ReadsInFull,
        "a run closes every open report page by page, and the windows of nearly all have begun",
    ),
    (
        r#"'uncharged')) AND "window_start" < ?) AS "sub_query""#,
        Fault::ReadsInFull,
        "counts the reports that wait and are older than 33 days, of which there are none in normal operation",
    ),
    (
        r#"SET "state" = ? WHERE "usage_reports"."state" = ? AND "usage_reports"."first_sent_at" IS NOT NULL"#,
        Fault::ReadsInFull,
        "adopting another Stripe account changes all reports that are being sent, once",
    ),
    (
        "customer IS NOT NULL AND last_error IS NULL LIMIT 1",
        Fault::ReadsInFull,
        "while sending is paused, every 2 s: which of all reports that wait has no reason yet",
    ),
    (
        "SELECT 'open' AS state, COUNT(*) AS reports",
        Fault::ReadsInFull,
        "the metrics sum all open reports each minute, of at most a million",
    ),
    (
        "FROM commits UNION ALL SELECT kind, state",
        Fault::ReadsInFull,
        "the ledger check sums every report and commit, in one snapshot",
    ),
    (
        r#"DELETE FROM "boundary_changes" WHERE "boundary_changes"."account_id" = ?"#,
        Fault::ReadsInFull,
        "the deletion of an account reads the changes of a day, once",
    ),
    (
        r#"FROM "report_runs" WHERE"#,
        Fault::ReadsInFull,
        "a list by state reads runs until its page is full: there is one a day, besides those that admins force",
    ),
    (
        ") AS step ORDER BY id DESC LIMIT 1",
        Fault::ReadsInFull,
        "finds where the next thousand rows of a search end, by the primary key",
    ),
    (
        r#"FROM "report_decisions" WHERE "report_decisions"."decided_at" < ? AND (NOT EXISTS"#,
        Fault::Costs,
        "looks by the primary key for the report of each old decision: decisions are made by people",
    ),
    (
        r#"FROM "usage_reports" WHERE "usage_reports"."meter" = ? AND "usage_reports"."number" < ? AND (state || '') IN (?)"#,
        Fault::Costs,
        "the last reports of one state: more than 5,000 are read in parts, with the number of the lowest one",
    ),
    (
        r#"FROM "usage_reports" WHERE "usage_reports"."meter" = ? AND (window_start + 0) >= ?"#,
        Fault::Costs,
        "the same within a time",
    ),
    (
        r#"WHERE (state || '') IN (?) ORDER BY "usage_reports"."number" DESC LIMIT ? OFFSET ?"#,
        Fault::Costs,
        "skips 5,000 reports of one state, to find the lowest one of a part",
    ),
    (
        "instr(",
        Fault::Costs,
        "a step of the search for an id in texts reads a thousand rows and keeps few",
    ),
    (
        "strpos(",
        Fault::Costs,
        "a step of the search for an id in texts reads a thousand rows and keeps few",
    ),
    (
        r#"FROM "folded_reports" GROUP BY "folded_reports"."archive""#,
        Fault::ReadsInFull,
        "`archives verify` compares all folded rows with all archives",
    ),
    (
        r#"SELECT COUNT(DISTINCT "account_id") AS "accounts""#,
        Fault::ReadsInFull,
        "`doctor` counts all reports in a state, of which PostgreSQL expects most reports to be",
    ),
    (
        r#"SELECT DISTINCT "unfolded_reports"."account_id" FROM "unfolded_reports" WHERE (state || '')"#,
        Fault::ReadsInFull,
        "`doctor` names accounts with reports in a state, among all those that it counts",
    ),
    (
        r#"FROM "open_reports" WHERE (window_start + 0) <= ? ORDER BY "open_reports"."account_id" ASC"#,
        Fault::ReadsInFull,
        "the first page of a dry run: the windows of nearly all open reports have begun",
    ),
    (
        r#"MAX("usage_reports"."closed_at")"#,
        Fault::ReadsInFull,
        "a restore looks once for the last time in any report",
    ),
    (
        r#"SET "last_error" = ? WHERE "usage_reports"."last_error" = ?"#,
        Fault::ReadsInFull,
        "the end of a restore clears a reason once, in reports in any state",
    ),
    (
        r#"SET "next_attempt_at" = ?, "last_error" = (CASE"#,
        Fault::ReadsInFull,
        "`ForceReport` of all accounts makes every report due that waits, about a thousand at a time",
    ),
    (
        r#"SET "last_error" = ? WHERE state IN ('closed', 'sending', 'unknown', 'uncharged')"#,
        Fault::ReadsInFull,
        "a pause is explained in every report that waits, in about a thousand at a time",
    ),
    (
        r#"AND "usage_reports"."last_error" IS NULL AND "usage_reports"."meter" IN (?)"#,
        Fault::ReadsInFull,
        "`ForceReport` counts the reports that wait for another run, among all that wait",
    ),
    (
        r#"AND ("usage_reports"."looked_up_at" IS NULL OR "usage_reports"."looked_up_at" < ?)"#,
        Fault::ReadsInFull,
        "a restore marks all reports that wait, once",
    ),
    (
        r#"WHERE (kind = 'usage') AND (state || '') IN (?) ORDER BY "usage_reports"."number" DESC LIMIT ?"#,
        Fault::Costs,
        "nearly every report is of this kind, so the newest ones are found at once",
    ),
    (
        "CROSS JOIN LATERAL (SELECT r.* FROM usage_reports r",
        Fault::Costs,
        "reads the unsent reports of all accounts whose draft ends now",
    ),
    (
        r#"AND (state || '') IN (?) ORDER BY "usage_reports"."number" ASC LIMIT ?"#,
        Fault::Costs,
        "a page of a dry run drops only what begins in the future: open windows of a few minutes, and few corrections",
    ),
    (
        "AND next_attempt_at IS NULL AND send_by IS NOT NULL ORDER BY send_by LIMIT",
        Fault::Costs,
        "the filter is the condition of the index, so it drops nothing, and the limit ends it",
    ),
    (
        r#"AND (state IN ('closed', 'sending', 'unknown', 'uncharged')) AND "usage_reports"."state" <> ?"#,
        Fault::Costs,
        "a page of a dry run of a thousand accounts reads their reports that wait, by the index of these",
    ),
    (
        "WITH RECURSIVE heads(place, nth)",
        Fault::Costs,
        "the sender drops only what a former Stripe account may have, until admins have decided on it",
    ),
    (
        "AND (customer, meter) > (?) AND COALESCE(reported_at, first_sent_at, ?) >= ? GROUP BY",
        Fault::Costs,
        "all pages of a verification together read each report once that is not confirmed",
    ),
    (
        r#"SELECT DISTINCT "account_links"."customer" FROM "account_links" WHERE "account_links"."customer" IN (?) AND EXISTS"#,
        Fault::Costs,
        "`doctor` looks by an index for usage of each of 1,000 customers",
    ),
];

/// What else the plan of a statement may do without statistics, and why.
const WITHOUT_STATISTICS: [Exception; 3] = [
    (
        r#"AND (state IN ('closed', 'sending', 'unknown', 'uncharged')) AND "usage_reports"."state" <> ?"#,
        Fault::ReadsInFull,
        "PostgreSQL expects a thousand accounts to have nearly all reports that wait, and reads all that do",
    ),
    (
        r#"AND (("all_reports"."window_start" >= ? AND "all_reports"."window_start" < ?) OR "all_reports"."bill_at" >= ?)"#,
        Fault::Costs,
        "reads the reports of one account, of which PostgreSQL expects 5,000 then",
    ),
    (
        "FROM customers WHERE account_id = ? ORDER BY customer LIMIT ?",
        Fault::ReadsInFull,
        "PostgreSQL expects an account to have one customer in two hundred then, and reads them in their order",
    ),
];

/// Why the plan of a statement may have a fault. Reading all of a kind also costs.
pub(super) fn reason(shape: &str, has_statistics: bool, fault: Fault) -> Option<&'static str> {
    let without = if has_statistics {
        &[][..]
    } else {
        &WITHOUT_STATISTICS
    };
    EXCEPTIONS
        .iter()
        .chain(without)
        .find(|(part, allowed, _)| {
            shape.contains(part) && (*allowed == fault || *allowed == Fault::ReadsInFull)
        })
        .map(|(_, _, reason)| *reason)
}

/// Functions that send statements to `PostgreSQL` alone. The names of others end with their engine.
const OF_POSTGRES: [&str; 7] = [
    "connections_named",
    "has_citus",
    "insecure_settings",
    "lock",
    "lock_rows",
    "lock_and_decide",
    "lock_corrections",
];

/// Functions that send statements to SQLite alone.
const OF_SQLITE: [&str; 1] = ["end_left_leases"];

/// Functions whose statements no test in `recording.rs` sends. Each changes one row, found by its primary key.
const UNSENT: [&str; 2] = ["delay_sync", "give_up_on_invoice"];

/// Functions of commands: the first reads the table of migrations, a backup and an export read
/// everything, leases are few, and a restore pauses sending in one row.
const OF_COMMANDS: [&str; 7] = [
    "pause_until_restored",
    "find_unknown_migration",
    "check_integrity",
    "copy_into",
    "held_leases",
    "list_decisions",
    "runs_after",
];

/// Functions whose statements are for a distributed database.
const OF_CITUS: [&str; 8] = [
    "citus_faults",
    "find_citus",
    "missing",
    "move_locked",
    "next_accounts_on_shards",
    "of",
    "read_shards",
    "read_workers",
];

/// Whether a function need not send a statement.
pub(super) fn may_be_silent(engine: Engine, function: &str) -> bool {
    let is_of_other_engine = match engine {
        Engine::Sqlite => function.ends_with("_postgres") || OF_POSTGRES.contains(&function),
        Engine::Postgres => function.ends_with("_sqlite") || OF_SQLITE.contains(&function),
    };
    let unsent = [&UNSENT[..], &OF_COMMANDS, &OF_CITUS];
    is_of_other_engine || unsent.iter().any(|names| names.contains(&function))
}
