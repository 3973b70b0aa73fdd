//! Queries of links: read them, and record a new one.
//!
//! The effect of a new link on existing reports is in `reassign`.

use std::collections::HashMap;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{ExprTrait as _, Query},
};

use super::{Store, billing_start::read_billing_start, connection::Transaction};
use crate::{
    domain::{
        Millis, SECOND_MS,
        account::{Account, Billing, Link, billed_until},
        account_id::AccountId,
        window::Interval,
    },
    entity::{account_link, billing_period, open_report, subscription},
};

/// The maximum difference of replicas' clocks at which a boundary is still exact.
const CLOCK_SKEW_MS: Millis = SECOND_MS;

/// The accounts of one customer that are read. With more, its usage would not be known.
const MAX_ACCOUNTS_OF_CUSTOMER: u64 = 10_000;

/// The links of some accounts, oldest first for each account.
pub(super) async fn read_links(
    db: &impl ConnectionTrait,
    accounts: impl Iterator<Item = &AccountId>,
) -> Result<HashMap<AccountId, Vec<Link>>, DbErr> {
    let rows = account_link::Entity::find()
        .filter(account_link::Column::AccountId.is_in(accounts))
        .all(db)
        .await?;
    let elsewhere_until = if rows.is_empty() {
        Millis::MIN
    } else {
        read_billing_start(db).await?.moment()
    };
    let mut links: HashMap<AccountId, Vec<Link>> = HashMap::new();
    for row in rows {
        let account_id = row.account_id.clone();
        let link = Link {
            elsewhere_until,
            ..row.into()
        };
        links.entry(account_id).or_default().push(link);
    }
    for own in links.values_mut() {
        own.sort_by_key(|link| link.version);
    }
    Ok(links)
}

/// The links of one account, oldest first.
pub(super) async fn read_links_of(
    db: &impl ConnectionTrait,
    account_id: &AccountId,
) -> Result<Vec<Link>, DbErr> {
    let mut links = read_links(db, std::iter::once(account_id)).await?;
    Ok(links.remove(account_id).unwrap_or_default())
}

/// An account, by its latest link.
pub(super) async fn find_account(
    db: &impl ConnectionTrait,
    account_id: &AccountId,
) -> Result<Option<Account>, DbErr> {
    let row = account_link::Entity::find()
        .filter(account_link::Column::AccountId.eq(account_id))
        .order_by_desc(account_link::Column::Version)
        .one(db)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let companions = Query::select()
        .column(subscription::Column::Subscription)
        .from(subscription::Entity)
        .and_where(subscription::Column::AccountId.eq(account_id))
        .and_where(subscription::Column::IsCompanion.eq(true))
        .to_owned();
    let of_another = billing_period::Column::Subscription.in_subquery(companions);
    let period = billing_period::Entity::find()
        .filter(billing_period::Column::AccountId.eq(account_id))
        // A period that the caller gave has no subscription.
        .filter(
            billing_period::Column::Subscription
                .is_null()
                .or(of_another.not()),
        )
        .filter(billing_period::Column::RecordedAt.gte(row.recorded_at))
        .order_by_desc(billing_period::Column::PeriodStart)
        .one(db)
        .await?;
    Ok(Some(account_of(row, period.as_ref())))
}

/// An account by its latest link, with the latest period of its own subscription that was recorded since then. Earlier
/// periods belong to another customer or subscription.
pub(super) fn account_of(
    row: account_link::Model,
    period: Option<&billing_period::Model>,
) -> Account {
    Account {
        id: row.account_id.clone(),
        link: row.into(),
        current_period: period.map(|period| Interval {
            start: period.period_start,
            end: period.period_end,
        }),
    }
}

/// Records a link with the next version.
pub(super) async fn insert_link(
    tx: &Transaction,
    account_id: &AccountId,
    billing: &Billing,
    (version, from): (i64, Millis),
    now: Millis,
) -> Result<(), DbErr> {
    let row = account_link::ActiveModel {
        account_id: Set(account_id.clone()),
        version: Set(version),
        valid_from: Set(from),
        customer: Set(billing.customer().map(str::to_owned)),
        subscription: Set(billing.subscription().map(str::to_owned)),
        recorded_at: Set(now),
        ended: Set(matches!(billing, Billing::Ended { .. })),
        end_requested: Set(matches!(
            billing,
            Billing::Ended {
                is_requested: true,
                ..
            }
        )),
    };
    account_link::Entity::insert(row)
        .exec_without_returning(tx)
        .await
        .map(|_| ())
}

/// Ends the link to the customer from a time on, as requested here or as found at Stripe. Returns false if it has already
/// ended.
pub(super) async fn end_link(
    tx: &Transaction,
    account: &Account,
    (at, is_requested): (Millis, bool),
    now: Millis,
) -> Result<bool, DbErr> {
    let Billing::Stripe {
        customer,
        subscription,
    } = account.link.billing.clone()
    else {
        return Ok(false);
    };
    let billing = Billing::Ended {
        customer,
        subscription,
        is_requested,
    };
    let version = account.link.version.saturating_add(1);
    insert_link(tx, &account.id, &billing, (version, at), now).await?;
    Ok(true)
}

impl Store {
    /// The accounts that are or were linked to a customer.
    pub(crate) async fn accounts_of(&self, customer: &str) -> crate::error::Result<Vec<AccountId>> {
        Ok(accounts_of_customer(&self.reader, customer).await?)
    }
}

/// The accounts that are or were linked to a customer: one at a time, so they are few.
///
/// # Errors
/// There are too many, or the query fails.
pub(super) async fn accounts_of_customer(
    db: &impl ConnectionTrait,
    customer: &str,
) -> Result<Vec<AccountId>, DbErr> {
    let accounts: Vec<AccountId> = account_link::Entity::find()
        .select_only()
        .column(account_link::Column::AccountId)
        .distinct()
        .filter(account_link::Column::Customer.eq(customer))
        .limit(MAX_ACCOUNTS_OF_CUSTOMER.saturating_add(1))
        .into_tuple()
        .all(db)
        .await?;
    if u64::try_from(accounts.len()).is_ok_and(|len| len > MAX_ACCOUNTS_OF_CUSTOMER) {
        return Err(DbErr::Custom(format!(
            "{customer} was linked to more than {MAX_ACCOUNTS_OF_CUSTOMER} accounts"
        )));
    }
    Ok(accounts)
}

/// The end of the time in which the customer belonged to another account.
pub(super) async fn taken_until(
    tx: &Transaction,
    customer: &str,
    account_id: &AccountId,
    now: Millis,
) -> Result<Millis, DbErr> {
    let others: Vec<AccountId> = account_link::Entity::find()
        .select_only()
        .column(account_link::Column::AccountId)
        .distinct()
        .filter(account_link::Column::Customer.eq(customer))
        .filter(account_link::Column::AccountId.ne(account_id))
        .into_tuple()
        .all(tx)
        .await?;
    let links = read_links(tx, others.iter()).await?;
    let ends = links
        .values()
        .map(|own| billed_until(own, now, |other| other == customer));
    Ok(ends.max().unwrap_or(Millis::MIN))
}

/// The first time at or after `now` that is later than all usage counted so far. This covers only the skew of replicas'
/// clocks: usage that a caller dated further in the future does not move it.
pub(super) async fn first_free_instant(
    tx: &Transaction,
    account_id: &AccountId,
    now: Millis,
) -> Result<Millis, DbErr> {
    let latest: Option<Option<Millis>> = open_report::Entity::find()
        .select_only()
        .column_as(open_report::Column::LastAt.max(), "latest")
        .filter(open_report::Column::AccountId.eq(account_id))
        .filter(open_report::Column::LastAt.lte(now.saturating_add(CLOCK_SKEW_MS)))
        .into_tuple()
        .one(tx)
        .await?;
    let free = latest.flatten().map_or(now, |at| at.saturating_add(1));
    Ok(Ord::max(now, free))
}
