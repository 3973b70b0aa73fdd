//! How the first report of each stream is found.

use super::*;

/// With a condition on time and customer together, SQLite would read all streams of the same time again for each one.
#[tokio::test]
async fn the_next_stream_is_searched_by_time_and_customer() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    let store = Store::open(&url, 1).await.unwrap();
    store.migrate().await.unwrap();
    for includes in [false, true] {
        let sql = store.first_of_streams(includes, 10);
        let explain = Statement::from_sql_and_values(
            DbBackend::Sqlite,
            format!("EXPLAIN QUERY PLAN {sql}"),
            ["m".into(), 0_i64.into(), 0_i64.into(), "cus".into()],
        );
        let steps = store.reader.query_all_raw(explain).await.unwrap();
        let steps = steps.iter().map(|row| row.try_get("", "detail").unwrap());
        let steps: Vec<String> = steps.collect();
        let searches = |columns: &str| {
            let search = format!("USING INDEX usage_reports_due (meter=? AND {columns})");
            steps.iter().filter(|step| step.contains(&search)).count()
        };
        let same_time = searches("send_by=? AND customer>?");
        assert_eq!((same_time, searches("send_by>?")), (2, 2), "{steps:#?}");
    }
    store.close().await.unwrap();
}
