//! What refuses the deletion of an account: usage that is not billed yet, periods and subscriptions that go on, and what
//! cannot be made anonymous here.

use sea_orm::{
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _},
};

use crate::{
    domain::{
        Millis,
        account::Billing,
        account_deletion::{Obstacle, ObstacleKind},
        account_id::AccountId,
        billing_period::RELEVANT_MS,
        period::rfc3339,
        report::State,
    },
    entity::{
        billing_period::{self, BillingPeriodInvoiceState},
        folded_report, open_report, report_archive, subscription,
        usage_report::{self, UsageReportState},
    },
    store::{
        connection::Transaction, links::find_account, sending_state::read_sending,
        unfinished_changes::find_unfinished, unindexed,
    },
};

/// How many of a kind are listed.
const PER_KIND: u64 = 100;
/// How many archives are named.
const NAMED_ARCHIVES: u64 = 3;

/// The states of reports that nothing is left to be done for.
const FINISHED: [State; 3] = [State::Invoiced, State::NotBillable, State::WrittenOff];

/// Everything that refuses the deletion, up to a limit a kind.
pub(super) async fn find(
    tx: &Transaction,
    account_id: &AccountId,
    now: Millis,
) -> Result<Vec<Obstacle>, DbErr> {
    let mut found = open_reports(tx, account_id).await?;
    found.extend(closed_reports(tx, account_id).await?);
    found.extend(billing_periods(tx, account_id, now).await?);
    found.extend(subscriptions(tx, account_id).await?);
    if let Some(change) = find_unfinished(tx, account_id).await? {
        let message = "a change of its subscription is in progress: wait for its end, or abort it";
        found.push(obstacle(
            ObstacleKind::Change,
            change.id.to_string(),
            message,
        ));
    }
    found.extend(archives(tx, account_id).await?);
    if let Some(paused) = read_sending(tx).await?.paused {
        let message = format!("sending is paused: {paused}");
        found.push(obstacle(ObstacleKind::Restore, String::new(), message));
    }
    Ok(found)
}

fn obstacle(kind: ObstacleKind, id: String, message: impl Into<String>) -> Obstacle {
    Obstacle {
        kind,
        id,
        message: message.into(),
    }
}

async fn open_reports(tx: &Transaction, account_id: &AccountId) -> Result<Vec<Obstacle>, DbErr> {
    let open = open_report::Entity::find()
        .filter(open_report::Column::AccountId.eq(account_id))
        .limit(PER_KIND)
        .all(tx)
        .await?;
    let open = open.into_iter().map(|row| {
        let message = format!(
            "report {} of {} from {} is open: report it, and wait until it is invoiced",
            row.id,
            row.meter,
            rfc3339(row.window_start)
        );
        obstacle(ObstacleKind::Report, row.id.to_string(), message)
    });
    Ok(open.collect())
}

async fn closed_reports(tx: &Transaction, account_id: &AccountId) -> Result<Vec<Obstacle>, DbErr> {
    let finished = || FINISHED.map(UsageReportState::from);
    let closed = usage_report::Entity::find()
        .filter(usage_report::Column::AccountId.eq(account_id))
        .filter(usage_report::Column::State.is_not_in(finished()))
        .limit(PER_KIND)
        .all(tx)
        .await?;
    let folded = folded_report::Entity::find()
        .filter(folded_report::Column::AccountId.eq(account_id))
        .filter(folded_report::Column::State.is_not_in(finished()))
        .limit(PER_KIND)
        .all(tx)
        .await?;
    let closed = closed
        .into_iter()
        .map(|row| (row.id, row.meter, row.window_start, State::from(row.state)));
    let folded = folded
        .into_iter()
        .map(|row| (row.id, row.meter, row.window_start, State::from(row.state)));
    let all = closed.chain(folded).map(|(id, meter, start, state)| {
        let what = match state {
            State::NoCustomer => "make the account free, or link it and wait until it is invoiced",
            State::Closed | State::Sending | State::Accepted | State::Confirmed => {
                "wait until it is invoiced"
            }
            State::Uncharged => "wait until a subscription charges it, or write it off",
            _ => "resolve it",
        };
        let state = state.name();
        let start = rfc3339(start);
        let message = format!("report {id} of {meter} from {start} is {state}: {what}");
        obstacle(ObstacleKind::Report, id.to_string(), message)
    });
    Ok(all.collect())
}

async fn billing_periods(
    tx: &Transaction,
    account_id: &AccountId,
    now: Millis,
) -> Result<Vec<Obstacle>, DbErr> {
    use billing_period::Column as P;
    let end = || unindexed(P::PeriodEnd);
    // The invoice of one that ended long ago is final, whatever was read of it.
    let is_invoiced_late = P::InvoiceState
        .ne(BillingPeriodInvoiceState::Final)
        .and(P::Subscription.is_not_null())
        .and(end().gt(now.saturating_sub(RELEVANT_MS)));
    let open = billing_period::Entity::find()
        .filter(P::AccountId.eq(account_id))
        .filter(end().gt(now).or(is_invoiced_late))
        .limit(PER_KIND)
        .all(tx)
        .await?;
    let open = open.into_iter().map(|row| {
        let end = rfc3339(row.period_end);
        let message = if row.period_end > now {
            format!("a billing period ends at {end}: cancel the subscription, or wait until then")
        } else {
            format!("the invoice of the billing period until {end} is not final: wait for it")
        };
        obstacle(ObstacleKind::BillingPeriod, row.item, message)
    });
    Ok(open.collect())
}

/// Subscriptions that go on, of the customer that the account is linked to.
async fn subscriptions(tx: &Transaction, account_id: &AccountId) -> Result<Vec<Obstacle>, DbErr> {
    let account = find_account(tx, account_id).await?;
    let Some(Billing::Stripe { customer, .. }) = account.map(|account| account.link.billing) else {
        return Ok(Vec::new());
    };
    let live = subscription::Entity::find()
        .filter(subscription::Column::AccountId.eq(account_id))
        .filter(Expr::col(subscription::Column::Customer).eq(customer))
        .filter(subscription::Column::EndedAt.is_null())
        .limit(PER_KIND)
        .all(tx)
        .await?;
    let live = live.into_iter().map(|row| {
        let message = format!(
            "subscription {} goes on: cancel it, or make the account free",
            row.subscription
        );
        obstacle(ObstacleKind::Subscription, row.subscription, message)
    });
    Ok(live.collect())
}

async fn archives(tx: &Transaction, account_id: &AccountId) -> Result<Vec<Obstacle>, DbErr> {
    use folded_report::Column as F;
    let mut numbers: Vec<i64> = folded_report::Entity::find()
        .select_only()
        .column(F::Archive)
        .distinct()
        .filter(F::AccountId.eq(account_id))
        .limit(NAMED_ARCHIVES.saturating_add(1))
        .into_tuple()
        .all(tx)
        .await?;
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let has_more = u64::try_from(numbers.len()).is_ok_and(|found| found > NAMED_ARCHIVES);
    numbers.truncate(usize::try_from(NAMED_ARCHIVES).unwrap_or(usize::MAX));
    let files: Vec<String> = report_archive::Entity::find()
        .select_only()
        .column(report_archive::Column::File)
        .filter(report_archive::Column::Number.is_in(numbers))
        .into_tuple()
        .all(tx)
        .await?;
    let more = if has_more { " and others" } else { "" };
    let message = format!(
        "reports of it were folded into the archives {}{more}, which contain its id and stay as they are; their SHA-256 is their proof",
        files.join(", ")
    );
    Ok(vec![obstacle(
        ObstacleKind::Archive,
        String::new(),
        message,
    )])
}
