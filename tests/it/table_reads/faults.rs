//! Which plans have a fault.

use super::plan::{Fault, Plan, Sizes};
use crate::support::world::Engine;

const ALL: &str = "SELECT 1 FROM usage_reports r";
const PAGE: &str = "SELECT 1 FROM usage_reports r WHERE id > ? ORDER BY id LIMIT ?";
const SORT: &str = "USE TEMP B-TREE FOR ORDER BY";
const BY_STATE: &str = "SEARCH r USING INDEX usage_reports_by_state (<expr>=?)";
const RANGE: &str = "SEARCH r USING INDEX usage_reports_newest (id>?)";

fn fault(engine: Engine, sql: &str, steps: &[&str]) -> Option<Fault> {
    let rows = [
        ("usage_reports", vec![1_000_000]),
        ("usage_reports_newest", vec![1_000_000, 1]),
        ("usage_reports_by_state", vec![1_000_000, 90_000, 1]),
        ("usage_reports_due", vec![200_000, 4, 4, 1]),
        ("leases", vec![12]),
    ];
    let sizes = Sizes(rows.map(|(name, sizes)| (name.to_owned(), sizes)).into());
    let plan = Plan(steps.iter().map(|step| (*step).to_owned()).collect());
    plan.fault(engine, sql, &sizes).map(|(fault, _)| fault)
}

#[test]
fn a_plan_of_sqlite_that_reads_a_large_table_in_full_has_a_fault() {
    let count = "SELECT COUNT(*) FROM usage_reports r LIMIT ?";
    let newest = "SCAN r USING COVERING INDEX usage_reports_newest";
    for (sql, steps) in [
        (ALL, &["SCAN r"][..]),
        (ALL, &[newest]),
        (count, &[newest]),
        (ALL, &["SEARCH r USING AUTOMATIC COVERING INDEX (id=?)"]),
        (ALL, &[RANGE]),
        (ALL, &[BY_STATE]),
        (PAGE, &[RANGE, SORT]),
        (PAGE, &[BY_STATE, SORT]),
        (ALL, &["SCAN r USING INDEX usage_reports_due"]),
        (PAGE, &["SCAN r USING INDEX usage_reports_due", SORT]),
    ] {
        let found = fault(Engine::Sqlite, sql, steps);
        assert_eq!(found, Some(Fault::ReadsInFull), "{sql} {steps:?}");
    }
}

#[test]
fn a_plan_of_sqlite_that_finds_its_rows_by_an_index_has_no_fault() {
    let first = "SELECT 1 FROM usage_reports r ORDER BY id LIMIT ?";
    let latest = "SELECT MAX(id) FROM usage_reports r";
    for (sql, steps) in [
        (PAGE, &[RANGE][..]),
        (PAGE, &[BY_STATE]),
        (first, &["SCAN r USING INDEX usage_reports_newest"]),
        (
            latest,
            &["SEARCH r USING COVERING INDEX usage_reports_newest"],
        ),
        (
            ALL,
            &["SEARCH r USING INDEX usage_reports_by_state (<expr>=? AND id=?)"],
        ),
        (
            ALL,
            &["SEARCH r USING INDEX usage_reports_newest (id>? AND id<?)"],
        ),
        (
            ALL,
            &["SEARCH r USING INDEX usage_reports_newest (id=?)", SORT],
        ),
        ("SELECT 1 FROM leases", &["SCAN leases"]),
    ] {
        let found = fault(Engine::Sqlite, sql, steps);
        assert_eq!(found, None, "{sql} {steps:?}");
    }
}

#[test]
fn a_plan_of_postgres_that_reads_a_large_table_in_full_or_costs_has_a_fault() {
    let step = |what: &str, cost: u32| format!("->  {what}  (cost=0.42..{cost}.00 rows=1 width=8)");
    let by_index = "Index Scan using usage_reports_newest on usage_reports r";
    let partial = "Index Only Scan using usage_reports_due on usage_reports r";
    let (bounded, filtered) = ("  Index Cond: (id > $1)", "  Filter: (id > $1)");
    let in_full = Some(Fault::ReadsInFull);
    for (first, second, expected) in [
        (
            step("Parallel Seq Scan on usage_reports r", 9),
            filtered,
            in_full,
        ),
        (step(by_index, 9), filtered, in_full),
        (step(by_index, 30_000), bounded, Some(Fault::Costs)),
        (step(by_index, 9), bounded, None),
        (step(partial, 9), filtered, in_full),
        (step("Seq Scan on leases", 9), filtered, None),
    ] {
        let found = fault(Engine::Postgres, ALL, &[&first, second]);
        assert_eq!(found, expected, "{first} {second}");
    }
    // A limit ends the reading only if nothing that was read is dropped.
    let limit = step("Limit", 9);
    let costly = step(by_index, 30_000);
    for (second, expected) in [(bounded, None), (filtered, Some(Fault::ReadsInFull))] {
        let found = fault(Engine::Postgres, PAGE, &[&limit, &costly, second]);
        assert_eq!(found, expected, "{second}");
    }
    let found = fault(
        Engine::Postgres,
        PAGE,
        &[&limit, &costly, bounded, filtered],
    );
    assert_eq!(found, Some(Fault::Costs));
}
