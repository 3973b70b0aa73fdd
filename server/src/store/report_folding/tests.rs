use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, sea_query::Expr};

use super::*;
use crate::{
    domain::{DAY_MS, HOUR_MS, report_fold::may_fold},
    entity::usage_report::Column,
};

const NOW: Millis = 1_000 * DAY_MS;
const AGE: Millis = 400 * DAY_MS;

/// A store with as many reports of 500 days ago that are not billable, of ten accounts.
async fn store_with(folder: &tempfile::TempDir, reports: usize) -> Store {
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    let store = Store::open(&url, 1).await.unwrap();
    store.migrate().await.unwrap();
    let start = NOW - 500 * DAY_MS;
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {reports}) \
         INSERT INTO usage_reports (account_id, id, meter, window_start, window_end, period_end, closed_at, quantity, \
         first_at, last_at, state) \
         SELECT 'acct-' || (i % 10), unhex(printf('%032x', i + 1)), 'calls', {start} + i / 30 * {HOUR_MS}, \
         {start} + (i / 30 + 1) * {HOUR_MS}, {start}, {start}, i, {start}, {start}, 'not_billable' FROM n"
    );
    store.writer.plain().execute_unprepared(&sql).await.unwrap();
    store
}

fn file(name: &str) -> ArchiveFile {
    ArchiveFile {
        name: name.to_owned(),
        sha256: "0".repeat(64),
        bytes: 1,
    }
}

async fn read_and_fold(store: &Store, reports: &[FinishedReport]) -> Fold {
    fold(reports, &store.fold_context(reports).await.unwrap())
}

async fn count(store: &Store, table: &str) -> i64 {
    let sql = format!("SELECT COUNT(*) AS number FROM {table}");
    let statement = Statement::from_string(DbBackend::Sqlite, sql);
    let row = store.reader.query_one_raw(statement).await.unwrap();
    row.unwrap().try_get("", "number").unwrap()
}

#[tokio::test]
async fn pages_have_every_report_once_and_whole_windows() {
    let folder = tempfile::tempdir().unwrap();
    // 30 reports in each hour, three of each account: 2,000 end inside an account's window.
    let number = 5_000;
    let store = store_with(&folder, number).await;
    let (mut after, mut sizes, mut windows) = (None, Vec::new(), Vec::new());
    loop {
        let page = store.finished_reports(after.as_ref(), NOW).await.unwrap();
        assert!(page.reports.iter().all(|one| may_fold(one, AGE, NOW)));
        sizes.push(page.reports.len());
        let of_page = page.reports.iter().map(|one| &one.report);
        let mut of_page: Vec<_> = of_page
            .map(|report| (report.window_start, report.account_id.clone()))
            .collect();
        of_page.dedup();
        windows.extend(of_page);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(sizes.iter().sum::<usize>(), number);
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= REPORTS_PER_ARCHIVE));
    let before = windows.len();
    windows.sort();
    windows.dedup();
    assert_eq!(windows.len(), before, "a window is on two pages");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_window_larger_than_a_page_is_divided() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(&folder, 2_500).await;
    let one_window = usage_report::Entity::update_many()
        .col_expr(Column::WindowStart, Expr::value(0))
        .col_expr(Column::AccountId, Expr::value("acct"));
    one_window.exec(&store.writer).await.unwrap();
    let page = store.finished_reports(None, NOW).await.unwrap();
    assert_eq!(page.reports.len(), REPORTS_PER_ARCHIVE);
    let rest = store.finished_reports(page.next.as_ref(), NOW).await;
    let rest = rest.unwrap();
    assert_eq!((rest.reports.len(), rest.next), (500, None));
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_is_not_as_it_was_read_is_not_folded() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(&folder, 60).await;
    let page = store.finished_reports(None, NOW).await.unwrap().reports;
    let fold = read_and_fold(&store, &page).await;
    let archive = file("a");
    let new = NewFold {
        reports: &page,
        fold: &fold,
        file: &archive,
    };
    let any = || usage_report::Entity::update_many().filter(Column::Id.eq(page[7].report.id));
    for (change, undo) in [
        (
            any().col_expr(Column::State, Expr::value("closed")),
            any().col_expr(Column::State, Expr::value("not_billable")),
        ),
        (
            any().col_expr(Column::Note, Expr::value("noted")),
            any().col_expr(Column::Note, Expr::value(None::<String>)),
        ),
    ] {
        change.exec(&store.writer).await.unwrap();
        let result = store.fold_reports(&new, NOW).await.unwrap();
        assert!(matches!(result, FoldResult::Changed), "{result:?}");
        undo.exec(&store.writer).await.unwrap();
    }
    // A boundary that became known meanwhile divides a window.
    let boundary = page[7].report.window_start + HOUR_MS / 2;
    let link = format!(
        "INSERT INTO account_links (account_id, version, valid_from, customer, recorded_at, ended) \
         VALUES ('{}', 1, {boundary}, 'cus', 0, false)",
        page[7].report.account_id
    );
    let writer = store.writer.plain();
    writer.execute_unprepared(&link).await.unwrap();
    let result = store.fold_reports(&new, NOW).await.unwrap();
    assert!(matches!(result, FoldResult::Changed), "{result:?}");
    writer
        .execute_unprepared("DELETE FROM account_links")
        .await
        .unwrap();
    assert_eq!(count(&store, "usage_reports").await, 60);
    assert_eq!(count(&store, "folded_reports").await, 0);
    assert_eq!(count(&store, "report_archives").await, 0);

    let result = store.fold_reports(&new, NOW).await.unwrap();
    assert!(matches!(result, FoldResult::Folded), "{result:?}");
    assert_eq!(count(&store, "usage_reports").await, 0);
    assert_eq!(count(&store, "folded_reports").await, 20);
    // Whoever has read them too folds nothing.
    let result = store.fold_reports(&new, NOW).await.unwrap();
    assert!(matches!(result, FoldResult::Changed), "{result:?}");
    assert_eq!(count(&store, "folded_reports").await, 20);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_fails_folds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(&folder, 60).await;
    let refuse = "CREATE TRIGGER refuse BEFORE DELETE ON usage_reports BEGIN SELECT RAISE(ABORT, 'refused'); END";
    store
        .writer
        .plain()
        .execute_unprepared(refuse)
        .await
        .unwrap();
    let page = store.finished_reports(None, NOW).await.unwrap().reports;
    let fold = read_and_fold(&store, &page).await;
    let archive = file("a");
    let new = NewFold {
        reports: &page,
        fold: &fold,
        file: &archive,
    };
    let result = store.fold_reports(&new, NOW).await.unwrap();
    assert!(matches!(result, FoldResult::Failed(_)), "{result:?}");
    assert_eq!(count(&store, "usage_reports").await, 60);
    assert_eq!(count(&store, "folded_reports").await, 0);
    assert_eq!(count(&store, "report_archives").await, 0);
    store.close().await.unwrap();
}
