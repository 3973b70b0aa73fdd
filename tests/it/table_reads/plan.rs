//! The plans of statements, and which parts of large tables they read.

use std::collections::BTreeMap;

use sea_orm::DatabaseConnection;

use super::{execute, query};
use crate::support::world::Engine;

/// A table or index with more rows is large.
const LARGE_ROWS: i64 = 20_000;
/// What a statement may cost in `PostgreSQL`'s estimate: about what reading 20,000 rows by an index costs.
const MAX_COST: f64 = 20_000.0;

/// The steps of a statement's plan, for values that the planner does not know.
pub(super) struct Plan(pub(super) Vec<String>);

/// What is wrong with a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It reads a large table or index in full, or a range without an end.
    ReadsInFull,
    /// It reads too much by an index, as `PostgreSQL` estimates.
    Costs,
}

/// The number of rows of each table and index. For an index of SQLite, also how many rows have one value of its first
/// column, of its first two and so on.
pub(super) struct Sizes(pub(super) BTreeMap<String, Vec<i64>>);

impl Sizes {
    /// Reads the sizes from the statistics.
    pub(super) async fn read(database: &DatabaseConnection, engine: Engine) -> Self {
        let sizes = match engine {
            Engine::Sqlite => {
                "SELECT COALESCE(idx, tbl) AS name, stat AS sizes FROM sqlite_stat1 \
                 UNION ALL SELECT tbl, MAX(CAST(stat AS INTEGER)) || '' FROM sqlite_stat1 GROUP BY tbl"
            }
            Engine::Postgres => {
                "SELECT CAST(relname AS text) AS name, CAST(CAST(reltuples AS bigint) AS text) AS sizes \
                 FROM pg_class WHERE relnamespace = CAST('public' AS regnamespace)"
            }
        };
        let text = |row: &sea_orm::QueryResult, column| -> String {
            row.try_get("", column).expect("a text")
        };
        let numbers = |sizes: &str| -> Vec<i64> {
            sizes
                .split(' ')
                .filter_map(|size| size.parse().ok())
                .collect()
        };
        let rows = query(database, sizes).await;
        let rows = rows
            .iter()
            .map(|row| (text(row, "name"), numbers(&text(row, "sizes"))));
        Self(rows.collect())
    }

    pub(super) fn of(&self, table: &str) -> i64 {
        self.found_by(table, 0)
    }

    /// About how many rows of an index of SQLite have one value of each of its first columns.
    fn found_by(&self, index: &str, columns: usize) -> i64 {
        let sizes = self.0.get(index);
        let size = sizes.and_then(|sizes| sizes.get(columns));
        size.copied().unwrap_or_default()
    }

    fn is_large(&self, name: &str) -> bool {
        self.of(name) > LARGE_ROWS
    }

    /// The table of a name in a statement's plan, which may be an alias.
    fn table<'a>(&'a self, name: &'a str, sql: &str) -> &'a str {
        let sql = format!("{sql} ");
        let mut tables = self.0.keys().map(String::as_str);
        let is_meant = |table: &&str| {
            [
                format!(" {table} {name} "),
                format!(" {table} AS {name} "),
                format!(" \"{table}\" AS \"{name}\" "),
            ]
            .iter()
            .any(|text| sql.contains(text))
        };
        tables.find(is_meant).unwrap_or(name)
    }
}

impl Plan {
    /// Explains a statement.
    pub(super) async fn of(database: &DatabaseConnection, engine: Engine, sql: &str) -> Self {
        let (rows, column) = match engine {
            Engine::Sqlite => {
                let rows = query(database, &format!("EXPLAIN QUERY PLAN {sql}")).await;
                (rows, "detail")
            }
            Engine::Postgres => {
                execute(database, &format!("PREPARE plan AS {sql}")).await;
                let values = (1..)
                    .take_while(|place| sql.contains(&format!("${place}")))
                    .map(|_| "NULL");
                let values = values.collect::<Vec<_>>().join(", ");
                let call = if values.is_empty() {
                    "EXPLAIN EXECUTE plan".to_owned()
                } else {
                    format!("EXPLAIN EXECUTE plan({values})")
                };
                let rows = query(database, &call).await;
                execute(database, "DEALLOCATE plan").await;
                (rows, "QUERY PLAN")
            }
        };
        let steps = rows
            .iter()
            .map(|row| row.try_get("", column).expect("a step"));
        Self(steps.collect())
    }

    /// What is wrong with the plan of a statement, if anything is. The costs say nothing if the numbers of rows that it
    /// finds are not estimated.
    pub(super) fn fault(
        &self,
        engine: Engine,
        sql: &str,
        is_estimated: bool,
        sizes: &Sizes,
    ) -> Option<(Fault, String)> {
        if !sql.contains(" WHERE ") && self.has_limit(sql) {
            // The first rows in the order of an index.
            return None;
        }
        let in_full = match engine {
            Engine::Sqlite => self
                .0
                .iter()
                .find_map(|step| self.sqlite_fault(step, sql, sizes)),
            Engine::Postgres => (0..self.0.len())
                .find_map(|place| self.postgres_fault(place, sql, is_estimated, sizes)),
        };
        if let Some(what) = in_full {
            return Some((Fault::ReadsInFull, what));
        }
        if engine == Engine::Sqlite || !is_estimated {
            return None;
        }
        let costly = (0..self.0.len())
            .filter(|place| *place == 0 || self.drops_rows(*place))
            .find_map(|place| cost(&self.0[place]).filter(|cost| *cost > MAX_COST));
        costly.map(|cost| (Fault::Costs, format!("costs {cost}")))
    }

    /// Whether a step of PostgreSQL drops rows that it has read. A limit may not end such a step: it can drop them all.
    fn drops_rows(&self, place: usize) -> bool {
        let drops = |line: &String| line.trim_start().starts_with("Filter:");
        self.details(place).any(drops)
    }

    /// The lines that describe a step of PostgreSQL.
    fn details(&self, place: usize) -> impl Iterator<Item = &String> {
        let lines = self.0[place..].iter().skip(1);
        lines.take_while(|line| !line.contains("(cost="))
    }

    /// Steps are like `SCAN table`, `SCAN table USING INDEX index`, `SEARCH table USING INDEX index (column=?)`.
    fn sqlite_fault(&self, step: &str, sql: &str, sizes: &Sizes) -> Option<String> {
        let (how, rest) = step.split_once(' ')?;
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let table = sizes.table(name, sql);
        let index = rest
            .split_once("INDEX ")
            .map(|(_, index)| index.split(' ').next().unwrap_or(index));
        let has_no_end = rest.contains('(')
            && !rest.contains('=')
            && !(rest.contains('<') && rest.contains('>'));
        match (how, index) {
            ("SCAN", None) if sizes.is_large(table) => Some(format!("reads {table} in full")),
            ("SCAN", Some(index)) if sizes.is_large(index) => {
                Some(format!("reads the index {index} in full"))
            }
            ("SEARCH", _) if rest.contains("AUTOMATIC") && sizes.is_large(table) => {
                Some(format!("builds an index of {table}"))
            }
            ("SEARCH", Some(index))
                if has_no_end && sizes.is_large(index) && !self.has_limit(sql) =>
            {
                Some(format!("reads a range of the index {index} without an end"))
            }
            ("SEARCH", Some(index)) if !self.has_limit(sql) => {
                let columns = rest.matches("=?").count();
                let found = sizes.found_by(index, columns);
                (columns > 0 && found > LARGE_ROWS)
                    .then(|| format!("reads about {found} rows by the index {index}"))
            }
            _ => None,
        }
    }

    /// Whether a limit ends the reading: nothing is sorted or summed first.
    fn has_limit(&self, sql: &str) -> bool {
        let is_sum = !sql.contains(" GROUP BY ")
            && ["COUNT(", "SUM(", "MIN(", "MAX("]
                .iter()
                .any(|function| sql.contains(function));
        sql.contains(" LIMIT ") && !is_sum && !self.sorts()
    }

    fn sorts(&self) -> bool {
        let is_sort = |step: &String| step.contains("TEMP B-TREE") || step.contains("Sort  (cost=");
        self.0.iter().any(is_sort)
    }

    /// Steps are like `Seq Scan on table  (cost=..)` and `Index Scan using index on table  (cost=..)`, with their
    /// conditions in the lines that follow.
    fn postgres_fault(
        &self,
        place: usize,
        sql: &str,
        is_estimated: bool,
        sizes: &Sizes,
    ) -> Option<String> {
        let step = self.0[place].trim_start_matches(['-', '>', ' ']);
        let step = step.strip_prefix("Parallel ").unwrap_or(step);
        let (how, rest) = step.split_once(" on ")?;
        if how == "Seq Scan" {
            let table = rest.split(' ').next()?;
            return sizes
                .is_large(table)
                .then(|| format!("reads {table} in full"));
        }
        let index = match how.split_once(" using ") {
            Some((_, index)) => index,
            None if how == "Bitmap Index Scan" => rest.split(' ').next()?,
            None => return None,
        };
        if !sizes.is_large(index) {
            return None;
        }
        let mut conditions = self.details(place);
        let Some(condition) = conditions.find(|line| line.contains("Index Cond:")) else {
            return Some(format!("reads the index {index} in full"));
        };
        // `<=` and `>=` have no space before the sign.
        let has_end =
            condition.contains(" = ") || (condition.contains(" <") && condition.contains(" >"));
        // What a limited step costs shows how much it may drop.
        let has_limit = self.is_under_limit(place) || self.has_limit(sql);
        let is_ended = has_end
            || (has_limit
                && how != "Bitmap Index Scan"
                && (is_estimated || !self.drops_rows(place)));
        (!is_ended).then(|| format!("reads a range of the index {index} without an end"))
    }

    /// Whether a limit of PostgreSQL is for this step alone, such as for the smallest value of an index.
    fn is_under_limit(&self, place: usize) -> bool {
        let mut before = self.0[..place].iter().rev();
        let before = before.find(|line| line.contains("(cost="));
        before.is_some_and(|step| step.contains("Limit  (cost="))
    }

    pub(super) fn steps(&self) -> &[String] {
        &self.0
    }
}

/// The total cost of a step of PostgreSQL: `... (cost=0.42..8.44 rows=1 width=8)`.
fn cost(step: &str) -> Option<f64> {
    let (_, costs) = step.split_once("(cost=")?.1.split_once("..")?;
    costs.split_once(' ')?.0.parse().ok()
}
