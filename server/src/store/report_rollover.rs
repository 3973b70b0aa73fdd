//! Rare cases of counting: a report that would exceed fifteen digits, and usage so old that its report cannot wait for
//! the next run.

use sea_orm::{ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _};

use super::{
    additions::Addition,
    close_reports::{Closing, close_reports},
    connection::Transaction,
    open_reports::add_to_open_reports,
};
use crate::{
    domain::{Millis, report::MAX_REPORT_QUANTITY},
    entity::open_report,
};

/// Adds like [`add_to_open_reports`]. A report that would exceed fifteen digits is closed, and another one of the same
/// window is opened.
pub(super) async fn add_carefully(
    tx: &Transaction,
    additions: &[Addition],
    now: Millis,
) -> Result<(), DbErr> {
    for addition in additions {
        let mut left = addition.quantity;
        while left > 0 {
            let open = find_open_report(tx, addition).await?;
            let quantity = open.as_ref().map_or(0, |report| report.quantity);
            let capacity = MAX_REPORT_QUANTITY.saturating_sub(quantity);
            let fits = left <= capacity;
            if fits || open.is_none() {
                let part = left.min(capacity);
                add_to_open_reports(
                    tx,
                    &[Addition {
                        quantity: part,
                        ..addition.clone()
                    }],
                )
                .await?;
                left = left.saturating_sub(part);
            }
            if !fits {
                close_open_report(tx, addition, now).await?;
            }
        }
    }
    Ok(())
}

/// Closes the open report of the window of an addition.
pub(super) async fn close_open_report(
    tx: &Transaction,
    addition: &Addition,
    now: Millis,
) -> Result<(), DbErr> {
    let open = find_open_report(tx, addition).await?;
    close_reports(tx, open.as_slice(), Closing::at(now))
        .await
        .map(|_| ())
}

async fn find_open_report(
    tx: &Transaction,
    addition: &Addition,
) -> Result<Option<open_report::Model>, DbErr> {
    open_report::Entity::find()
        .filter(open_report::Column::AccountId.eq(&addition.account_id))
        .filter(open_report::Column::Meter.eq(&*addition.meter))
        .filter(open_report::Column::WindowStart.eq(addition.window.start))
        .lock_exclusive()
        .one(tx)
        .await
}
