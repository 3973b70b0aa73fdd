//! What a database contains before a measurement.

use sea_orm::{ConnectOptions, ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};
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

/// How the names of the other accounts of [`history`] begin.
const HISTORY: &str = "history-";
/// Rows that one statement writes.
const ROWS_OF_STATEMENT: u64 = 1_000_000;
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
            all.push(sql.closed(&sql.name(HISTORY), accounts, window_before(hour)));
        }
        for hour in 1..=HOURS_OF_MONTH {
            all.push(sql.closed(&format!("'{OBSERVED}'"), 1, window_before(hour)));
        }
        all.push(sql.committed(units));
        all
    });
    units
}

/// The name of an account of [`history`].
pub(crate) fn name_in_history(number: u64) -> String {
    format!("{HISTORY}{number:07}")
}

/// Stores keys that were counted during the last days, in the order of their `UUIDv7`. Returns the bytes that they need.
pub(crate) fn keys(database: &Database, keys: u64) -> u64 {
    let of_table = |database: &Database| {
        with_database(database, async |db, sql| {
            let size = if sql.is_sqlite {
                // Nothing else is written meanwhile.
                "SELECT page_count * page_size AS bytes FROM pragma_page_count, pragma_page_size"
            } else {
                "SELECT pg_total_relation_size('idempotency_keys') AS bytes"
            };
            let statement = Statement::from_string(db.get_database_backend(), size);
            let row = db.query_one_raw(statement).await.expect("a size");
            let bytes: i64 = row.expect("a row").try_get("", "bytes").expect("a size");
            u64::try_from(bytes).expect("a size")
        })
    };
    let since = window_before(20 * 24).start;
    fill(database, |_| Vec::new());
    let before = of_table(database);
    fill(database, |sql| {
        let starts = (0..keys).step_by(usize::try_from(ROWS_OF_STATEMENT).expect("a number"));
        let parts = starts.map(|first| {
            let numbers = sql.numbers_from(first, ROWS_OF_STATEMENT.min(keys - first));
            // A hundred a millisecond.
            let key = sql.ordered_id(&format!("{since} + n / 100"), "n");
            let report = sql.ordered_id(&since.to_string(), "n % 1000");
            let account = sql.name_of("account-", "n % 1000");
            format!(
                "{numbers} INSERT INTO idempotency_keys (key, account_id, meter, quantity, created_at, report_id) \
                 SELECT {key}, {account}, 'api_calls', 1, {since} + n / 100, {report} FROM t"
            )
        });
        parts.collect()
    });
    of_table(database) - before
}

/// Lets the engine do what it would have done in the time in which so much is counted.
pub(crate) fn vacuum(database: &Database) {
    fill(database, |sql| {
        let statement = if sql.is_sqlite {
            "PRAGMA wal_checkpoint(TRUNCATE)"
        } else {
            "VACUUM ANALYZE"
        };
        vec![statement.to_owned()]
    });
}

/// The window some hours ago.
fn window_before(hours: usize) -> Interval {
    let hours = Millis::try_from(hours).expect("a few hundred");
    let at = Clock::system().now() - hours * HOUR_MS;
    Slots::from_mins(60).expect("an hour").around(at)
}

/// Creates the schema, and runs statements.
fn fill(database: &Database, statements: impl FnOnce(Sql) -> Vec<String>) {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(&database.url, 1).await.expect("the database");
        store.migrate().await.expect("the schema");
        store.close().await.expect("a clean end");
    });
    with_database(database, async |db, sql| {
        if sql.is_sqlite {
            // What is stored before a measurement need not survive a power cut.
            let faster = "PRAGMA synchronous = OFF; PRAGMA cache_size = -262144";
            db.execute_unprepared(faster).await.expect("settings");
        }
        for statement in statements(sql) {
            db.execute_unprepared(&statement).await.expect("rows");
        }
    });
}

/// Does something with one connection to a database.
fn with_database<T>(
    database: &Database,
    with: impl AsyncFnOnce(&DatabaseConnection, Sql) -> T,
) -> T {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut options = ConnectOptions::new(&database.url);
        options.max_connections(1).sqlx_logging(false);
        let db = sea_orm::Database::connect(options).await;
        let db = db.expect("the database");
        let sql = Sql {
            is_sqlite: db.get_database_backend() == DbBackend::Sqlite,
        };
        let result = with(&db, sql).await;
        db.close().await.expect("a clean end");
        result
    })
}

/// The text of statements for an engine.
#[derive(Clone, Copy)]
struct Sql {
    is_sqlite: bool,
}

impl Sql {
    /// The numbers below a limit, as `t(n)`.
    fn numbers(self, limit: u64) -> String {
        self.numbers_from(0, limit)
    }

    /// Some numbers from a first one on.
    fn numbers_from(self, first: u64, count: u64) -> String {
        let last = first + count - 1;
        if self.is_sqlite {
            format!(
                "WITH RECURSIVE t(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM t WHERE n < {last})"
            )
        } else {
            format!("WITH t AS (SELECT generate_series(CAST({first} AS bigint), {last}) AS n)")
        }
    }

    /// A name with the number `n`.
    fn name(self, begins: &str) -> String {
        self.name_of(begins, "n")
    }

    fn name_of(self, begins: &str, number: &str) -> String {
        if self.is_sqlite {
            format!("printf('{begins}%07d', {number})")
        } else {
            format!("'{begins}' || lpad(CAST({number} AS text), 7, '0')")
        }
    }

    /// A `UUIDv7` of a time and a number.
    fn ordered_id(self, at: &str, number: &str) -> String {
        if self.is_sqlite {
            format!("unhex(printf('%012x70008000%012x', {at}, {number}))")
        } else {
            format!(
                "CAST(lpad(to_hex({at}), 12, '0') || '70008000' || lpad(to_hex({number}), 12, '0') AS uuid)"
            )
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
        let (numbers, id) = (
            self.numbers(accounts),
            self.ordered_id(&start.to_string(), "n"),
        );
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
