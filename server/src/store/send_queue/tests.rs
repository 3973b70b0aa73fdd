//! Changes of all reports that wait: a part at a time, and none is left out.

use sea_orm::PaginatorTrait as _;

use super::*;
use crate::{domain::next_step::Skip, store::mark_sending::record_skip};

/// A database with reports that wait: `per_account` of each account.
async fn store_with(accounts: u64, per_account: u64) -> (Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    let store = Store::open(&url, 1).await.unwrap();
    store.migrate().await.unwrap();
    let (reports, now) = (accounts * per_account, 1_800_000_000_000_i64);
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {reports} - 1) \
         INSERT INTO usage_reports (account_id, id, meter, quantity, customer, first_at, last_at, closed_at, \
         window_start, window_end, period_end, state, next_attempt_at) \
         SELECT 'acct_' || (i % {accounts}), randomblob(16), 'm', 1, 'cus', {now}, {now}, {now}, {now}, {now} + 1, \
         {now} + 1, 'closed', {now} FROM n"
    );
    store.writer.execute_unprepared(&insert).await.unwrap();
    (store, folder)
}

async fn count(store: &Store, condition: impl sea_orm::sea_query::IntoCondition) -> u64 {
    let found = usage_report::Entity::find().filter(condition);
    found.count(&store.reader).await.unwrap()
}

#[tokio::test]
async fn every_report_is_in_one_range_of_about_a_thousand() {
    // The last range is empty, full, or has a part; an account may have more than a range.
    for (accounts, per_account) in [
        (1, 1),
        (999, 1),
        (1_000, 1),
        (2_500, 1),
        (3, 1_500),
        (40, 60),
    ] {
        let (store, _folder) = store_with(accounts, per_account).await;
        let (mut range, mut seen, mut ranges) = (AccountRange::default(), 0, 0);
        while store.next_due_accounts(&mut range).await.unwrap() {
            let found = count(&store, range.condition()).await;
            assert!(found <= CHANGED_AT_ONCE + per_account, "{found} in a range");
            seen += found;
            ranges += 1;
        }
        let reports = accounts * per_account;
        assert_eq!(seen, reports, "{accounts} accounts with {per_account} each");
        assert!(ranges <= 1 + reports / CHANGED_AT_ONCE, "{ranges} ranges");
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_pause_is_explained_in_all_reports_and_a_run_retries_them_all() {
    let (store, _folder) = store_with(2_500, 1).await;
    store.explain_pause("why").await.unwrap();
    assert_eq!(count(&store, Column::LastError.eq("why")).await, 2_500);
    store.retry_now(&Scope::All).await.unwrap();
    let retried = Column::LastError
        .is_null()
        .and(Column::NextAttemptAt.is_null());
    assert_eq!(count(&store, retried).await, 2_500);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_report_that_becomes_not_billable_after_an_attempt_is_not_shown_as_billed_elsewhere() {
    let (store, _folder) = store_with(1, 1).await;
    let attempted = "UPDATE usage_reports SET event_timestamp = window_start";
    store.writer.execute_unprepared(attempted).await.unwrap();
    let report = only_report(&store).await;
    assert!(report.customer.is_some() && report.event_timestamp.is_some());
    let skip = Skip {
        transition: Transition::MarkNotBillable,
        why: "in a trial",
    };
    let tx = store.begin().await.unwrap();
    record_skip(&tx, &report, &skip).await.unwrap();
    tx.commit().await.unwrap();
    let report = only_report(&store).await;
    assert_eq!(report.state, State::NotBillable);
    assert!(!report.is_billed_elsewhere(), "{report:?}");
    store.close().await.unwrap();
}

async fn only_report(store: &Store) -> Report {
    let found = usage_report::Entity::find().one(&store.reader).await;
    Report::from(found.unwrap().unwrap())
}
