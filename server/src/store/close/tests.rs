//! What changes between the reading of a page and its transaction.

use super::*;
use crate::{
    domain::{HOUR_MS, account::Billing},
    entity::usage_report,
    store::{boundaries::record_boundary_change, links::insert_link},
};

const NOW: Millis = 500_000 * HOUR_MS;
/// Accounts with an open report of five units each, from the middle of an hour.
const ACCOUNTS: [&str; 3] = ["a", "b", "c"];
const OPENED: Millis = NOW - HOUR_MS / 2;

struct Closes {
    store: Store,
    run: Uuid,
    _folder: tempfile::TempDir,
}

impl Closes {
    /// All three are billed to customers of their own.
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        let store = Store::open(&url, 1).await.unwrap();
        store.migrate().await.unwrap();
        let this = Self {
            run: Uuid::now_v7(),
            store,
            _folder: folder,
        };
        let run = format!(
            "INSERT INTO report_runs (id, trigger, requested_by, started_at, heartbeat_at, \
             closed_reports, closed_quantity) VALUES (x'{}', 'force', 'a test', {NOW}, {NOW}, 0, 0)",
            this.run.simple()
        );
        this.execute(&run).await;
        for account in ACCOUNTS {
            this.link(account, 1, NOW - 48 * HOUR_MS, "first").await;
            this.open(account).await;
        }
        this
    }

    async fn execute(&self, sql: &str) {
        self.store.writer.execute_unprepared(sql).await.unwrap();
    }

    async fn open(&self, account: &str) {
        let (start, id) = (NOW - HOUR_MS, Uuid::now_v7().simple());
        let open = format!(
            "INSERT INTO open_reports (account_id, window_start, meter, id, window_end, quantity, first_at, last_at) \
             VALUES ('{account}', {start}, 'api_calls', x'{id}', {NOW}, 5, {OPENED}, {OPENED})"
        );
        self.execute(&open).await;
    }

    async fn link(&self, account: &str, version: i64, from: Millis, customer: &str) {
        let account_id = AccountId::parse(account).unwrap();
        let billing = Billing::Stripe {
            customer: format!("{customer}-{account}"),
            subscription: None,
        };
        let tx = self.store.begin_moving_boundaries().await.unwrap();
        let link = insert_link(&tx, &account_id, &billing, (version, from), NOW);
        link.await.unwrap();
        record_boundary_change(&tx, &account_id, NOW).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Closes a page, with something in between.
    async fn close(&self, between: impl AsyncFnOnce()) -> ClosedPage {
        let page = Page {
            scope: &Scope::All,
            after: None,
            now: NOW,
        };
        let seen = self.store.read_page(page).await.unwrap();
        assert_eq!(seen.decided.len(), ACCOUNTS.len());
        between().await;
        let closed = self.store.close_seen_once(self.run, page, seen).await;
        closed.unwrap()
    }

    /// The customers and quantities of the closed reports, in the order in which they were closed.
    async fn closed(&self) -> Vec<(String, i64)> {
        let rows: Vec<(Option<String>, i64)> = usage_report::Entity::find()
            .select_only()
            .columns([
                usage_report::Column::Customer,
                usage_report::Column::Quantity,
            ])
            .order_by_asc(usage_report::Column::Number)
            .into_tuple()
            .all(&self.store.reader)
            .await
            .unwrap();
        let rows = rows.into_iter();
        rows.map(|(customer, quantity)| (customer.unwrap(), quantity))
            .collect()
    }

    /// How many reports are open, and what the run says that it closed.
    async fn end(self) -> (usize, (i64, i64)) {
        let open = open_report::Entity::find().all(&self.store.reader);
        let open = open.await.unwrap().len();
        let run = report_run::Entity::find_by_id(self.run).one(&self.store.reader);
        let run = run.await.unwrap().unwrap();
        self.store.close().await.unwrap();
        (open, (run.closed_reports, run.closed_quantity))
    }
}

fn all(customers: [&str; 3], quantities: [i64; 3]) -> Vec<(String, i64)> {
    let customers = customers.map(str::to_owned);
    customers.into_iter().zip(quantities).collect()
}

#[tokio::test]
async fn a_page_closes_what_was_read_in_its_order() {
    let closes = Closes::begin().await;
    let page = closes.close(async || {}).await;
    assert_eq!(page.next, None);
    let first = ["first-a", "first-b", "first-c"];
    assert_eq!(closes.closed().await, all(first, [5, 5, 5]));
    assert_eq!(closes.end().await, (0, (3, 15)));
}

#[tokio::test]
async fn what_is_counted_after_a_page_was_read_is_closed_with_it() {
    let closes = Closes::begin().await;
    let more = "UPDATE open_reports SET quantity = 8 WHERE account_id = 'b'";
    closes.close(async || closes.execute(more).await).await;
    let first = ["first-a", "first-b", "first-c"];
    assert_eq!(closes.closed().await, all(first, [5, 8, 5]));
    assert_eq!(closes.end().await, (0, (3, 18)));
}

#[tokio::test]
async fn a_link_that_changes_after_a_page_was_read_decides() {
    let closes = Closes::begin().await;
    let change = async || closes.link("b", 2, OPENED - 1, "second").await;
    closes.close(change).await;
    let customers = ["first-a", "second-b", "first-c"];
    assert_eq!(closes.closed().await, all(customers, [5, 5, 5]));
    assert_eq!(closes.end().await, (0, (3, 15)));
}

#[tokio::test]
async fn a_report_whose_first_increment_is_earlier_after_a_page_was_read_is_decided_again() {
    let closes = Closes::begin().await;
    closes.link("b", 2, OPENED, "second").await;
    let earlier = format!(
        "UPDATE open_reports SET first_at = {OPENED} - 1, quantity = 6 WHERE account_id = 'b'"
    );
    closes.close(async || closes.execute(&earlier).await).await;
    // Closed after those that stayed as they were.
    let customers = ["first-a", "first-c", "first-b"];
    assert_eq!(closes.closed().await, all(customers, [5, 5, 6]));
    assert_eq!(closes.end().await, (0, (3, 16)));
}

#[tokio::test]
async fn a_report_that_another_closed_after_a_page_was_read_is_closed_once() {
    let closes = Closes::begin().await;
    closes
        .close(async || {
            let id = AccountId::parse("b").unwrap();
            let tx = closes.store.begin_moving_boundaries().await.unwrap();
            close_account(&tx, &id, NOW).await.unwrap();
            tx.commit().await.unwrap();
        })
        .await;
    let customers = ["first-b", "first-a", "first-c"];
    assert_eq!(closes.closed().await, all(customers, [5, 5, 5]));
    assert_eq!(closes.end().await, (0, (2, 10)));
}
