//! Increments whose keys are kept, and the reports that contain them.

use uuid::Uuid;

use super::{
    Millis,
    report::{Kind, MAX_REPORT_QUANTITY, Report},
};

/// An increment whose key is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptIncrement {
    /// Its key as it is stored.
    pub key: Uuid,
    /// The meter.
    pub meter: String,
    /// The quantity.
    pub quantity: i64,
    /// The time that the caller gave.
    pub stated_at: Option<Millis>,
    /// When it was counted.
    pub counted_at: Millis,
    /// The report that it was added to.
    pub report_id: Uuid,
}

/// Those of a window's reports that may contain a part of an increment of one of them: the tables do not say which part.
///
/// An increment that would have made a report exceed Stripe's limit was divided: the report was closed with exactly that
/// limit as it was counted. After a restore, the part of a report that Stripe had became another one, which has its times.
pub fn divided_with<'a>(
    increment: &KeptIncrement,
    report: &Report,
    of_window: &'a [Report],
) -> Vec<&'a Report> {
    let others = of_window.iter().filter(|other| {
        other.id != report.id && other.kind == Kind::Usage && other.meter == report.meter
    });
    let is_part = |other: &&Report| {
        let is_full =
            other.quantity == MAX_REPORT_QUANTITY && other.closed_at == Some(increment.counted_at);
        let is_split = other.looked_up_at.is_some()
            && other.closed_at.is_some()
            && other.closed_at == report.closed_at;
        is_full || is_split
    };
    others.filter(is_part).collect()
}
