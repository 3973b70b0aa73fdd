//! Every statement of the store finds its rows by an index: its plan is checked on a million reports, without statistics
//! and with. PostgreSQL's plans are not checked yet: some of its statements with long lists of values are too expensive.
//!
//! Some tests send the statements, in a process that records them. Functions of the server that send none there fail this
//! test too, so that no query stays unchecked.

mod exceptions;
mod faults;
mod lists;
mod plan;
mod recording;
mod rows;
mod senders;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
};

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use self::{
    plan::{Plan, Sizes},
    senders::Functions,
};
use crate::support::{
    statements::Sent,
    world::{Engine, World, on_sqlite},
};

/// What a condition with an empty list of values becomes: it is never true, and nothing is read.
const EMPTY_LIST: &str = "? = ?";
/// With fewer different statements, tests no longer send what they did.
const FEWEST_STATEMENTS: usize = 120;
/// The functions that may send no statement: some only do if a test's calls meet.
const MOST_SILENT: usize = 3;

on_sqlite!(no_statement_reads_a_large_table_in_full);

async fn no_statement_reads_a_large_table_in_full(mut world: World) {
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
    let mut faults = String::new();
    for (sql, (without, with)) in statements.iter().zip(without.iter().zip(&with)) {
        let shape = lists::shape(sql);
        for (statistics, plan) in [("without", without), ("with", with)] {
            if let Some((fault, what)) = plan.fault(engine, sql, &sizes)
                && !shape.contains(EMPTY_LIST)
                && exceptions::reason(&shape, fault).is_none()
            {
                let steps = plan.steps().join("\n    ");
                writeln!(
                    faults,
                    "{}\n  {what}, {statistics} statistics:\n    {steps}",
                    without_columns(&shape)
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
fn statements_to_explain(sent: &[Sent]) -> Vec<String> {
    let mut by_shape: BTreeMap<String, &str> = BTreeMap::new();
    for Sent { sql, .. } in sent {
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
    let with_long = statements.flat_map(|sql| [Some(sql.to_owned()), lists::with_long_lists(sql)]);
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

async fn plans(database: &DatabaseConnection, engine: Engine, statements: &[String]) -> Vec<Plan> {
    if engine == Engine::Postgres {
        // As of a prepared statement that is used often.
        execute(database, "SET plan_cache_mode = force_generic_plan").await;
    }
    let mut plans = Vec::new();
    for sql in statements {
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
