//! Reads the input of the decision whether reports may be sent, and delays reports that have to wait.

use std::collections::{BTreeSet, HashMap};

use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait, DbErr, EntityTrait as _, FromQueryResult,
    JoinType, QueryFilter as _, QueryOrder as _, QuerySelect as _, RelationDef, Select,
    sea_query::Expr,
};

use super::{
    as_read::update_as_read, connection::Transaction, of_shard::OfShard,
    subscriptions::request_sync,
};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        billing_period::InvoicePeriod,
        invoice_deadline::{BillingContext, ChangeInProgress, SendDecision},
        report::Report,
        subscription_status::SubscriptionStatus,
        window::Interval,
    },
    entity::{
        billing_period::{self, BillingPeriodInvoiceState},
        subscription, subscription_change, usage_report,
    },
};

/// The number of accounts in one query, whose plan is checked for no more.
const ACCOUNTS_PER_QUERY: usize = 1_000;

/// A billing period, and its subscription.
#[derive(Debug, FromQueryResult)]
struct PeriodRow {
    account_id: AccountId,
    meter: String,
    period_start: Millis,
    period_end: Millis,
    bills_from: Option<Millis>,
    is_trial: bool,
    invoice_state: BillingPeriodInvoiceState,
    draft_until: Option<Millis>,
    subscription: String,
    customer: String,
    status: String,
    ended_at: Option<Millis>,
    end_requested: bool,
    relinked_from: Option<Millis>,
    synced_at: Millis,
    customer_deleted_at: Option<Millis>,
}

/// The billing contexts of some reports.
#[derive(Debug, Default)]
pub(super) struct BillingContexts {
    /// By account, customer and meter.
    periods: HashMap<(AccountId, String, String), Vec<InvoicePeriod>>,
    changes: HashMap<AccountId, ChangeInProgress>,
    /// The subscriptions of accounts with a report whose meter has no period, by account and customer.
    subscriptions: HashMap<(AccountId, String), subscription::Model>,
}

impl BillingContexts {
    /// The contexts of a report's account and meter, one per customer. An open report has no customer yet.
    pub(super) fn of_any_customer(&self, report: &Report) -> Vec<BillingContext> {
        let customers = self.periods.keys().filter(|(account_id, _, meter)| {
            *account_id == report.account_id && *meter == report.meter
        });
        customers
            .map(|(_, customer, _)| self.of(report, Some(customer)))
            .collect()
    }

    /// The context of a report's account, customer and meter.
    pub(super) fn of(&self, report: &Report, customer: Option<&str>) -> BillingContext {
        let periods = customer.and_then(|customer| {
            let key = (
                report.account_id.clone(),
                customer.to_owned(),
                report.meter.clone(),
            );
            self.periods.get(&key).cloned()
        });
        let synced = customer.and_then(|customer| {
            let key = (report.account_id.clone(), customer.to_owned());
            self.subscriptions.get(&key)
        });
        BillingContext {
            periods: periods.unwrap_or_default(),
            change: self.changes.get(&report.account_id).copied(),
            synced: synced.map(|row| row.subscription.clone()),
        }
    }
}

/// Reads the contexts of reports to be sent, and locks their accounts' changes in progress. A change that is about to
/// call Stripe waits for this transaction, and sees which reports it marked.
pub(super) async fn lock_contexts(
    tx: &Transaction,
    reports: &[Report],
) -> Result<BillingContexts, DbErr> {
    use subscription_change::Column;
    let accounts: BTreeSet<&AccountId> = reports.iter().map(|report| &report.account_id).collect();
    let mut changes = Vec::new();
    for shard in OfShard::of_accounts(tx, accounts).await? {
        let locked = changes_in_progress(shard.condition(Column::AccountId))
            .order_by_asc(Column::AccountId)
            .lock_shared()
            .all(tx)
            .await?;
        changes.extend(locked);
    }
    Ok(BillingContexts {
        changes: by_account(changes),
        ..read_contexts(tx, reports).await?
    })
}

/// Reads the contexts of reports, with their accounts' changes in progress, and locks nothing.
pub(super) async fn read_contexts_and_changes(
    db: &impl ConnectionTrait,
    reports: &[Report],
) -> Result<BillingContexts, DbErr> {
    let accounts: BTreeSet<&AccountId> = reports.iter().map(|report| &report.account_id).collect();
    let accounts = subscription_change::Column::AccountId.is_in(accounts);
    let changes = changes_in_progress(Condition::all().add(accounts));
    let changes = changes.all(db).await?;
    Ok(BillingContexts {
        changes: by_account(changes),
        ..read_contexts(db, reports).await?
    })
}

fn changes_in_progress(accounts: Condition) -> Select<subscription_change::Entity> {
    subscription_change::Entity::find()
        .filter(accounts)
        .filter(subscription_change::Column::FinishedAt.is_null())
}

fn by_account(changes: Vec<subscription_change::Model>) -> HashMap<AccountId, ChangeInProgress> {
    let changes = changes.into_iter().map(|row| {
        let change = ChangeInProgress {
            boundary_at: row.boundary_at,
            step: row.step.into(),
        };
        (row.account_id, change)
    });
    changes.collect()
}

/// Reads the billing periods of some reports' accounts and meters, with their subscriptions.
pub(super) async fn read_contexts(
    db: &impl ConnectionTrait,
    reports: &[Report],
) -> Result<BillingContexts, DbErr> {
    let accounts: BTreeSet<&AccountId> = reports.iter().map(|report| &report.account_id).collect();
    let accounts: Vec<&AccountId> = accounts.into_iter().collect();
    let meters: BTreeSet<&str> = reports.iter().map(|report| report.meter.as_str()).collect();
    let mut contexts = BillingContexts::default();
    for accounts in accounts.chunks(ACCOUNTS_PER_QUERY) {
        for row in read_periods(db, accounts, &meters).await? {
            let key = (row.account_id, row.customer, row.meter);
            let period = InvoicePeriod {
                interval: Interval {
                    start: row.period_start,
                    end: row.period_end,
                },
                bills_from: row.bills_from,
                is_trial: row.is_trial,
                is_paused: SubscriptionStatus::parse(&row.status) == SubscriptionStatus::Paused,
                invoice_state: row.invoice_state.with_draft_end(row.draft_until),
                subscription: row.subscription,
                ended_at: row.ended_at,
                is_end_requested: row.end_requested,
                relinked_from: row.relinked_from,
                synced_at: row.synced_at,
                customer_deleted_at: row.customer_deleted_at,
            };
            contexts.periods.entry(key).or_default().push(period);
        }
    }
    contexts.subscriptions = read_subscriptions_without_period(db, reports, &contexts).await?;
    Ok(contexts)
}

/// The latest synced subscriptions that have not ended, of the customers of reports whose meters have no period.
async fn read_subscriptions_without_period(
    db: &impl ConnectionTrait,
    reports: &[Report],
    contexts: &BillingContexts,
) -> Result<HashMap<(AccountId, String), subscription::Model>, DbErr> {
    let without: BTreeSet<&AccountId> = reports
        .iter()
        .filter(|report| {
            let customer = report.customer.as_deref();
            customer.is_some() && contexts.of(report, customer).periods.is_empty()
        })
        .map(|report| &report.account_id)
        .collect();
    let without: Vec<&AccountId> = without.into_iter().collect();
    let mut found: HashMap<(AccountId, String), subscription::Model> = HashMap::new();
    for accounts in without.chunks(ACCOUNTS_PER_QUERY) {
        let rows = subscription::Entity::find()
            .filter(subscription::Column::AccountId.is_in(accounts.iter().copied()))
            .all(db)
            .await?;
        for row in rows.into_iter().filter(|row| row.ended_at.is_none()) {
            let key = (row.account_id.clone(), row.customer.clone());
            let is_newer = found
                .get(&key)
                .is_none_or(|other| other.synced_at < row.synced_at);
            if is_newer {
                found.insert(key, row);
            }
        }
    }
    Ok(found)
}

async fn read_periods(
    db: &impl ConnectionTrait,
    accounts: &[&AccountId],
    meters: &BTreeSet<&str>,
) -> Result<Vec<PeriodRow>, DbErr> {
    use billing_period::Column;
    billing_period::Entity::find()
        .select_only()
        .columns([
            Column::AccountId,
            Column::Meter,
            Column::PeriodStart,
            Column::PeriodEnd,
            Column::BillsFrom,
            Column::IsTrial,
            Column::InvoiceState,
            Column::DraftUntil,
            Column::Subscription,
        ])
        .column(subscription::Column::Customer)
        .column(subscription::Column::Status)
        .column(subscription::Column::EndedAt)
        .column(subscription::Column::EndRequested)
        .column(subscription::Column::RelinkedFrom)
        .column(subscription::Column::SyncedAt)
        .column(subscription::Column::CustomerDeletedAt)
        .join(JoinType::InnerJoin, subscription_of_period())
        .filter(Column::AccountId.is_in(accounts.iter().copied()))
        // The same accounts: PostgreSQL would read all subscriptions instead.
        .filter(subscription::Column::AccountId.is_in(accounts.iter().copied()))
        .filter(Column::Meter.is_in(meters.iter().copied()))
        .into_model::<PeriodRow>()
        .all(db)
        .await
}

fn subscription_of_period() -> RelationDef {
    billing_period::Entity::belongs_to(subscription::Entity)
        .from((
            billing_period::Column::AccountId,
            billing_period::Column::Subscription,
        ))
        .to((
            subscription::Column::AccountId,
            subscription::Column::Subscription,
        ))
        .into()
}

/// Requests the syncs that decisions wait for, each subscription once and in a fixed order.
pub(super) async fn request_syncs(
    tx: &Transaction,
    decided: &[(Report, Option<SendDecision>)],
    now: Millis,
) -> Result<(), DbErr> {
    let requested: BTreeSet<(&AccountId, &str)> = decided
        .iter()
        .filter_map(|(report, decision)| match decision {
            Some(
                SendDecision::Wait {
                    sync: Some(subscription),
                    ..
                }
                | SendDecision::Uncharged {
                    sync: Some(subscription),
                    ..
                },
            ) => Some((&report.account_id, subscription.as_str())),
            _ => None,
        })
        .collect();
    for (account_id, subscription) in requested {
        request_sync(tx, account_id, subscription, now).await?;
    }
    Ok(())
}

/// Delays a report if it is still as it was read.
pub(super) async fn postpone(
    tx: &Transaction,
    report: &Report,
    until: Millis,
) -> Result<(), DbErr> {
    update_as_read(report)
        .col_expr(usage_report::Column::NextAttemptAt, Expr::value(until))
        .exec(tx)
        .await
        .map(|_| ())
}
