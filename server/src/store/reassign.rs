//! Updates existing reports after a boundary moved or a link changed: splits, closes or relinks them.

use sea_orm::{
    ColumnTrait as _, Condition, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, UpdateMany,
    sea_query::{Expr, ExprTrait as _},
};

use super::{
    billing_start::event_time_sql,
    boundaries::read_boundaries,
    close_reports::{Closing, close_reports},
    connection::Transaction,
    links::read_links_of,
    report_states::at_once,
};
use crate::{
    domain::{
        DAY_MS, HOUR_MS, Millis,
        account::{BillingTarget, Link, billing_target_at},
        account_id::AccountId,
        report::{State, Transition},
        window::{Interval, Slots},
    },
    entity::{
        open_report,
        usage_report::{self, UsageReportState},
    },
};

/// Splits the account's open reports at its boundaries.
///
/// A report whose increments all lie between two boundaries gets the window between them. A report with increments on
/// both sides of a boundary cannot be divided: it is closed as it is, and billed by its first increment.
pub(super) async fn reassign_open_reports(
    tx: &Transaction,
    account_id: &AccountId,
    slots: Slots,
    now: Millis,
) -> Result<(), DbErr> {
    use open_report::Column;
    let open = open_report::Entity::find()
        .filter(Column::AccountId.eq(account_id))
        .order_by_asc(Column::WindowStart)
        .order_by_asc(Column::Meter)
        .lock_exclusive()
        .all(tx)
        .await?;
    if open.is_empty() {
        return Ok(());
    }
    let boundaries = read_boundaries(
        tx,
        std::slice::from_ref(account_id),
        now.saturating_sub(DAY_MS),
    )
    .await?;
    let Some((_, boundaries)) = boundaries.into_iter().next() else {
        return Ok(());
    };
    let mut straddling = Vec::new();
    for report in open {
        let around = boundaries.window_around(slots, report.first_at);
        let part = around.intersection(Interval {
            start: report.window_start,
            end: report.window_end,
        });
        if part.start == report.window_start && part.end == report.window_end {
            continue;
        }
        if report.last_at >= part.end {
            straddling.push(report);
            continue;
        }
        open_report::Entity::update_many()
            .col_expr(Column::WindowStart, Expr::value(part.start))
            .col_expr(Column::WindowEnd, Expr::value(part.end))
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::WindowStart.eq(report.window_start))
            .filter(Column::Meter.eq(report.meter))
            .exec(tx)
            .await?;
    }
    let closing = Closing {
        is_straddled: true,
        ..Closing::at(now)
    };
    close_reports(tx, &straddling, closing).await.map(|_| ())
}

/// Applies a new link to reports that waited for a link, and to reports that were not billable but are in the time that
/// the link covers.
pub(super) async fn relink_reports(tx: &Transaction, account_id: &AccountId) -> Result<(), DbErr> {
    let links = read_links_of(tx, account_id).await?;
    let Some(latest) = links.last() else {
        return Ok(());
    };
    let recent = recent_states(tx, account_id, latest.valid_from).await?;
    let split = [UsageReportState::NoCustomer, UsageReportState::NotBillable];
    if split.iter().any(|state| recent.contains(state)) {
        // A report that was closed before the boundary was known cannot be split.
        mark_on_both_sides(account_id, latest.valid_from)
            .filter(usage_report::Column::State.is_in(split))
            .exec(tx)
            .await?;
    }
    relink_elsewhere(tx, account_id, &links).await?;
    // Usage before the moment from which this service bills is another integration's.
    let starts = Ord::max(latest.valid_from, latest.elsewhere_until);
    let newly_in_force = billing_target_at(&links, starts);
    let older = BillingTarget::NotBillable;
    let never_sent = usage_report::Column::FirstSentAt.is_null();
    // Without the window's start, all reports of the account would be read.
    let since = is_recent(starts).and(usage_report::Column::FirstAt.gte(starts));
    let before = usage_report::Column::FirstAt.lt(latest.valid_from);
    for (from, target, range, is_of_any_age) in [
        (State::NoCustomer, &newly_in_force, since.clone(), false),
        (State::NoCustomer, &older, before, true),
        (State::NotBillable, &newly_in_force, since.clone(), false),
        // Usage after a subscription's end is not sent, even if the end became known late.
        (
            State::Closed,
            &newly_in_force,
            since.clone().and(never_sent.clone()),
            false,
        ),
        (
            State::Uncharged,
            &newly_in_force,
            since.and(never_sent),
            false,
        ),
    ] {
        if !is_of_any_age && !recent.contains(&UsageReportState::from(from)) {
            continue;
        }
        let Some(to) = from.after(&Transition::Relink(target.clone())) else {
            continue;
        };
        if to == from && target.customer().is_none() {
            continue;
        }
        let mut range = Condition::all().add(range);
        if let (State::Closed | State::Uncharged, Some(customer)) = (from, target.customer()) {
            // Of the same customer it stays as it is. Of another one it is after the end of that one's subscription.
            range = range.add(usage_report::Column::Customer.ne(customer));
        }
        relinked(to, target.customer())
            .filter(usage_report::Column::AccountId.eq(account_id))
            .filter(usage_report::Column::State.eq(UsageReportState::from(from)))
            .filter(range)
            .exec(tx)
            .await?;
    }
    Ok(())
}

/// An update of reports that get another link.
fn relinked(to: State, customer: Option<&str>) -> UpdateMany<usage_report::Entity> {
    use usage_report::Column;
    let change = usage_report::Entity::update_many()
        .col_expr(Column::State, Expr::value(UsageReportState::from(to)))
        .col_expr(Column::Customer, Expr::value(customer))
        .col_expr(Column::NextAttemptAt, at_once())
        .col_expr(Column::SendBy, Expr::value(None::<i64>));
    if to != State::NotBillable {
        return change;
    }
    // That of an attempt that failed: without being sent, only what another integration bills has one.
    change.col_expr(Column::EventTimestamp, Expr::value(None::<i64>))
}

/// Applies a new link to reports that another integration bills: they show the customer's meter event that would be sent.
async fn relink_elsewhere(
    tx: &Transaction,
    account_id: &AccountId,
    links: &[Link],
) -> Result<(), DbErr> {
    use usage_report::Column;
    let Some(latest) = links.last() else {
        return Ok(());
    };
    let target = billing_target_at(links, latest.valid_from);
    let customer = match &target {
        BillingTarget::Elsewhere(customer) => customer,
        BillingTarget::NotBillable => return free_elsewhere(tx, account_id, latest).await,
        BillingTarget::NoCustomer | BillingTarget::Billed(_) => return Ok(()),
    };
    let event_time = event_time_sql("window_start", "window_end");
    for from in [State::NoCustomer, State::NotBillable] {
        let Some(to) = from.after(&Transition::Relink(target.clone())) else {
            continue;
        };
        usage_report::Entity::update_many()
            .col_expr(Column::State, Expr::value(UsageReportState::from(to)))
            .col_expr(Column::Customer, Expr::value(customer.as_str()))
            .col_expr(Column::EventTimestamp, Expr::cust(event_time.clone()))
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::State.eq(UsageReportState::from(from)))
            .filter(is_recent(latest.valid_from))
            .filter(Column::FirstAt.gte(latest.valid_from))
            .filter(Column::FirstAt.lt(latest.elsewhere_until))
            .exec(tx)
            .await?;
    }
    Ok(())
}

/// Takes the mark off reports that another integration would bill and that a link makes free: they are as any free usage.
async fn free_elsewhere(
    tx: &Transaction,
    account_id: &AccountId,
    latest: &Link,
) -> Result<(), DbErr> {
    use usage_report::Column;
    relinked(State::NotBillable, None)
        .filter(Column::AccountId.eq(account_id))
        .filter(Column::State.eq(UsageReportState::NotBillable))
        .filter(is_recent(latest.valid_from))
        .filter(Column::FirstAt.gte(latest.valid_from))
        .filter(Column::FirstAt.lt(latest.elsewhere_until))
        .filter(Column::LastSentAt.is_null())
        .exec(tx)
        .await
        .map(|_| ())
}

/// Whether a window may reach beyond a time: none is longer than an hour.
fn is_recent(at: Millis) -> Expr {
    usage_report::Column::WindowStart.gt(at.saturating_sub(HOUR_MS))
}

/// The states of an account's reports whose windows may reach beyond a time. Most new links have none, and no report to
/// change.
async fn recent_states(
    tx: &Transaction,
    account_id: &AccountId,
    at: Millis,
) -> Result<Vec<UsageReportState>, DbErr> {
    usage_report::Entity::find()
        .select_only()
        .column(usage_report::Column::State)
        .distinct()
        .filter(usage_report::Column::AccountId.eq(account_id))
        .filter(is_recent(at))
        .into_tuple()
        .all(tx)
        .await
}

/// Marks closed reports with a boundary inside their window: it became known too late to split them.
pub(super) async fn mark_straddled(
    tx: &Transaction,
    account_id: &AccountId,
    boundary: Millis,
) -> Result<(), DbErr> {
    mark_on_both_sides(account_id, boundary)
        .filter(usage_report::Column::PeriodEnd.gt(boundary))
        .exec(tx)
        .await
        .map(|_| ())
}

/// An update that marks the reports with increments on both sides of a boundary as straddled.
fn mark_on_both_sides(
    account_id: &AccountId,
    boundary: Millis,
) -> UpdateMany<usage_report::Entity> {
    usage_report::Entity::update_many()
        .col_expr(usage_report::Column::Straddled, Expr::value(true))
        .filter(usage_report::Column::AccountId.eq(account_id))
        .filter(usage_report::Column::WindowStart.gt(boundary.saturating_sub(HOUR_MS)))
        .filter(usage_report::Column::WindowStart.lt(boundary))
        .filter(usage_report::Column::FirstAt.lt(boundary))
        .filter(usage_report::Column::LastAt.gte(boundary))
}
