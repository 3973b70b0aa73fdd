//! Rules of the domain on reports, in SQL, for queries that have to filter or sort by them. Tests compare both.

use sea_orm::{ColumnTrait as _, Condition, sea_query::ExprTrait as _};

use crate::{domain::Millis, entity::usage_report::Column};

/// As [`BilledUsage::event_at`](crate::domain::billed_usage::BilledUsage::event_at).
pub(super) const EVENT_AT: &str = "COALESCE(event_timestamp, bill_at, CASE WHEN first_at > window_start THEN first_at ELSE window_start END)";

/// As [`Report::needs_look_up`](crate::domain::report::Report::needs_look_up), after a restore at this time.
pub(super) fn needs_look_up(restored_at: Millis) -> Condition {
    let is_not_looked_up = Column::LookedUpAt
        .is_null()
        .or(Column::LookedUpAt.lt(restored_at));
    Condition::all()
        .add(Column::FirstAt.lt(restored_at))
        .add(is_not_looked_up)
}

#[cfg(test)]
mod tests {
    use sea_orm::{
        ActiveModelTrait as _, ActiveValue::Set, EntityTrait as _, QueryFilter as _,
        QuerySelect as _, sea_query::Expr,
    };
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{account_id::AccountId, report::Report},
        entity::usage_report::{self, UsageReportKind, UsageReportState},
        store::Store,
    };

    /// Times before, at and after each other.
    const TIMES: [Millis; 3] = [3, 5, 7];

    fn times_or_none() -> impl Iterator<Item = Option<Millis>> {
        TIMES.into_iter().map(Some).chain([None])
    }

    fn row(first_at: Millis, window_start: Millis) -> usage_report::ActiveModel {
        usage_report::ActiveModel {
            account_id: Set(AccountId::parse("acct").unwrap()),
            id: Set(Uuid::now_v7()),
            meter: Set("m".to_owned()),
            window_start: Set(window_start),
            window_end: Set(100),
            period_end: Set(Some(100)),
            closed_at: Set(Some(100)),
            quantity: Set(1),
            first_at: Set(first_at),
            last_at: Set(first_at),
            state: Set(UsageReportState::Closed),
            straddled: Set(false),
            generation: Set(0),
            attempts: Set(0),
            kind: Set(UsageReportKind::Usage),
            ..Default::default()
        }
    }

    /// A database with a report for each combination of times.
    async fn store() -> (Store, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        let store = Store::open(&url, 1).await.unwrap();
        store.migrate().await.unwrap();
        for first_at in TIMES {
            for window_start in TIMES {
                for event_timestamp in times_or_none() {
                    for other in times_or_none() {
                        let row = usage_report::ActiveModel {
                            event_timestamp: Set(event_timestamp),
                            bill_at: Set(other),
                            looked_up_at: Set(other),
                            ..row(first_at, window_start)
                        };
                        row.insert(&store.writer).await.unwrap();
                    }
                }
            }
        }
        (store, folder)
    }

    #[tokio::test]
    async fn the_time_of_an_event_is_the_same_in_sql() {
        let (store, _folder) = store().await;
        let rows = usage_report::Entity::find().all(&store.reader).await;
        for row in rows.unwrap() {
            let at: Option<Millis> =
                usage_report::Entity::find_by_id((row.account_id.clone(), row.id))
                    .select_only()
                    .column_as(Expr::cust(EVENT_AT), "at")
                    .into_tuple()
                    .one(&store.reader)
                    .await
                    .unwrap();
            let report = Report::from(row);
            assert_eq!(at, Some(report.event_at()), "{report:?}");
        }
    }

    #[tokio::test]
    async fn a_report_needs_the_same_look_up_in_sql() {
        let (store, _folder) = store().await;
        let all = usage_report::Entity::find()
            .all(&store.reader)
            .await
            .unwrap();
        for restored_at in [2, 5, 6, 8] {
            let found = usage_report::Entity::find().filter(needs_look_up(restored_at));
            let mut found: Vec<Uuid> = found
                .all(&store.reader)
                .await
                .unwrap()
                .into_iter()
                .map(|row| row.id)
                .collect();
            let reports = all.iter().cloned().map(Report::from);
            let mut expected: Vec<Uuid> = reports
                .filter(|report| report.needs_look_up(Some(restored_at)))
                .map(|report| report.id)
                .collect();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "restored at {restored_at}");
        }
    }
}
