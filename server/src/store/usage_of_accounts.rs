//! The usage of many accounts: pages of it, and the accounts with the most.
//!
//! The statements are raw, as those of `usage_sums`, and read each table of reports by itself, in the order of an index that
//! has all columns that they need. No index begins with a meter or a time: counting and closing would pay for it, and these
//! questions are few. So they read the reports of all accounts, or of those with a prefix; by account, until a page is full.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, Value};

use super::{
    Store,
    usage_sums::{PART, TABLES},
};
use crate::{
    domain::{
        usage_list::{AccountUsage, UsageOrder, UsagePlace, end_of_prefix},
        window::Interval,
    },
    error::Result,
};

/// Above the quantity of every account, in units of [`PART`].
const ABOVE_ALL: i64 = i64::MAX;

/// Whose usage, of what and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsageFilter {
    /// Only this meter.
    pub(crate) meter: Option<String>,
    /// The period. Its edges must not lie inside a window.
    pub(crate) period: Interval,
    /// Only accounts whose ids begin with this; empty means all.
    pub(crate) prefix: String,
}

/// The accounts of a meter with the most usage, and how many have any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeterAccounts {
    pub(crate) meter: String,
    pub(crate) accounts: i64,
    pub(crate) top: Vec<AccountUsage>,
}

/// The accounts of all meters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AllAccounts {
    /// How many there are, each counted once.
    pub(crate) accounts: i64,
    /// Those of each meter with usage.
    pub(crate) by_meter: Vec<MeterAccounts>,
}

impl Store {
    /// The usage of a meter by account, after a place.
    pub(crate) async fn list_usage(
        &self,
        filter: &UsageFilter,
        order: UsageOrder,
        after: Option<&UsagePlace>,
        limit: u64,
    ) -> Result<Vec<AccountUsage>> {
        let (sql, values) = match order {
            UsageOrder::Account => by_account(filter, after, limit),
            UsageOrder::Quantity => by_quantity(filter, after, limit),
        };
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let rows = self.reader.query_all_raw(statement).await?;
        Ok(rows
            .iter()
            .map(account_usage)
            .collect::<std::result::Result<_, _>>()?)
    }
}

/// How many accounts have usage, and those with the most of each meter.
pub(super) async fn top_accounts(
    db: &impl ConnectionTrait,
    backend: DbBackend,
    filter: &UsageFilter,
    limit: u64,
) -> std::result::Result<AllAccounts, DbErr> {
    let mut parameters = Parameters::default();
    let condition = parameters.condition(filter);
    // One row of each meter says how many accounts there are.
    let places = parameters.add(i64::try_from(limit.max(1)).unwrap_or(i64::MAX));
    let sums = union(|table| {
        format!(
            "SELECT meter, account_id, {PARTS} FROM {table} WHERE {condition} GROUP BY meter, account_id"
        )
    });
    let sql = format!(
        "WITH sums AS (SELECT meter, account_id, {SUM_OF_PARTS} FROM ({sums}) AS reports GROUP BY meter, account_id), \
         whole AS (SELECT meter, account_id, {HIGH_AND_LOW} FROM sums), \
         ranked AS (SELECT meter, account_id, high, low, ROW_NUMBER() OVER (PARTITION BY meter \
         ORDER BY high DESC, low DESC, account_id) AS place, COUNT(*) OVER (PARTITION BY meter) AS accounts FROM whole), \
         of_any AS (SELECT account_id FROM sums GROUP BY account_id), counted AS (SELECT COUNT(*) AS all_accounts FROM of_any) \
         SELECT meter, account_id, high, low, accounts, all_accounts FROM ranked CROSS JOIN counted \
         WHERE place <= {places} ORDER BY meter, place"
    );
    let statement = Statement::from_sql_and_values(backend, sql, parameters.0);
    let mut all = AllAccounts::default();
    let found = &mut all.by_meter;
    for row in db.query_all_raw(statement).await? {
        let meter: String = row.try_get("", "meter")?;
        all.accounts = row.try_get("", "all_accounts")?;
        if found.last().is_none_or(|last| last.meter != meter) {
            found.push(MeterAccounts {
                meter,
                accounts: row.try_get("", "accounts")?,
                top: Vec::new(),
            });
        }
        if let Some(last) = found.last_mut().filter(|_| limit > 0) {
            last.top.push(account_usage(&row)?);
        }
    }
    Ok(all)
}

/// The accounts after one. Each table ends at the same number of accounts, so each has all that can be on the page.
fn by_account(
    filter: &UsageFilter,
    after: Option<&UsagePlace>,
    limit: u64,
) -> (String, Vec<Value>) {
    let mut parameters = Parameters::default();
    let after = after.map_or("", |place| place.account_id.as_str());
    let (compared, bound) = lower_bound(after, &filter.prefix);
    let bound = parameters.add(bound);
    let mut condition = format!("account_id {compared} {bound}");
    if let Some(after_all) = end_of_prefix(&filter.prefix) {
        let end = parameters.add(after_all);
        condition = format!("{condition} AND account_id < {end}");
    }
    let reports = parameters.condition_of_reports(filter);
    let limit = parameters.add(limit);
    let sums = union(|table| {
        format!(
            "SELECT account_id, parts, rest FROM (SELECT account_id, {PARTS} FROM {table} \
             WHERE {condition} AND {reports} GROUP BY account_id ORDER BY account_id LIMIT {limit}) AS {table}_sums"
        )
    });
    let sql = format!(
        "WITH sums AS (SELECT account_id, {SUM_OF_PARTS} FROM ({sums}) AS reports GROUP BY account_id) \
         SELECT account_id, {HIGH_AND_LOW} FROM sums ORDER BY account_id LIMIT {limit}"
    );
    (sql, parameters.0)
}

/// Where the accounts of a page begin: after one, or with a prefix. SQLite begins to read an index at the first of several
/// lower bounds, also if that is the lower one.
fn lower_bound<'a>(after: &'a str, prefix: &'a str) -> (&'static str, &'a str) {
    if after < prefix {
        (">=", prefix)
    } else {
        (">", after)
    }
}

fn by_quantity(
    filter: &UsageFilter,
    after: Option<&UsagePlace>,
    limit: u64,
) -> (String, Vec<Value>) {
    let mut parameters = Parameters::default();
    let condition = parameters.condition(filter);
    let (high, low, account) = match after {
        Some(place) => {
            let part = i128::from(PART);
            let (high, low) = (
                place.quantity.div_euclid(part),
                place.quantity.rem_euclid(part),
            );
            (
                i64::try_from(high).unwrap_or(ABOVE_ALL),
                i64::try_from(low).unwrap_or_default(),
                place.account_id.as_str(),
            )
        }
        None => (ABOVE_ALL, 0, ""),
    };
    let (high, low) = (parameters.add(high), parameters.add(low));
    let (account, limit) = (parameters.add(account), parameters.add(limit));
    let sums = union(|table| {
        format!("SELECT account_id, {PARTS} FROM {table} WHERE {condition} GROUP BY account_id")
    });
    let sql = format!(
        "WITH sums AS (SELECT account_id, {SUM_OF_PARTS} FROM ({sums}) AS reports GROUP BY account_id), \
         whole AS (SELECT account_id, {HIGH_AND_LOW} FROM sums) \
         SELECT account_id, high, low FROM whole WHERE high < {high} OR (high = {high} AND (low < {low} \
         OR (low = {low} AND account_id > {account}))) ORDER BY high DESC, low DESC, account_id LIMIT {limit}"
    );
    (sql, parameters.0)
}

/// The sums of a group of reports, split so that they fit into 64 bits.
pub(super) const PARTS: &str = "CAST(SUM(quantity / 1000000000) AS bigint) AS parts, \
    CAST(SUM(quantity % 1000000000) AS bigint) AS rest";
/// The sums of such sums.
const SUM_OF_PARTS: &str = "CAST(SUM(parts) AS bigint) AS parts, CAST(SUM(rest) AS bigint) AS rest";
/// The same in one way for each quantity, so that it can be ordered: the rest is neither negative nor a whole part.
const HIGH_AND_LOW: &str = "parts + rest / 1000000000 - (CASE WHEN rest % 1000000000 < 0 THEN 1 ELSE 0 END) AS high, \
    (rest % 1000000000 + 1000000000) % 1000000000 AS low";
const _: () = assert!(
    PART == 1_000_000_000,
    "the constants above have this number"
);

/// One statement, and so one state of the database, for the reports of all tables.
fn union(of_table: impl Fn(&str) -> String) -> String {
    TABLES.map(|(table, _)| of_table(table)).join(" UNION ALL ")
}

/// The values of a statement.
#[derive(Default)]
pub(super) struct Parameters(pub(super) Vec<Value>);

impl Parameters {
    /// Adds a value, and returns its place in the text.
    pub(super) fn add(&mut self, value: impl Into<Value>) -> String {
        self.0.push(value.into());
        format!("${}", self.0.len())
    }

    /// Whether a report matches a filter.
    pub(super) fn condition(&mut self, filter: &UsageFilter) -> String {
        let reports = self.condition_of_reports(filter);
        let Some(after_all) = end_of_prefix(&filter.prefix) else {
            return reports;
        };
        let (first, end) = (self.add(filter.prefix.as_str()), self.add(after_all));
        format!("account_id >= {first} AND account_id < {end} AND {reports}")
    }

    /// Whether a report matches a filter, of whatever account it is.
    fn condition_of_reports(&mut self, filter: &UsageFilter) -> String {
        let start = self.add(filter.period.start);
        let end = self.add(filter.period.end);
        let mut condition = format!("window_start >= {start} AND window_start < {end}");
        if let Some(meter) = &filter.meter {
            let meter = self.add(meter.as_str());
            condition = format!("{condition} AND meter = {meter}");
        }
        condition
    }
}

fn account_usage(row: &QueryResult) -> std::result::Result<AccountUsage, DbErr> {
    let (high, low): (i64, i64) = (row.try_get("", "high")?, row.try_get("", "low")?);
    let whole = i128::from(high).saturating_mul(i128::from(PART));
    Ok(AccountUsage {
        account_id: row.try_get("", "account_id")?,
        quantity: whole.saturating_add(i128::from(low)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_with_its_prefix_or_after_an_account() {
        for (after, prefix, expected) in [
            ("", "", (">", "")),
            ("a", "", (">", "a")),
            ("", "team:", (">=", "team:")),
            ("a", "team:", (">=", "team:")),
            ("team:", "team:", (">", "team:")),
            ("team:1", "team:", (">", "team:1")),
        ] {
            assert_eq!(lower_bound(after, prefix), expected, "{after} {prefix}");
        }
    }

    #[test]
    fn a_page_by_account_has_one_lower_bound() {
        let filter = UsageFilter {
            meter: Some("tokens".to_owned()),
            period: Interval { start: 0, end: 1 },
            prefix: "team:".to_owned(),
        };
        let after = UsagePlace {
            quantity: 0,
            account_id: "team:1".to_owned(),
        };
        for after in [None, Some(&after)] {
            let (sql, values) = by_account(&filter, after, 10);
            let bounds = sql.matches("account_id >").count();
            assert_eq!(bounds, TABLES.len(), "{sql}");
            assert_eq!(values.len(), 6, "{sql}");
        }
    }
}
