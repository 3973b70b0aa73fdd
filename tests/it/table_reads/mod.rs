//! No statement of the store reads a large table in full: the plan of each is checked on a million reports, without
//! statistics and with.
//!
//! The statements are those that this test process made the store send: [`crate::support::statements`] records them.
//! The test runner sorts tests by name, so in a run of all tests this module is the last one, and nearly every statement
//! is checked. Alone, it first runs some tests that send most of them.

mod exceptions;
mod faults;
mod plan;
mod rows;

use std::fmt::Write as _;

use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use self::plan::{Plan, Sizes};
use crate::{
    counting::batches,
    operations::doctor,
    reporting::{corrections, reconciliation, report_list, restore},
    subscriptions::{cancels, changes},
    support::{
        statements,
        world::{Engine, World, on_both_engines},
    },
};

/// What a condition with an empty list of values becomes: it is never true, and nothing is read.
const EMPTY_LIST: &str = "? = ?";
/// A process that has sent fewer statements has not run many other tests.
const FEW_STATEMENTS: usize = 120;

on_both_engines!(no_statement_reads_a_large_table_in_full);

async fn no_statement_reads_a_large_table_in_full(mut world: World) {
    let engine = world.engine;
    world.stop().await;
    if statements::sent_to(engine).len() < FEW_STATEMENTS {
        send_statements(engine).await;
    }
    let database = world.connect_to_database().await;
    rows::fill(&database, engine).await;
    let statements = statements::sent_to(engine);
    let without = plans(&database, engine, &statements).await;
    execute(&database, "ANALYZE").await;
    let with = plans(&database, engine, &statements).await;
    let sizes = Sizes::read(&database, engine).await;
    database.close().await.expect("a clean end");
    assert_eq!(sizes.of("usage_reports"), 1_000_000);
    let mut faults = String::new();
    for (sql, (without, with)) in statements.iter().zip(without.iter().zip(&with)) {
        for (statistics, plan) in [("without", without), ("with", with)] {
            let shape = statements::shape(sql);
            if let Some((fault, what)) = plan.fault(engine, sql, &sizes)
                && !shape.contains(EMPTY_LIST)
                && exceptions::reason(&shape, fault).is_none()
            {
                let steps = plan.steps().join("\n    ");
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

/// Runs tests that together send most statements.
async fn send_statements(engine: Engine) {
    let world = || World::start(engine);
    changes::a_plan_change_charges_usage_by_the_plan_it_happened_in(world().await).await;
    cancels::a_new_subscription_after_a_cancel_bills_again(world().await).await;
    restore::a_restore_after_1_hour_bills_nothing_twice(world().await).await;
    corrections::a_repeated_correction_key_corrects_once(world().await).await;
    report_list::reports_are_listed_newest_first_and_filtered(world().await).await;
    reconciliation::reconciled_accounts_are_paged(world().await).await;
    batches::item_keys_are_shared_by_batches_and_single_calls(world().await).await;
    doctor::doctor_finds_no_fault_in_a_healthy_setup(world().await).await;
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
