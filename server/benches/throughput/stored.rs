//! What a database contains before a measurement.

use sea_orm::{ConnectionTrait as _, DbBackend};
use tokio::runtime::Runtime;
use usage_server::{
    clock::Clock,
    domain::{
        HOUR_MS, Millis,
        window::{Interval, Slots},
    },
    store::Store,
};

use crate::support::engines::Database;

/// How the names of the accounts begin that [`linked_reports`] makes.
pub(crate) const LINKED: &str = "linked-";
/// The account of [`history`] that has usage in each hour of a month.
pub(crate) const OBSERVED: &str = "history-observed";
/// The hours of that month.
pub(crate) const HOURS_OF_MONTH: usize = 720;
/// The closed reports of each other account of [`history`].
const HOURS_OF_OTHERS: usize = 10;

/// Opens a report of one unit for each of many accounts, in the present window. Returns the number of units.
pub(crate) fn open_reports(database: &Database, accounts: u64) -> u64 {
    let (name, window) = ("account-", window_before(0));
    fill(database, |sql| {
        vec![sql.opened(name, accounts, window), sql.committed(accounts)]
    });
    accounts
}

/// Opens a report of one unit for each of many accounts, each billed to a customer of its own, in an earlier window.
/// Returns the number of units.
pub(crate) fn linked_reports(database: &Database, accounts: u64) -> u64 {
    let window = window_before(3);
    let since = window_before(48).start;
    fill(database, |sql| {
        let numbers = sql.numbers(accounts);
        let (account, customer) = (sql.name(LINKED), sql.name("cus_"));
        vec![
            format!(
                "{numbers} INSERT INTO customers (customer, account_id) SELECT {customer}, {account} FROM t"
            ),
            format!(
                "{numbers} INSERT INTO account_links (account_id, version, valid_from, customer, recorded_at) \
                 SELECT {account}, 1, {since}, {customer}, {since} FROM t"
            ),
            sql.opened(LINKED, accounts, window),
            sql.committed(accounts),
        ]
    });
    accounts
}

/// Closed reports of one unit: of one account for each hour of a month, and of many others for ten hours. Returns the
/// number of units.
pub(crate) fn history(database: &Database, accounts: u64) -> u64 {
    let hours = |number| u64::try_from(number).expect("a few hundred");
    let units = accounts * hours(HOURS_OF_OTHERS) + hours(HOURS_OF_MONTH);
    fill(database, |sql| {
        let mut all = Vec::new();
        for hour in 1..=HOURS_OF_OTHERS {
            all.push(sql.closed(&sql.name("history-"), accounts, window_before(hour)));
        }
        for hour in 1..=HOURS_OF_MONTH {
            all.push(sql.closed(&format!("'{OBSERVED}'"), 1, window_before(hour)));
        }
        all.push(sql.committed(units));
        all
    });
    units
}

/// The window some hours ago.
fn window_before(hours: usize) -> Interval {
    let hours = Millis::try_from(hours).expect("a few hundred");
    let at = Clock::system().now() - hours * HOUR_MS;
    Slots::from_mins(60).expect("an hour").around(at)
}

/// Creates the schema, and runs statements in one transaction.
fn fill(database: &Database, statements: impl FnOnce(Sql) -> Vec<String>) {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(&database.url, 1).await.expect("the database");
        store.migrate().await.expect("the schema");
        store.close().await.expect("a clean end");
        let db = sea_orm::Database::connect(&database.url)
            .await
            .expect("the database");
        let sql = Sql {
            is_sqlite: db.get_database_backend() == DbBackend::Sqlite,
        };
        for statement in statements(sql) {
            db.execute_unprepared(&statement).await.expect("rows");
        }
        db.close().await.expect("a clean end");
    });
}

/// The text of statements for an engine.
#[derive(Clone, Copy)]
struct Sql {
    is_sqlite: bool,
}

impl Sql {
    /// The numbers below a limit, as `t(n)`.
    fn numbers(self, limit: u64) -> String {
        let last = limit - 1;
        if self.is_sqlite {
            format!(
                "WITH RECURSIVE t(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t WHERE n < {last})"
            )
        } else {
            format!("WITH t AS (SELECT generate_series(0, {last}) AS n)")
        }
    }

    /// A name with the number `n`.
    fn name(self, begins: &str) -> String {
        if self.is_sqlite {
            format!("printf('{begins}%07d', n)")
        } else {
            format!("'{begins}' || lpad(CAST(n AS text), 7, '0')")
        }
    }

    fn id(self) -> &'static str {
        if self.is_sqlite {
            "randomblob(16)"
        } else {
            "gen_random_uuid()"
        }
    }

    /// Opens a report of one unit for each of some accounts.
    fn opened(self, begins: &str, accounts: u64, Interval { start, end }: Interval) -> String {
        let (numbers, name, id) = (self.numbers(accounts), self.name(begins), self.id());
        format!(
            "{numbers} INSERT INTO open_reports \
             (account_id, window_start, meter, id, window_end, quantity, first_at, last_at) \
             SELECT {name}, {start}, 'api_calls', {id}, {end}, 1, {start}, {start} FROM t"
        )
    }

    /// Stores a closed report of one unit of a free account for each of some.
    fn closed(self, name: &str, accounts: u64, Interval { start, end }: Interval) -> String {
        let (numbers, id) = (self.numbers(accounts), self.id());
        format!(
            "{numbers} INSERT INTO usage_reports (account_id, id, meter, window_start, window_end, period_end, closed_at, \
             quantity, first_at, last_at, state) \
             SELECT {name}, {id}, 'api_calls', {start}, {end}, {end}, {end}, 1, {start}, {start}, 'not_billable' FROM t"
        )
    }

    /// The commit that counted some increments of one unit.
    fn committed(self, increments: u64) -> String {
        let (id, at) = (self.id(), window_before(1).start);
        format!(
            "INSERT INTO commits (id, increments, quantity, committed_at) SELECT {id}, {increments}, {increments}, {at}"
        )
    }
}
