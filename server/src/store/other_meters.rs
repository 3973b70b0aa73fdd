//! Reports of meters that are not configured: the sender does not read them, so they are given up here in time.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::SimpleExpr,
};

use super::{
    Store,
    mark_sending::record_skip,
    report_states::is_due,
    send_order::{forget_send_by_of_meter, unplaced},
};
use crate::{
    domain::{Millis, next_step::end_of_wait, report::Report},
    entity::usage_report::{self, Column},
    error::Result,
};

/// Reports that are read at once.
const AT_ONCE: u64 = 500;
/// Reports that are taken out of the queue at once.
const FORGOTTEN_AT_ONCE: u32 = 500;
/// Meters that are named.
const MAX_NAMED: usize = 20;

/// How far the reports of other meters were read: the last one's meter and number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OtherMetersCursor {
    meter: String,
    number: i64,
}

impl Store {
    /// The meters of closed usage that is not at Stripe, besides the configured ones: at most twenty.
    pub(crate) async fn other_meters(&self, meters: &[&str]) -> Result<Vec<String>> {
        let mut others = Vec::new();
        let mut after = String::new();
        while others.len() < MAX_NAMED
            && let Some(other) = self.next_other_meter(meters, &after).await?
        {
            others.push(other.clone());
            after = other;
        }
        Ok(others)
    }

    async fn next_other_meter(&self, meters: &[&str], after: &str) -> Result<Option<String>> {
        let mut after = after.to_owned();
        // Each configured meter is skipped once.
        for _ in 0..=meters.len() {
            // Each has an index of its own.
            let unplaced = self.first_meter(Column::SendBy.is_null(), &after).await?;
            let placed = self
                .first_meter(Column::SendBy.is_not_null(), &after)
                .await?;
            match unplaced.into_iter().chain(placed).min() {
                Some(next) if meters.contains(&next.as_str()) => after = next,
                other => return Ok(other),
            }
        }
        Ok(None)
    }

    /// The first meter after another one that has reports to send at once of one kind.
    async fn first_meter(&self, kind: SimpleExpr, after: &str) -> Result<Option<String>> {
        let first = usage_report::Entity::find()
            .select_only()
            .column(Column::Meter)
            .filter(is_due())
            .filter(Column::NextAttemptAt.is_null())
            .filter(kind)
            .filter(Column::Meter.gt(after))
            .order_by_asc(Column::Meter)
            .limit(1)
            .into_tuple();
        Ok(first.one(&self.reader).await?)
    }

    /// Reads the next reports of other meters than the configured ones, and gives up those that Stripe would refuse as
    /// too old. A person can decide about them. The cursor begins again at the end.
    pub(crate) async fn give_up_other_meters(
        &self,
        meters: &[&str],
        cursor: &mut OtherMetersCursor,
        now: Millis,
    ) -> Result<()> {
        if cursor.meter.is_empty() || meters.contains(&cursor.meter.as_str()) {
            let Some(meter) = self.next_other_meter(meters, &cursor.meter).await? else {
                *cursor = OtherMetersCursor::default();
                return Ok(());
            };
            *cursor = OtherMetersCursor {
                meter,
                ..OtherMetersCursor::default()
            };
        }
        let tx = self.begin().await?;
        forget_send_by_of_meter(&tx, &cursor.meter, FORGOTTEN_AT_ONCE).await?;
        tx.commit().await?;
        let page = unplaced(&cursor.meter)
            .filter(Column::Number.gt(cursor.number))
            .limit(AT_ONCE)
            .all(&self.reader)
            .await?;
        let end = page.last().map(|last| OtherMetersCursor {
            meter: cursor.meter.clone(),
            number: last.number,
        });
        let with_end = |row| {
            let report = Report::from(row);
            end_of_wait(&report, now).map(|skip| (report, skip))
        };
        let mut ended: Vec<_> = page.into_iter().filter_map(with_end).collect();
        ended.sort_unstable_by_key(|(report, _)| report.id);
        if !ended.is_empty() {
            let tx = self.begin().await?;
            for (report, skip) in &ended {
                record_skip(&tx, report, skip).await?;
            }
            tx.commit().await?;
        }
        if let Some(end) = end {
            *cursor = end;
            return Ok(());
        }
        // The next meter, or the first one again.
        let meter = self.next_other_meter(meters, &cursor.meter).await?;
        *cursor = OtherMetersCursor {
            meter: meter.unwrap_or_default(),
            ..OtherMetersCursor::default()
        };
        Ok(())
    }
}
