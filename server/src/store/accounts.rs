//! Queries of accounts: create or change one, and read them. Links alone are in `links`.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, Condition, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func, OnConflict},
};

use super::{
    Store,
    boundaries::record_boundary_change,
    connection::Transaction,
    deleted_accounts::check_not_deleted,
    links::{
        accounts_of_customer, find_account, first_free_instant, insert_link, read_links_of,
        taken_until,
    },
    reassign::{mark_straddled, reassign_open_reports, relink_reports},
    report_archives::check_not_folded,
    retried::retried,
    subscriptions::record_followed,
    unfinished_changes::has_unfinished,
    watched_customers::{find_watch, new_row},
};
use crate::{
    domain::{
        Millis,
        account::{Account, Billing, Link, free_since, link_start, not_billed_before},
        account_id::AccountId,
        customer_watch::Watch,
        followed_subscriptions::FollowedSubscriptions,
        window::{Interval, Slots},
    },
    entity::{any_report, billing_period, customer, subscription, usage_report::UsageReportState},
    error::{Error, Result},
};

/// The subscription item of a period that the caller gave, until a sync finds the item.
const UNKNOWN_ITEM: &str = "";
/// The number of billing periods that one query reads per account.
const EDGES_READ: u64 = 1_000;

/// An account to create or change.
#[derive(Clone, Debug)]
pub(crate) struct PutAccount {
    /// The account.
    pub(crate) account_id: AccountId,
    /// Its billing from now on.
    pub(crate) billing: Billing,
    /// The current billing period, if it is known.
    pub(crate) current_period: Option<Interval>,
    /// Its live subscription at Stripe with its companions, if that was read.
    pub(crate) live: Option<FollowedSubscriptions>,
    /// The time from which the link bills, if the caller gave one.
    pub(crate) bill_from: Option<Millis>,
    /// The etag that the caller read, if it gave one.
    pub(crate) etag: Option<String>,
    /// Whether to change nothing, and only to return what would be.
    pub(crate) validate_only: bool,
    /// Why the customer is read by itself from now on, if it is.
    pub(crate) watch: Option<Watch>,
}

/// The result of [`Store::put_account`].
#[derive(Clone, Debug)]
pub(crate) struct AccountPut {
    /// The account as it was.
    pub(crate) before: Option<Account>,
    /// The account.
    pub(crate) account: Account,
    /// Usage from before the account's first link, which is not billed, by meter.
    pub(crate) not_billed: Vec<UnbilledUsage>,
    /// Whether Stripe was not asked about the customer and the subscription.
    pub(crate) is_unverified: bool,
}

/// Usage of a meter that is not billed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnbilledUsage {
    pub(crate) meter: String,
    pub(crate) quantity: i64,
}

/// The time from which a new link applies.
async fn start_of_link(
    tx: &Transaction,
    put: &PutAccount,
    links: &[Link],
    now: Millis,
) -> Result<Millis> {
    let Billing::Stripe { customer, .. } = &put.billing else {
        return Ok(free_since(links, now));
    };
    let live = put.live.as_ref();
    let period_start = put
        .current_period
        .map(|period| period.start)
        .or_else(|| live.and_then(FollowedSubscriptions::charges_since));
    let taken_until = taken_until(tx, customer, &put.account_id, now).await?;
    let from = put.bill_from;
    check_not_folded(tx, &put.account_id, from).await?;
    Ok(link_start(
        links,
        customer,
        taken_until,
        from,
        period_start,
        now,
    )?)
}

impl Store {
    /// Links an account to a customer or makes it free. Repeating the same request changes nothing.
    ///
    /// A new boundary splits the account's open reports. Reports that waited for a link get it.
    ///
    /// `clock` is read after the boundary lock is taken. A time read earlier could be before usage that was counted
    /// while this call waited for the lock.
    pub(crate) async fn put_account(
        &self,
        put: &PutAccount,
        slots: Slots,
        clock: impl Fn() -> Millis + Send + Sync,
    ) -> Result<AccountPut> {
        retried(|| self.put_account_once(put, slots, &clock)).await
    }

    async fn put_account_once(
        &self,
        put: &PutAccount,
        slots: Slots,
        clock: impl Fn() -> Millis + Send,
    ) -> Result<AccountPut> {
        let tx = self.begin_requested_change().await?;
        check_not_deleted(&tx, &put.account_id).await?;
        let now = first_free_instant(&tx, &put.account_id, clock()).await?;
        let before = find_account(&tx, &put.account_id).await?;
        check_etag(put, before.as_ref())?;
        let links = read_links_of(&tx, &put.account_id).await?;
        let is_same_link = before.as_ref().is_some_and(|account| {
            is_same_billing(&account.link.billing, &put.billing)
                && put
                    .bill_from
                    .is_none_or(|from| from == account.link.valid_from)
        });
        let is_same_period = put.current_period.is_none()
            || before
                .as_ref()
                .is_some_and(|account| account.current_period == put.current_period);
        if let (Some(account), true, true) = (&before, is_same_link, is_same_period) {
            let account = account.clone();
            let not_billed = not_billed(&tx, &put.account_id, &links).await?;
            let is_unverified = is_unverified(&tx, put).await?;
            tx.rollback().await?;
            return Ok(AccountPut {
                before,
                account,
                not_billed,
                is_unverified,
            });
        }
        if !is_same_link {
            start_link(&tx, put, &links, now).await?;
        }
        if let Some(period) = put.current_period {
            upsert_period(&tx, &put.account_id, period, now).await?;
        }
        // In the same transaction, because a report that becomes billable needs its billing period.
        if let Some(followed) = &put.live
            && !has_unfinished(&tx, &put.account_id).await?
        {
            let recorded = record_followed(&tx, &put.account_id, followed, now).await?;
            for boundary in recorded.map(|recorded| recorded.moved).unwrap_or_default() {
                mark_straddled(&tx, &put.account_id, boundary).await?;
            }
        }
        reassign_open_reports(&tx, &put.account_id, slots, now).await?;
        if !is_same_link {
            relink_reports(&tx, &put.account_id).await?;
        }
        record_boundary_change(&tx, &put.account_id, now).await?;
        let after = find_account(&tx, &put.account_id).await?;
        let links = read_links_of(&tx, &put.account_id).await?;
        let not_billed = not_billed(&tx, &put.account_id, &links).await?;
        let is_unverified = is_unverified(&tx, put).await?;
        if put.validate_only {
            tx.rollback().await?;
        } else {
            tx.commit().await?;
        }
        let account = after.ok_or_else(|| Error::AccountNotFound(put.account_id.to_string()))?;
        Ok(AccountPut {
            before,
            account,
            not_billed,
            is_unverified,
        })
    }

    /// The account, if it exists.
    pub(crate) async fn find_account(&self, account_id: &AccountId) -> Result<Option<Account>> {
        Ok(find_account(&self.reader, account_id).await?)
    }

    /// The same with a link and a period of one state of the database, so that the etag is one that was in force.
    pub(crate) async fn find_account_in_one_state(
        &self,
        account_id: &AccountId,
    ) -> Result<Option<Account>> {
        let tx = self.begin_reading().await?;
        let account = find_account(&tx, account_id).await?;
        tx.rollback().await?;
        Ok(account)
    }

    /// The accounts that are linked to a customer, also if its subscription has ended: one, as a customer has one account at
    /// a time.
    pub(crate) async fn find_accounts_of_customer(&self, customer: &str) -> Result<Vec<Account>> {
        let mut accounts = Vec::new();
        for id in accounts_of_customer(&self.reader, customer).await? {
            let account = self.find_account(&id).await?;
            accounts.extend(account.filter(|one| one.link.billing.customer() == Some(customer)));
        }
        Ok(accounts)
    }

    /// The edges of an account's billing periods, latest first.
    pub(crate) async fn billing_periods(&self, account_id: &AccountId) -> Result<Vec<Interval>> {
        let rows: Vec<(Millis, Millis)> = billing_period::Entity::find()
            .select_only()
            .column(billing_period::Column::PeriodStart)
            .column(billing_period::Column::PeriodEnd)
            .filter(billing_period::Column::AccountId.eq(account_id))
            .order_by_desc(billing_period::Column::PeriodStart)
            .limit(EDGES_READ)
            .into_tuple()
            .all(&self.reader)
            .await?;
        let periods = rows.into_iter();
        Ok(periods
            .map(|(start, end)| Interval { start, end })
            .collect())
    }
}

/// Whether Stripe was neither asked now nor before about the customer that the account is linked to.
async fn is_unverified(tx: &Transaction, put: &PutAccount) -> std::result::Result<bool, DbErr> {
    match put.billing.customer() {
        Some(customer) if put.watch == Some(Watch::Unverified) => {
            Ok(find_watch(tx, customer).await? == Some(Watch::Unverified))
        }
        _ => Ok(false),
    }
}

/// Usage from before the account's first link, by meter.
async fn not_billed(
    tx: &Transaction,
    account_id: &AccountId,
    links: &[Link],
) -> std::result::Result<Vec<UnbilledUsage>, DbErr> {
    use any_report::Column;
    let Some(before) = not_billed_before(links) else {
        return Ok(Vec::new());
    };
    // An open report is closed by the link in force at its first increment.
    let free = [UsageReportState::Open, UsageReportState::NotBillable];
    let sums: Vec<(String, Option<i64>)> = any_report::Entity::find()
        .select_only()
        .column(Column::Meter)
        .column_as(
            Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
            "quantity",
        )
        .filter(Column::AccountId.eq(account_id))
        .filter(Column::WindowStart.lt(before))
        .filter(Column::FirstAt.lt(before))
        .filter(Column::State.is_in(free))
        .group_by(Column::Meter)
        .order_by_asc(Column::Meter)
        .into_tuple()
        .all(tx)
        .await?;
    let usage = sums.into_iter().map(|(meter, quantity)| UnbilledUsage {
        meter,
        quantity: quantity.unwrap_or_default(),
    });
    Ok(usage.filter(|usage| usage.quantity != 0).collect())
}

/// Whether the request changes nothing. A link that ended with its subscription stays ended until the subscription is
/// live again.
fn is_same_billing(current: &Billing, requested: &Billing) -> bool {
    match (current, requested) {
        (Billing::Ended { .. }, Billing::Stripe { .. }) => {
            current.customer() == requested.customer()
                && current.subscription() == requested.subscription()
        }
        _ => current == requested,
    }
}

fn check_etag(put: &PutAccount, before: Option<&Account>) -> Result<()> {
    let Some(given) = &put.etag else {
        return Ok(());
    };
    let actual = before.map(Account::etag).unwrap_or_default();
    if *given == actual {
        return Ok(());
    }
    Err(Error::EtagMismatch {
        given: given.clone(),
        actual,
    })
}

/// Starts the requested link, and moves the customer to the account.
async fn start_link(tx: &Transaction, put: &PutAccount, links: &[Link], now: Millis) -> Result<()> {
    let from = start_of_link(tx, put, links, now).await?;
    let version = links
        .last()
        .map_or(1, |last| last.version.saturating_add(1));
    insert_link(tx, &put.account_id, &put.billing, (version, from), now).await?;
    move_customer(tx, put).await?;
    record_relink(tx, put, from, now).await?;
    Ok(())
}

/// Records that usage from a time on is to be billed although the end of the customer's subscription was requested here
/// before. An end in the future ends this link as well.
async fn record_relink(
    tx: &Transaction,
    put: &PutAccount,
    from: Millis,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    use subscription::Column;
    let Billing::Stripe { customer, .. } = &put.billing else {
        return Ok(());
    };
    let was_ended = Condition::any()
        .add(Column::EndedAt.lte(now))
        .add(Column::CancelAt.is_null());
    let is_earlier = Condition::any()
        .add(Column::RelinkedFrom.is_null())
        .add(Column::RelinkedFrom.gt(from));
    subscription::Entity::update_many()
        .col_expr(Column::RelinkedFrom, Expr::value(from))
        .filter(Column::AccountId.eq(&put.account_id))
        .filter(Column::Customer.eq(customer))
        .filter(Column::EndRequested.eq(true))
        .filter(was_ended)
        .filter(is_earlier)
        .exec(tx)
        .await
        .map(|_| ())
}

/// Assigns the new customer to the account, and releases the old one. A customer belongs to one account at a time.
async fn move_customer(tx: &Transaction, put: &PutAccount) -> Result<()> {
    let customer = put.billing.customer();
    if let Some(customer) = customer {
        let owner = customer::Entity::find_by_id(customer).one(tx).await?;
        if owner.is_some_and(|owner| owner.account_id != put.account_id) {
            return Err(Error::CustomerTaken {
                customer: customer.to_owned(),
            });
        }
    }
    customer::Entity::delete_many()
        .filter(customer::Column::AccountId.eq(&put.account_id))
        .exec(tx)
        .await?;
    if let Some(customer) = customer {
        // Stripe did not say whether there is a subscription, or which.
        let is_start_open = matches!(put.watch, Some(Watch::Unverified | Watch::Problem(_)))
            && put.live.is_none()
            && put.bill_from.is_none()
            && put.current_period.is_none();
        let row = new_row(&put.account_id, customer, put.watch.as_ref(), is_start_open);
        customer::Entity::insert(row)
            .exec_without_returning(tx)
            .await?;
    }
    Ok(())
}

async fn upsert_period(
    tx: &Transaction,
    account_id: &AccountId,
    period: Interval,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    use billing_period::Column;
    let row = billing_period::ActiveModel {
        account_id: Set(account_id.clone()),
        item: Set(UNKNOWN_ITEM.to_owned()),
        period_start: Set(period.start),
        period_end: Set(period.end),
        recorded_at: Set(now),
        ..Default::default()
    };
    let same = OnConflict::columns([Column::AccountId, Column::Item, Column::PeriodStart])
        .update_columns([Column::PeriodEnd, Column::RecordedAt])
        .to_owned();
    billing_period::Entity::insert(row)
        .on_conflict(same)
        .exec_without_returning(tx)
        .await
        .map(|_| ())
}
