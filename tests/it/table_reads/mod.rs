//! Every statement of the store finds its rows by an index: its plan is checked on a million reports, on both engines,
//! without statistics and with.
//!
//! Some tests send the statements, in a process that records them. Functions of the server that send none there fail this
//! test too, so that no query stays unchecked.

mod exceptions;
mod faults;
mod lists;
mod plan;
mod recording;
mod results;
mod rows;
mod senders;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
};

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use self::{
    lists::Checked,
    plan::{Plan, Sizes},
    senders::Functions,
};
use crate::support::{
    statements::Sent,
    world::{Engine, World, on_both_engines},
};

/// What a condition with an empty list of values becomes: it is never true, and nothing is read.
const EMPTY_LIST: &str = "? = ?";
/// With fewer different statements, tests no longer send what they did.
const FEWEST_STATEMENTS: usize = 120;
/// The functions that may send no statement: some only do if a test's calls meet.
const MOST_SILENT: usize = 3;

on_both_engines!(no_statement_reads_a_large_table_in_full);

async fn no_statement_reads_a_large_table_in_full(world: World) {
    let reason = "its statements find rows in other ways, on each worker";
    let Some(mut world) = world.unless_distributed(reason).await else {
        return;
    };
    let engine = world.engine;
    world.stop().await;
    let sent = recording::run(engine);
    let database = world.connect_to_database().await;
    rows::fill(&database, engine).await;
    assert_all_functions_sent(engine, &sent);
    let statements = statements_to_explain(&sent);
    let without = plans(&database, engine, &statements).await;
    execute(&database, "ANALYZE").await;
    let with = plans(&database, engine, &statements).await;
    let sizes = Sizes::read(&database, engine).await;
    database.close().await.expect("a clean end");
    assert_eq!(sizes.of("usage_reports"), 1_000_000);
    let stars: Vec<&str> = statements
        .iter()
        .map(|checked| &*checked.sql)
        .filter(|sql| results::returns_all_columns(sql))
        .collect();
    assert!(
        stars.is_empty(),
        "they do not name their columns: {stars:#?}"
    );
    let mut faults = String::new();
    for (checked, (without, with)) in statements.iter().zip(without.iter().zip(&with)) {
        let shape = lists::shape(&checked.sql);
        for (has_statistics, plan) in [(false, without), (true, with)] {
            // Without statistics, PostgreSQL expects each value of a list to find half a percent of a table.
            let is_estimated = has_statistics || !checked.has_long_lists;
            if let Some((fault, what)) = plan.fault(engine, &checked.sql, is_estimated, &sizes)
                && !shape.contains(EMPTY_LIST)
                && exceptions::reason(&shape, has_statistics, fault).is_none()
            {
                let statistics = if has_statistics { "with" } else { "without" };
                let steps = lists::shape(&plan.steps().join("\n    "));
                let sql = without_columns(&shape);
                writeln!(
                    faults,
                    "{sql}\n  {what}, {statistics} statistics:\n    {steps}"
                )
                .expect("text");
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
    world.finish().await;
}

/// Asserts that nearly every function that can send a statement sent one.
fn assert_all_functions_sent(engine: Engine, sent: &[Sent]) {
    let functions = Functions::read();
    let senders: HashSet<_> = sent
        .iter()
        .map(|sent| {
            let function = functions.at(&sent.file, sent.line);
            let function = function.unwrap_or_else(|| panic!("no function sends {sent:?}"));
            (&*function.file, &*function.name)
        })
        .collect();
    let silent: BTreeSet<String> = functions
        .that_send()
        .filter(|function| !senders.contains(&(&*function.file, &*function.name)))
        .filter(|function| !exceptions::may_be_silent(engine, &function.name))
        .map(|function| format!("{}: {}", function.file, function.name))
        .collect();
    assert!(
        silent.len() <= MOST_SILENT,
        "no test in `recording.rs` makes these functions send a statement: {silent:#?}"
    );
}

/// One statement of each shape, and the same with long lists.
fn statements_to_explain(sent: &[Sent]) -> Vec<Checked> {
    let mut by_shape: BTreeMap<String, &str> = BTreeMap::new();
    // Some are sent several at once.
    let single = sent.iter().flat_map(|sent| sent.sql.split("; "));
    for sql in single {
        let shortest = by_shape.entry(lists::shape(sql)).or_insert(sql);
        if sql.len() < shortest.len() {
            *shortest = sql;
        }
    }
    assert!(
        by_shape.len() >= FEWEST_STATEMENTS,
        "only {} statements were sent",
        by_shape.len()
    );
    let statements = by_shape.into_values();
    let with_long = statements.flat_map(|sql| {
        let short = Checked {
            sql: sql.to_owned(),
            has_long_lists: false,
        };
        [Some(short), lists::with_long_lists(sql)]
    });
    with_long.flatten().collect()
}

/// A statement for people: the list of all columns of a table is long.
fn without_columns(sql: &str) -> String {
    match sql.split_once(" FROM ") {
        Some((columns, rest)) if columns.len() > 200 => {
            let begin: String = columns.chars().take(50).collect();
            format!("{begin} .. FROM {rest}")
        }
        _ => sql.to_owned(),
    }
}

async fn plans(database: &DatabaseConnection, engine: Engine, statements: &[Checked]) -> Vec<Plan> {
    if engine == Engine::Postgres {
        // As of a prepared statement that is used often.
        execute(database, "SET plan_cache_mode = force_generic_plan").await;
    }
    let mut plans = Vec::new();
    for Checked { sql, .. } in statements {
        plans.push(Plan::of(database, engine, sql).await);
    }
    plans
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
