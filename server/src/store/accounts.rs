//! Whom accounts bill to: links, customers and billing periods, and what a new boundary does to reports.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait as _,
    QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::{Alias, Expr, ExprTrait as _, OnConflict, Query},
};

use super::{
    Store,
    boundaries::{bump_version, link, read_links},
    reassign::{mark_straddled, reassign_open_reports, relink_reports},
    subscription_changes::has_unfinished,
    subscriptions::record_snapshot,
};
use crate::{
    domain::{
        Millis, SECOND_MS,
        account::{Billing, Link, billed_until, valid_from},
        subscription::SubscriptionSnapshot,
        window::{Interval, Slots},
    },
    entity::{account_link, billing_period, customer, usage_report},
    error::{Error, Result},
};

/// The subscription item of a period while nobody has said which it is.
const UNKNOWN_ITEM: &str = "";
/// How far replicas' clocks may differ without blurring a boundary made here.
const CLOCK_SKEW_MS: Millis = SECOND_MS;
/// Edges of billing periods that one answer may name.
const EDGES_READ: u64 = 1_000;

/// What is to be put.
#[derive(Clone, Debug)]
pub(crate) struct PutAccount {
    /// The account.
    pub(crate) account_id: String,
    /// Whom it bills to from now on.
    pub(crate) billing: Billing,
    /// The current billing period, where it is known.
    pub(crate) current_period: Option<Interval>,
    /// The live subscription that it follows, as Stripe says, where it was asked.
    pub(crate) live: Option<SubscriptionSnapshot>,
    /// From when it bills, where it is stated.
    pub(crate) bill_from: Option<Millis>,
    /// The etag that the caller read, where it cares.
    pub(crate) etag: Option<String>,
}

/// An account as it is.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// The caller's own id.
    pub(crate) id: String,
    /// The link in force.
    pub(crate) link: Link,
    /// The last billing period that is known of the link.
    pub(crate) current_period: Option<Interval>,
}

impl Account {
    /// Changes whenever the account does.
    pub(crate) fn etag(&self) -> String {
        let period = self.current_period.unwrap_or(Interval { start: 0, end: 0 });
        format!("{}.{:x}.{:x}", self.link.version, period.start, period.end)
    }
}

impl Store {
    /// Links an account or says that it is free; putting what is so already changes nothing.
    ///
    /// A new boundary cuts the account's open reports, and the reports that waited for a link get theirs.
    ///
    /// `clock` is read once nobody counts any more: a moment read before could lie behind usage that was
    /// counted while this call waited its turn.
    pub(crate) async fn put_account(
        &self,
        put: &PutAccount,
        slots: Slots,
        clock: impl FnOnce() -> Millis + Send,
    ) -> Result<Account> {
        let tx = self.begin_moving_boundaries().await?;
        let now = first_free_instant(&tx, &put.account_id, clock()).await?;
        let before = find_account(&tx, &put.account_id).await?;
        check_etag(put, before.as_ref())?;
        let links = read_links(&tx, std::iter::once(put.account_id.as_str()))
            .await?
            .remove(&put.account_id)
            .unwrap_or_default();
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
            tx.rollback().await?;
            return Ok(account);
        }
        if !is_same_link {
            let from = match &put.billing {
                Billing::Stripe { customer, .. } => {
                    let period_start =
                        put.current_period.map(|period| period.start).or_else(|| {
                            put.live
                                .as_ref()
                                .and_then(SubscriptionSnapshot::charges_since)
                        });
                    let taken_until = taken_until(&tx, customer, &put.account_id, now).await?;
                    valid_from(
                        &links,
                        customer,
                        taken_until,
                        put.bill_from,
                        period_start,
                        now,
                    )?
                }
                Billing::Ended { .. } | Billing::Free => now,
            };
            let version = links
                .last()
                .map_or(1, |last| last.version.saturating_add(1));
            insert_link(&tx, &put.account_id, &put.billing, (version, from), now).await?;
            move_customer(&tx, put).await?;
        }
        if let Some(period) = put.current_period {
            upsert_period(&tx, &put.account_id, period, now).await?;
        }
        // In the same moment: a report that the link makes billable needs its period to be told from older ones.
        if let Some(snapshot) = &put.live
            && !has_unfinished(&tx, &put.account_id).await?
        {
            let (_, moved) = record_snapshot(&tx, &put.account_id, snapshot, now).await?;
            for boundary in moved {
                mark_straddled(&tx, &put.account_id, boundary).await?;
            }
        }
        reassign_open_reports(&tx, &put.account_id, slots, now).await?;
        if !is_same_link {
            relink_reports(&tx, &put.account_id, now).await?;
        }
        bump_version(&tx).await?;
        let after = find_account(&tx, &put.account_id).await?;
        tx.commit().await?;
        after.ok_or_else(|| Error::AccountNotFound(put.account_id.clone()))
    }

    /// The account, if anybody has put it.
    pub(crate) async fn find_account(&self, account_id: &str) -> Result<Option<Account>> {
        Ok(find_account(&self.reader, account_id).await?)
    }

    /// Accounts that were put, by id, after the one given.
    pub(crate) async fn list_accounts(&self, after: &str, limit: u64) -> Result<Vec<Account>> {
        let newer = Alias::new("newer");
        let is_superseded = Expr::exists(
            Query::select()
                .expr(Expr::val(1))
                .from_as(account_link::Entity, newer.clone())
                .and_where(
                    Expr::col((newer.clone(), account_link::Column::AccountId))
                        .equals((account_link::Entity, account_link::Column::AccountId)),
                )
                .and_where(
                    Expr::col((newer, account_link::Column::Version)).gt(Expr::col((
                        account_link::Entity,
                        account_link::Column::Version,
                    ))),
                )
                .to_owned(),
        );
        let rows = account_link::Entity::find()
            .filter(account_link::Column::AccountId.gt(after))
            .filter(is_superseded.not())
            .order_by_asc(account_link::Column::AccountId)
            .limit(limit)
            .all(&self.reader)
            .await?;
        let names: Vec<&str> = rows.iter().map(|row| row.account_id.as_str()).collect();
        let periods = billing_period::Entity::find()
            .filter(billing_period::Column::AccountId.is_in(names))
            .order_by_asc(billing_period::Column::PeriodStart)
            .all(&self.reader)
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let last = periods.iter().rfind(|period| {
                    period.account_id == row.account_id && period.recorded_at >= row.recorded_at
                });
                account(row, last)
            })
            .collect())
    }

    /// The edges of an account's billing periods, the latest first.
    pub(crate) async fn billing_periods(&self, account_id: &str) -> Result<Vec<Interval>> {
        let rows = billing_period::Entity::find()
            .filter(billing_period::Column::AccountId.eq(account_id))
            .order_by_desc(billing_period::Column::PeriodStart)
            .limit(EDGES_READ)
            .all(&self.reader)
            .await?;
        Ok(rows.iter().map(interval).collect())
    }
}

/// The end of the time in which a customer was another account's.
pub(super) async fn taken_until(
    tx: &DatabaseTransaction,
    customer: &str,
    account_id: &str,
    now: Millis,
) -> std::result::Result<Millis, DbErr> {
    let others: Vec<String> = account_link::Entity::find()
        .select_only()
        .column(account_link::Column::AccountId)
        .distinct()
        .filter(account_link::Column::Customer.eq(customer))
        .filter(account_link::Column::AccountId.ne(account_id))
        .into_tuple()
        .all(tx)
        .await?;
    let links = read_links(tx, others.iter().map(String::as_str)).await?;
    let ends = links
        .values()
        .map(|own| billed_until(own, now, |other| other == customer));
    Ok(ends.max().unwrap_or(Millis::MIN))
}

/// The first moment at or after `now` that lies behind all usage counted so far, where replicas' clocks and
/// the length of a millisecond are the only difference. Usage that a caller dated further ahead stays ahead.
pub(super) async fn first_free_instant(
    tx: &DatabaseTransaction,
    account_id: &str,
    now: Millis,
) -> std::result::Result<Millis, DbErr> {
    let latest: Option<Option<Millis>> = usage_report::Entity::find()
        .select_only()
        .column_as(usage_report::Column::LastAt.max(), "latest")
        .filter(usage_report::Column::AccountId.eq(account_id))
        .filter(usage_report::Column::PeriodEnd.is_null())
        .filter(usage_report::Column::LastAt.lte(now.saturating_add(CLOCK_SKEW_MS)))
        .into_tuple()
        .one(tx)
        .await?;
    let behind = latest.flatten().map_or(now, |at| at.saturating_add(1));
    Ok(Ord::max(now, behind))
}

/// Whether putting `wanted` changes nothing: an end that Stripe said is_up_to_date until Stripe says otherwise.
fn is_same_billing(is_up_to_date: &Billing, wanted: &Billing) -> bool {
    match (is_up_to_date, wanted) {
        (Billing::Ended { .. }, Billing::Stripe { .. }) => {
            is_up_to_date.customer() == wanted.customer()
                && is_up_to_date.subscription() == wanted.subscription()
        }
        _ => is_up_to_date == wanted,
    }
}

fn interval(row: &billing_period::Model) -> Interval {
    Interval {
        start: row.period_start,
        end: row.period_end,
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

/// An account by its latest link, and the latest period that was said of that link: what was said of an
/// earlier one is another customer's or another subscription's.
fn account(row: account_link::Model, period: Option<&billing_period::Model>) -> Account {
    let (id, link) = link(row);
    Account {
        id,
        link,
        current_period: period.map(interval),
    }
}

pub(super) async fn find_account(
    db: &impl ConnectionTrait,
    account_id: &str,
) -> std::result::Result<Option<Account>, DbErr> {
    let row = account_link::Entity::find()
        .filter(account_link::Column::AccountId.eq(account_id))
        .order_by_desc(account_link::Column::Version)
        .one(db)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let period = billing_period::Entity::find()
        .filter(billing_period::Column::AccountId.eq(account_id))
        .filter(billing_period::Column::RecordedAt.gte(row.recorded_at))
        .order_by_desc(billing_period::Column::PeriodStart)
        .one(db)
        .await?;
    Ok(Some(account(row, period.as_ref())))
}

/// Records a link: its version, and from when it is in force.
pub(super) async fn insert_link(
    tx: &DatabaseTransaction,
    account_id: &str,
    billing: &Billing,
    (version, from): (i64, Millis),
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let row = account_link::ActiveModel {
        account_id: Set(account_id.to_owned()),
        version: Set(version),
        valid_from: Set(from),
        customer: Set(billing.customer().map(str::to_owned)),
        subscription: Set(billing.subscription().map(str::to_owned)),
        recorded_at: Set(now),
        ended: Set(matches!(billing, Billing::Ended { .. })),
    };
    account_link::Entity::insert(row)
        .exec_without_returning(tx)
        .await
        .map(|_| ())
}

/// A customer belongs to one account at a time: takes the new one, lets go of the old one.
async fn move_customer(tx: &DatabaseTransaction, put: &PutAccount) -> Result<()> {
    let wanted = put.billing.customer();
    if let Some(wanted) = wanted {
        let owner = customer::Entity::find_by_id(wanted).one(tx).await?;
        if owner.is_some_and(|owner| owner.account_id != put.account_id) {
            return Err(Error::CustomerTaken {
                customer: wanted.to_owned(),
            });
        }
    }
    customer::Entity::delete_many()
        .filter(customer::Column::AccountId.eq(put.account_id.as_str()))
        .exec(tx)
        .await?;
    if let Some(wanted) = wanted {
        let row = customer::ActiveModel {
            customer: Set(wanted.to_owned()),
            account_id: Set(put.account_id.clone()),
        };
        customer::Entity::insert(row)
            .exec_without_returning(tx)
            .await?;
    }
    Ok(())
}

async fn upsert_period(
    tx: &DatabaseTransaction,
    account_id: &str,
    period: Interval,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    use billing_period::Column;
    let row = billing_period::ActiveModel {
        account_id: Set(account_id.to_owned()),
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
