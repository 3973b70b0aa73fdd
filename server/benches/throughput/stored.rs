//! What a database contains before a measurement.

use sea_orm::{ConnectionTrait as _, DbBackend};
use tokio::runtime::Runtime;
use usage_server::{clock::Clock, domain::window::Slots, store::Store};

use crate::support::engines::Database;

/// Opens a report of one unit for each of many accounts, in the present window. Returns the number of units.
pub(crate) fn open_reports(database: &Database, accounts: u64) -> u64 {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(&database.url, 1).await.expect("the database");
        store.migrate().await.expect("the schema");
        store.close().await.expect("a clean end");
        let db = sea_orm::Database::connect(&database.url).await.expect("the database");
        let window = Slots::from_mins(60).expect("an hour").around(Clock::system().now());
        let (start, end) = (window.start, window.end);
        let last = accounts - 1;
        let (name, id, numbers) = match db.get_database_backend() {
            DbBackend::Sqlite => (
                "printf('account-%07d', n)",
                "randomblob(16)",
                format!("WITH RECURSIVE t(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t WHERE n < {last})"),
            ),
            _ => (
                "'account-' || lpad(CAST(n AS text), 7, '0')",
                "gen_random_uuid()",
                format!("WITH t AS (SELECT generate_series(0, {last}) AS n)"),
            ),
        };
        let columns = "account_id, window_start, meter, id, window_end, quantity, first_at, last_at";
        let values = format!("{name}, {start}, 'api_calls', {id}, {end}, 1, {start}, {start}");
        let fill = format!("{numbers} INSERT INTO open_reports ({columns}) SELECT {values} FROM t");
        let commit = format!(
            "INSERT INTO commits (id, increments, quantity, committed_at) \
             SELECT {id}, {accounts}, {accounts}, {start}"
        );
        for sql in [fill, commit] {
            db.execute_unprepared(&sql).await.expect("rows");
        }
        db.close().await.expect("a clean end");
    });
    accounts
}
