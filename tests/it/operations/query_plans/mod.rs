//! Every statement of the store has a good plan on a database with a million reports, with statistics and without.
//!
//! The statements are those that the tests make the store send: [`crate::support::statements`] finds one that is not
//! listed yet. `sqlite.txt` has the plan of each, with statistics and without. PostgreSQL's
//! plans depend on its version, so they are bounded: none reads a large table in full, and none costs more than
//! reading some thousand rows. The plans are those for unknown values, as of a prepared statement that is used often.

mod rows;

use std::{collections::BTreeMap, fmt::Write as _, fs};

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use crate::support::{
    statements::{is_update, list_file, listed},
    world::{Engine, World, on_postgres, on_sqlite},
};

on_sqlite!(sqlite_has_the_listed_plan_of_every_statement);
on_postgres!(postgres_reads_no_large_table_in_full);

/// Tables with few rows, whatever the number of accounts, and what is no table: the values of a statement.
const SMALL_TABLES: [&str; 5] = [
    "leases",
    "job_cursors",
    "boundary_version",
    "json_each",
    "CONSTANT",
];
/// What a statement may cost: about what reading 20,000 rows by an index costs.
const MAX_COST: f64 = 20_000.0;
/// Parts of statements that read a large table in full by intent: the ledger check, and what `doctor` reads, which
/// people start.
const FULL_READS: [&str; 3] = [
    "FROM commits UNION ALL",
    r#"AS "has_ended" FROM "customers""#,
    r#"FROM "report_runs" WHERE "report_runs"."trigger""#,
];
/// Parts of statements that read all reports that wait to be sent: `ForceReport` of all accounts, and the count of old
/// ones. PostgreSQL may read the whole table where it expects that most reports wait.
const WAITING_READS: [&str; 3] = [
    r#"SET "next_attempt_at" = $1, "last_error" ="#,
    "WHERE (state IN ('closed', 'sending', 'unknown')) AND",
    "WHERE state IN ('closed', 'sending', 'unknown') AND",
];
/// Parts of statements without a row: a list of values was empty.
const NO_ROWS: [&str; 2] = ["WHERE ? = ?", "WHERE $1 = $2"];

/// The plans of each statement, one line a step.
type Plans = BTreeMap<String, Vec<String>>;

async fn sqlite_has_the_listed_plan_of_every_statement(mut world: World) {
    world.stop().await;
    let database = world.connect_to_database().await;
    rows::fill(&database, Engine::Sqlite).await;
    let without = sqlite_plans(&database).await;
    execute(&database, "ANALYZE").await;
    let with = sqlite_plans(&database).await;
    database.close().await.expect("a clean end");
    let mut wrong = String::new();
    for (sql, plan) in &without {
        let other = &with[sql];
        if plan != other {
            writeln!(
                wrong,
                "{sql}\nwithout statistics: {plan:#?}\nwith: {other:#?}"
            )
            .expect("text");
        }
        if reads_in_full(sql, plan) || reads_in_full(sql, other) {
            writeln!(wrong, "{sql}\nreads a large table in full: {plan:#?}").expect("text");
        }
    }
    let list = as_list(&without, &with);
    if is_update() {
        fs::write(list_file(Engine::Sqlite), &list).expect("the list");
    }
    assert!(wrong.is_empty(), "{wrong}");
    let listed = fs::read_to_string(list_file(Engine::Sqlite)).expect("the list");
    assert!(
        listed == list,
        "the plans differ from those listed; with STATEMENTS=update this test writes the list, and `git diff` shows which"
    );
}

async fn postgres_reads_no_large_table_in_full(mut world: World) {
    world.stop().await;
    let database = world.connect_to_database().await;
    rows::fill(&database, Engine::Postgres).await;
    execute(&database, "SET plan_cache_mode = force_generic_plan").await;
    let without = postgres_plans(&database).await;
    execute(&database, "ANALYZE").await;
    let with = postgres_plans(&database).await;
    database.close().await.expect("a clean end");
    let mut wrong = String::new();
    for (statistics, plans) in [("without", &without), ("with", &with)] {
        for (sql, plan) in plans {
            let is_allowed = FULL_READS
                .iter()
                .chain(&WAITING_READS)
                .chain(&NO_ROWS)
                .any(|part| sql.contains(part));
            let is_expensive = cost_of(&plan[0]) > MAX_COST;
            if !is_allowed && (is_expensive || reads_in_full(sql, plan)) {
                writeln!(wrong, "{sql}\n{statistics} statistics: {plan:#?}").expect("text");
            }
        }
    }
    if is_update() {
        let list: String = without.keys().map(|sql| format!("{sql}\n")).collect();
        fs::write(list_file(Engine::Postgres), list).expect("the list");
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Whether a statement reads a large table in full that it should not.
fn reads_in_full(sql: &str, plan: &[String]) -> bool {
    let is_allowed = FULL_READS
        .iter()
        .chain(&NO_ROWS)
        .any(|part| sql.contains(part));
    !is_allowed && plan.iter().any(|step| is_full_read(step))
}

/// Whether a step of a plan reads a large table in full, and not by an index.
fn is_full_read(step: &str) -> bool {
    let postgres = step.trim_start_matches(['-', '>', ' ']);
    let postgres = postgres.strip_prefix("Parallel ").unwrap_or(postgres);
    let table = step
        .strip_prefix("SCAN ")
        .filter(|rest| !rest.contains(" USING "))
        .or_else(|| postgres.strip_prefix("Seq Scan on "))
        .and_then(|rest| rest.split_whitespace().next());
    table.is_some_and(|table| is_large(table))
}

fn is_large(table: &str) -> bool {
    !SMALL_TABLES.contains(&table)
}

async fn sqlite_plans(database: &DatabaseConnection) -> Plans {
    let mut plans = Plans::new();
    for sql in listed(Engine::Sqlite) {
        let rows = query(database, &format!("EXPLAIN QUERY PLAN {sql}")).await;
        let step = |row: &sea_orm::QueryResult| row.try_get("", "detail").expect("a step");
        plans.insert(sql, rows.iter().map(step).collect());
    }
    plans
}

async fn postgres_plans(database: &DatabaseConnection) -> Plans {
    let mut plans = Plans::new();
    for sql in listed(Engine::Postgres) {
        execute(database, &format!("PREPARE plan AS {sql}")).await;
        let values = (1..)
            .take_while(|place| sql.contains(&format!("${place}")))
            .count();
        let arguments = vec!["NULL"; values].join(", ");
        let call = if values == 0 {
            "EXPLAIN EXECUTE plan".to_owned()
        } else {
            format!("EXPLAIN EXECUTE plan({arguments})")
        };
        let rows = query(database, &call).await;
        let step = |row: &sea_orm::QueryResult| row.try_get("", "QUERY PLAN").expect("a step");
        plans.insert(sql, rows.iter().map(step).collect());
        execute(database, "DEALLOCATE plan").await;
    }
    plans
}

/// The cost in the first step of a plan: `... (cost=0.42..8.44 rows=1 width=8)`.
fn cost_of(step: &str) -> f64 {
    let (_, costs) = step.split_once("..").expect("costs");
    let (total, _) = costs.split_once(' ').expect("a cost");
    total.parse().expect("a cost")
}

/// Each statement with its plan, and with its plan with statistics where that is another one.
fn as_list(without: &Plans, with: &Plans) -> String {
    let mut text = String::new();
    for (sql, plan) in without {
        writeln!(text, "{sql}").expect("a line");
        for step in plan {
            writeln!(text, "    {step}").expect("a line");
        }
        if with[sql] != *plan {
            writeln!(text, "  with statistics:").expect("a line");
            for step in &with[sql] {
                writeln!(text, "    {step}").expect("a line");
            }
        }
    }
    text
}

async fn query(database: &DatabaseConnection, sql: &str) -> Vec<sea_orm::QueryResult> {
    let statement = Statement::from_string(database.get_database_backend(), sql);
    let rows = database.query_all_raw(statement).await;
    rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn execute(database: &DatabaseConnection, sql: &str) {
    let done = database.execute_unprepared(sql).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}
