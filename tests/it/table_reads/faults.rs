//! Which plans have a fault.

use super::plan::{Fault, Plan, Sizes};
use crate::support::world::Engine;

const ALL: &str = "SELECT 1 FROM usage_reports r";
const PAGE: &str = "SELECT 1 FROM usage_reports r WHERE id > ? ORDER BY id LIMIT ?";
const SORT: &str = "USE TEMP B-TREE FOR ORDER BY";
const BY_STATE: &str = "SEARCH r USING INDEX usage_reports_by_state (<expr>=?)";
const RANGE: &str = "SEARCH r USING INDEX usage_reports_by_age (id>?)";

fn fault(engine: Engine, sql: &str, steps: &[&str]) -> Option<Fault> {
    fault_if(engine, sql, true, steps)
}

fn fault_if(engine: Engine, sql: &str, is_estimated: bool, steps: &[&str]) -> Option<Fault> {
    let rows = [
        ("usage_reports", vec![1_000_000]),
        ("usage_reports_by_age", vec![1_000_000, 1]),
        ("usage_reports_by_state", vec![1_000_000, 90_000, 1]),
        ("usage_reports_due", vec![200_000, 4, 4, 1]),
        ("leases", vec![12]),
    ];
    let sizes = Sizes(rows.map(|(name, sizes)| (name.to_owned(), sizes)).into());
    let plan = Plan(steps.iter().map(|step| (*step).to_owned()).collect());
    plan.fault(engine, sql, is_estimated, &sizes)
        .map(|(fault, _)| fault)
}

#[test]
fn a_plan_of_sqlite_that_reads_a_large_table_in_full_has_a_fault() {
    let count = "SELECT COUNT(*) FROM usage_reports r LIMIT ?";
    let newest = "SCAN r USING COVERING INDEX usage_reports_by_age";
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
        (first, &["SCAN r USING INDEX usage_reports_by_age"]),
        (
            latest,
            &["SEARCH r USING COVERING INDEX usage_reports_by_age"],
        ),
        (
            ALL,
            &["SEARCH r USING INDEX usage_reports_by_state (<expr>=? AND id=?)"],
        ),
        (
            ALL,
            &["SEARCH r USING INDEX usage_reports_by_age (id>? AND id<?)"],
        ),
        (
            ALL,
            &["SEARCH r USING INDEX usage_reports_by_age (id=?)", SORT],
        ),
        ("SELECT 1 FROM leases", &["SCAN leases"]),
    ] {
        let found = fault(Engine::Sqlite, sql, steps);
        assert_eq!(found, None, "{sql} {steps:?}");
    }
}

fn step(what: &str, cost: u32) -> String {
    format!("->  {what}  (cost=0.42..{cost}.00 rows=1 width=8)")
}

const BY_INDEX: &str = "Index Scan using usage_reports_by_age on usage_reports r";
const BY_BITMAP: &str = "Bitmap Index Scan on usage_reports_by_age";
const FOUND: &str = "  Index Cond: (id = ANY (ARRAY[$1, $2]))";
const BETWEEN: &str = "  Index Cond: ((id >= $1) AND (id < $2))";
const OPEN_RANGE: &str = "  Index Cond: (id >= $1)";
const FILTER: &str = "  Filter: (id > $1)";

#[test]
fn a_plan_of_postgres_that_reads_a_large_table_in_full_or_costs_has_a_fault() {
    let partial = "Index Only Scan using usage_reports_due on usage_reports r";
    let in_full = Some(Fault::ReadsInFull);
    for (what, cost, detail, expected) in [
        ("Parallel Seq Scan on usage_reports r", 9, FILTER, in_full),
        (BY_INDEX, 9, FILTER, in_full),
        (BY_INDEX, 9, OPEN_RANGE, in_full),
        (BY_BITMAP, 9, OPEN_RANGE, in_full),
        (BY_INDEX, 30_000, FOUND, Some(Fault::Costs)),
        (BY_INDEX, 9, FOUND, None),
        (BY_BITMAP, 9, BETWEEN, None),
        (partial, 9, FILTER, in_full),
        ("Seq Scan on leases", 9, FILTER, None),
    ] {
        let found = fault(Engine::Postgres, ALL, &[&step(what, cost), detail]);
        assert_eq!(found, expected, "{what} {detail}");
    }
}

#[test]
fn a_limit_ends_a_step_of_postgres_only_if_nothing_that_was_read_is_dropped_or_sorted() {
    let limit = step("Limit", 9);
    let sort = step("Sort", 9);
    let costly = step(BY_INDEX, 30_000);
    let bitmap = step(BY_BITMAP, 9);
    let first = "SELECT MAX(id) FROM usage_reports r";
    let (in_full, costs) = (Some(Fault::ReadsInFull), Some(Fault::Costs));
    for (sql, steps, expected, without_estimate) in [
        (PAGE, &[&*limit, &costly, OPEN_RANGE][..], None, None),
        (first, &[&limit, &costly, OPEN_RANGE], None, None),
        (first, &[&costly, OPEN_RANGE], in_full, in_full),
        (PAGE, &[&limit, &costly, FILTER], in_full, in_full),
        (PAGE, &[&limit, &costly, OPEN_RANGE, FILTER], costs, in_full),
        (PAGE, &[&limit, &costly, FOUND, FILTER], costs, None),
        (PAGE, &[&sort, &costly, OPEN_RANGE], in_full, in_full),
        (PAGE, &[&limit, &bitmap, OPEN_RANGE], in_full, in_full),
    ] {
        let found = fault(Engine::Postgres, sql, steps);
        assert_eq!(found, expected, "{sql} {steps:?}");
        let found = fault_if(Engine::Postgres, sql, false, steps);
        assert_eq!(found, without_estimate, "{sql} {steps:?}");
    }
}
