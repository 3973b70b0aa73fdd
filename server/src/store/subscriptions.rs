//! What Stripe said of subscriptions: which one an account follows, its billing periods and their invoices.

use std::collections::{HashMap, HashSet};

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DatabaseTransaction, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, OnConflict},
};

use super::{
    Store,
    accounts::{Account, find_account, insert_link, taken_until},
    boundaries::{bump_version, read_links},
    operations::has_unfinished,
    recut::{mark_straddled, recut_open_reports, relink_reports},
};
use crate::{
    entity::{billing_period, customer, subscription},
    error::Result,
    usage::{
        DAY_MS, Millis, SECOND_MS,
        account::{Billing, Link, valid_from},
        invoice::InvoiceState,
        subscription::{Facts, ItemFacts},
        window::Slots,
    },
};

/// Periods that ended longer ago than this are left as they are.
const RELEVANT_MS: Millis = 40 * DAY_MS;

/// A subscription as it stands in the database.
pub(crate) type Followed = subscription::Model;

/// A billing period as it stands in the database.
pub(crate) type Period = billing_period::Model;

/// What an invoice says of a billing period.
#[derive(Clone, Debug)]
pub(crate) struct InvoicedPeriod {
    /// The subscription item.
    pub(crate) item: String,
    /// The period's start, where no row of it exists yet.
    pub(crate) start: Millis,
    /// The period's end.
    pub(crate) end: Millis,
    /// The invoice.
    pub(crate) invoice: String,
    /// Whether it still takes usage.
    pub(crate) state: InvoiceState,
}

impl Store {
    /// The accounts that some customers belong to, by customer.
    pub(crate) async fn accounts_of_customers(
        &self,
        customers: &[&str],
    ) -> Result<HashMap<String, String>> {
        let rows = customer::Entity::find()
            .filter(customer::Column::Customer.is_in(customers.iter().copied()))
            .all(&self.reader)
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| (row.customer, row.account_id))
            .collect())
    }

    /// What is stored of some accounts' subscriptions, each with its latest periods.
    pub(crate) async fn followed(
        &self,
        accounts: &[&str],
        now: Millis,
    ) -> Result<Vec<(Followed, Vec<Period>)>> {
        let rows = subscription::Entity::find()
            .filter(subscription::Column::AccountId.is_in(accounts.iter().copied()))
            .all(&self.reader)
            .await?;
        let periods = billing_period::Entity::find()
            .filter(billing_period::Column::AccountId.is_in(accounts.iter().copied()))
            .filter(billing_period::Column::PeriodEnd.gt(now.saturating_sub(RELEVANT_MS)))
            .all(&self.reader)
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let own = periods.iter().filter(|period| {
                    period.account_id == row.account_id
                        && period.subscription.as_deref() == Some(&row.subscription)
                });
                let own = own.cloned().collect();
                (row, own)
            })
            .collect())
    }

    /// Subscriptions that are not known to have ended and were not looked at since a moment, by when they
    /// were looked at last.
    pub(crate) async fn unseen_subscriptions(
        &self,
        since: Millis,
        limit: u64,
    ) -> Result<Vec<Followed>> {
        Ok(subscription::Entity::find()
            .filter(subscription::Column::EndedAt.is_null())
            .filter(subscription::Column::SyncedAt.lt(since))
            .order_by_asc(subscription::Column::SyncedAt)
            .limit(limit)
            .all(&self.reader)
            .await?)
    }

    /// Subscriptions that somebody needs the truth of.
    pub(crate) async fn wanted_subscriptions(&self, limit: u64) -> Result<Vec<Followed>> {
        Ok(subscription::Entity::find()
            .filter(subscription::Column::WantedAt.is_not_null())
            .order_by_asc(subscription::Column::WantedAt)
            .limit(limit)
            .all(&self.reader)
            .await?)
    }

    /// Notes that subscriptions were looked at and stand as they were.
    pub(crate) async fn touch_subscriptions(&self, seen: &[String], now: Millis) -> Result<()> {
        subscription::Entity::update_many()
            .col_expr(subscription::Column::SyncedAt, Expr::value(now))
            .filter(subscription::Column::Subscription.is_in(seen))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Notes that nobody needs the truth of a subscription more than was wanted at a moment.
    pub(crate) async fn satisfy(&self, wanted: &Followed) -> Result<()> {
        subscription::Entity::update_many()
            .col_expr(subscription::Column::WantedAt, Expr::value(None::<i64>))
            .filter(subscription::Column::AccountId.eq(&wanted.account_id))
            .filter(subscription::Column::Subscription.eq(&wanted.subscription))
            .filter(subscription::Column::WantedAt.eq(wanted.wanted_at))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Periods that have ended and whose invoices are not known to be final, with what is due to be asked:
    /// nothing is known of them, or their drafts should have ended.
    pub(crate) async fn uninvoiced_periods(&self, now: Millis, limit: u64) -> Result<Vec<Period>> {
        use billing_period::Column;
        let unknown = Column::InvoiceState.eq(InvoiceState::Unknown.name());
        let overdue = Column::InvoiceState
            .eq("draft")
            .and(Column::DraftUntil.is_null().or(Column::DraftUntil.lte(now)));
        Ok(billing_period::Entity::find()
            .filter(Column::PeriodEnd.lte(now))
            .filter(Column::PeriodEnd.gt(now.saturating_sub(RELEVANT_MS)))
            .filter(Column::Subscription.is_not_null())
            .filter(unknown.or(overdue))
            .order_by_asc(Column::PeriodEnd)
            .limit(limit)
            .all(&self.reader)
            .await?)
    }

    /// Records what invoices say of an account's periods; a period that nobody has seen yet is a boundary.
    pub(crate) async fn record_invoices(
        &self,
        followed: (&str, &str),
        invoiced: &[InvoicedPeriod],
        slots: Slots,
        now: Millis,
    ) -> Result<()> {
        let (account_id, subscription) = followed;
        let tx = self.begin_moving_boundaries().await?;
        let known = periods_of(&tx, account_id, subscription).await?;
        let mut has_new = false;
        for period in invoiced {
            let (state, until) = parts(period.state);
            let row = known
                .iter()
                .find(|row| row.item == period.item && row.period_end == period.end);
            if let Some(row) = row {
                update_period(row)
                    .col_expr(
                        billing_period::Column::Invoice,
                        Expr::value(&period.invoice),
                    )
                    .col_expr(billing_period::Column::InvoiceState, Expr::value(state))
                    .col_expr(billing_period::Column::DraftUntil, Expr::value(until))
                    .exec(&tx)
                    .await?;
                continue;
            }
            let own = || known.iter().filter(|row| row.item == period.item);
            let is_known =
                own().any(|row| row.period_start < period.end && row.period_end > period.start);
            let Some(like) = own().next().filter(|_| !is_known) else {
                continue;
            };
            // A whole period went by without a look: its invoice says that it was.
            let row = billing_period::ActiveModel {
                account_id: Set(account_id.to_owned()),
                item: Set(period.item.clone()),
                period_start: Set(period.start),
                period_end: Set(period.end),
                recorded_at: Set(now),
                subscription: Set(Some(subscription.to_owned())),
                meter: Set(like.meter.clone()),
                price: Set(like.price.clone()),
                invoice: Set(Some(period.invoice.clone())),
                invoice_state: Set(state.to_owned()),
                draft_until: Set(until),
                ..Default::default()
            };
            has_new |= insert_period(&tx, row).await?;
        }
        if has_new {
            recut_open_reports(&tx, account_id, slots, now).await?;
            bump_version(&tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Says that no invoice of a period will ever be found: it takes no usage any more.
    pub(crate) async fn give_up_on_invoice(&self, period: &Period) -> Result<()> {
        let tx = self.begin().await?;
        update_period(period)
            .col_expr(
                billing_period::Column::InvoiceState,
                Expr::value(InvoiceState::Final.name()),
            )
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Makes what Stripe says of an account's subscription true here; false where it was already.
    pub(crate) async fn apply_facts(
        &self,
        account_id: &str,
        facts: &Facts,
        slots: Slots,
        now: Millis,
    ) -> Result<bool> {
        let tx = self.begin_moving_boundaries().await?;
        let Some(account) = find_account(&tx, account_id).await? else {
            tx.rollback().await?;
            return Ok(false);
        };
        // Who changes the subscription says himself what comes of it.
        if has_unfinished(&tx, account_id).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        let (is_new, mut moved) = record_facts(&tx, account_id, facts, now).await?;
        let is_relinked = move_link(&tx, &account, facts, now).await?;
        if is_relinked {
            moved.extend(facts.ended_at);
        }
        if !moved.is_empty() {
            for boundary in &moved {
                mark_straddled(&tx, account_id, *boundary).await?;
            }
            recut_open_reports(&tx, account_id, slots, now).await?;
            if is_relinked {
                relink_reports(&tx, account_id, now).await?;
            }
            bump_version(&tx).await?;
        } else if is_relinked {
            recut_open_reports(&tx, account_id, slots, now).await?;
            relink_reports(&tx, account_id, now).await?;
            bump_version(&tx).await?;
        }
        tx.commit().await?;
        Ok(is_new || is_relinked || !moved.is_empty())
    }

    /// Ends what is billed to accounts whose subscriptions were known to end by now.
    pub(crate) async fn end_due_subscriptions(&self, slots: Slots, now: Millis) -> Result<u64> {
        const A_LOOK: u64 = 500;
        let due = subscription::Entity::find()
            .filter(subscription::Column::CancelAt.lte(now))
            .filter(subscription::Column::EndedAt.is_null())
            .limit(A_LOOK)
            .all(&self.reader)
            .await?;
        let mut ended = 0_u64;
        for row in due {
            let tx = self.begin_moving_boundaries().await?;
            let account = find_account(&tx, &row.account_id).await?;
            let at = row.cancel_at.unwrap_or(now);
            let is_ended = match &account {
                Some(account) if bills_to(account, &row.customer) => {
                    end_link(&tx, account, at, now).await?
                }
                _ => false,
            };
            if is_ended {
                mark_straddled(&tx, &row.account_id, at).await?;
                recut_open_reports(&tx, &row.account_id, slots, now).await?;
                relink_reports(&tx, &row.account_id, now).await?;
                bump_version(&tx).await?;
                ended = ended.saturating_add(1);
            }
            // Whether Stripe thinks so too is asked at once.
            want(&tx, &row.account_id, &row.subscription, now).await?;
            subscription::Entity::update_many()
                .col_expr(subscription::Column::CancelAt, Expr::value(None::<i64>))
                .filter(subscription::Column::AccountId.eq(&row.account_id))
                .filter(subscription::Column::Subscription.eq(&row.subscription))
                .exec(&tx)
                .await?;
            tx.commit().await?;
        }
        Ok(ended)
    }

    /// Notes that Stripe has a customer no more: what an invoice would have charged is parked, not missed.
    pub(crate) async fn note_customer_gone(
        &self,
        account_id: &str,
        customer: &str,
        now: Millis,
    ) -> Result<()> {
        use subscription::Column;
        subscription::Entity::update_many()
            .col_expr(Column::CustomerGoneAt, Expr::value(now))
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::Customer.eq(customer))
            .filter(Column::CustomerGoneAt.is_null())
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Ends what is billed to a customer that is gone.
    pub(crate) async fn end_customer(
        &self,
        account_id: &str,
        customer: &str,
        slots: Slots,
        now: Millis,
    ) -> Result<bool> {
        let tx = self.begin_moving_boundaries().await?;
        let ended = match find_account(&tx, account_id).await? {
            Some(account) if bills_to(&account, customer) => {
                end_link(&tx, &account, now, now).await?
            }
            _ => false,
        };
        if ended {
            recut_open_reports(&tx, account_id, slots, now).await?;
            relink_reports(&tx, account_id, now).await?;
            bump_version(&tx).await?;
        }
        tx.commit().await?;
        Ok(ended)
    }
}

/// Whether what is stored says the same as Stripe does, so that nothing needs a lock.
pub(crate) fn stands(
    stored: &Followed,
    periods: &[Period],
    link_ended: bool,
    facts: &Facts,
) -> bool {
    let is_same = stored.status == facts.status
        && stored.billing_mode == facts.billing_mode
        && (stored.cancel_at == facts.cancel_at || facts.ended_at.is_some())
        && stored.ended_at == facts.ended_at
        && stored.customer == facts.customer;
    let has_all = facts.items.iter().all(|item| {
        facts.ended_at.is_some()
            || periods
                .iter()
                .any(|period| period.item == item.item && period.period_end == item.period.end)
    });
    let items: HashSet<&str> = facts.items.iter().map(|item| item.item.as_str()).collect();
    let last = facts.items.iter().map(|item| item.period.end).min();
    let has_more = periods.iter().any(|period| {
        !items.contains(period.item.as_str()) && last.is_some_and(|last| period.period_end >= last)
    });
    is_same && has_all && !has_more && (link_ended != facts.is_live || facts.items.is_empty())
}

/// Asks the sync for a subscription's truth before the next poll.
pub(super) async fn want(
    tx: &DatabaseTransaction,
    account_id: &str,
    subscription: &str,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    subscription::Entity::update_many()
        .col_expr(subscription::Column::WantedAt, Expr::value(now))
        .filter(subscription::Column::AccountId.eq(account_id))
        .filter(subscription::Column::Subscription.eq(subscription))
        .filter(subscription::Column::WantedAt.is_null())
        .exec(tx)
        .await
        .map(|_| ())
}

fn parts(state: InvoiceState) -> (&'static str, Option<Millis>) {
    let until = match state {
        InvoiceState::Draft { until } => until,
        InvoiceState::Unknown | InvoiceState::Final => None,
    };
    (state.name(), until)
}

fn bills_to(account: &Account, customer: &str) -> bool {
    matches!(&account.link.billing, Billing::Stripe { customer: own, .. } if own == customer)
}

fn update_period(row: &Period) -> sea_orm::UpdateMany<billing_period::Entity> {
    billing_period::Entity::update_many()
        .filter(billing_period::Column::AccountId.eq(&row.account_id))
        .filter(billing_period::Column::Item.eq(&row.item))
        .filter(billing_period::Column::PeriodStart.eq(row.period_start))
}

async fn periods_of(
    tx: &DatabaseTransaction,
    account_id: &str,
    subscription: &str,
) -> std::result::Result<Vec<Period>, DbErr> {
    billing_period::Entity::find()
        .filter(billing_period::Column::AccountId.eq(account_id))
        .filter(billing_period::Column::Subscription.eq(subscription))
        .order_by_asc(billing_period::Column::PeriodStart)
        .all(tx)
        .await
}

async fn insert_period(
    tx: &DatabaseTransaction,
    row: billing_period::ActiveModel,
) -> std::result::Result<bool, DbErr> {
    use billing_period::Column;
    let same = OnConflict::columns([Column::AccountId, Column::Item, Column::PeriodStart])
        .do_nothing()
        .to_owned();
    let inserted = billing_period::Entity::insert(row)
        .on_conflict(same)
        .exec_without_returning(tx)
        .await;
    match inserted {
        Ok(rows) => Ok(rows > 0),
        Err(DbErr::RecordNotInserted) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn upsert_subscription(
    tx: &DatabaseTransaction,
    account_id: &str,
    facts: &Facts,
    now: Millis,
) -> std::result::Result<bool, DbErr> {
    use subscription::Column;
    let before =
        subscription::Entity::find_by_id((account_id.to_owned(), facts.subscription.clone()))
            .one(tx)
            .await?;
    let row = subscription::ActiveModel {
        account_id: Set(account_id.to_owned()),
        subscription: Set(facts.subscription.clone()),
        customer: Set(facts.customer.clone()),
        status: Set(facts.status.clone()),
        billing_mode: Set(facts.billing_mode.clone()),
        cancel_at: Set(facts.cancel_at.filter(|_| facts.is_live)),
        ended_at: Set(facts.ended_at.filter(|_| !facts.is_live)),
        synced_at: Set(now),
        wanted_at: Set(None),
        customer_gone_at: Set(None),
    };
    let same = OnConflict::columns([Column::AccountId, Column::Subscription])
        .update_columns([
            Column::Customer,
            Column::Status,
            Column::BillingMode,
            Column::CancelAt,
            Column::EndedAt,
            Column::SyncedAt,
        ])
        .to_owned();
    subscription::Entity::insert(row)
        .on_conflict(same)
        .exec_without_returning(tx)
        .await?;
    Ok(before.is_none_or(|before| before.status != facts.status))
}

/// Records what Stripe says of an account's subscription; answers whether that is news, and the boundaries that
/// came or moved.
pub(super) async fn record_facts(
    tx: &DatabaseTransaction,
    account_id: &str,
    facts: &Facts,
    now: Millis,
) -> std::result::Result<(bool, Vec<Millis>), DbErr> {
    let is_new = upsert_subscription(tx, account_id, facts, now).await?;
    Ok((is_new, move_periods(tx, account_id, facts, now).await?))
}

/// Makes the account's billing periods what the items say; answers the boundaries that came or moved.
async fn move_periods(
    tx: &DatabaseTransaction,
    account_id: &str,
    facts: &Facts,
    now: Millis,
) -> std::result::Result<Vec<Millis>, DbErr> {
    use billing_period::Column;
    let mut known = periods_of(tx, account_id, &facts.subscription).await?;
    let mut moved = Vec::new();
    for row in &mut known {
        let Some((end, is_charged)) = end_of(row, facts, now) else {
            continue;
        };
        let mut change = update_period(row).col_expr(Column::PeriodEnd, Expr::value(end));
        if is_charged {
            let state = InvoiceState::Final.name();
            change = change.col_expr(Column::InvoiceState, Expr::value(state));
        }
        change.exec(tx).await?;
        row.period_end = end;
        moved.push(end);
    }
    if !facts.is_live {
        return Ok(moved);
    }
    for item in &facts.items {
        let charged = item.charged();
        let stands = known.iter().any(|row| {
            row.item == item.item
                && (row.period_end > charged.start || row.period_end == charged.end)
        });
        if stands || charged.start >= charged.end {
            continue;
        }
        let row = period_row(account_id, facts, item, now);
        if insert_period(tx, row).await? {
            moved.extend([charged.start, charged.end]);
        }
    }
    Ok(moved)
}

/// Records what a change made of a subscription: its new items charge from the boundary on here, and from
/// when they were made at Stripe.
pub(super) async fn record_change(
    tx: &DatabaseTransaction,
    account_id: &str,
    facts: &Facts,
    boundary: Millis,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    upsert_subscription(tx, account_id, facts, now).await?;
    if !facts.is_live {
        return Ok(());
    }
    for item in &facts.items {
        let charged = item.charged();
        // What stood before the change goes on as it was.
        if item.created < boundary.saturating_sub(SECOND_MS) || charged.end <= boundary {
            continue;
        }
        let mut row = period_row(account_id, facts, item, now);
        row.period_start = Set(boundary);
        row.bills_from = Set(Some(Ord::max(charged.start, boundary)));
        insert_period(tx, row).await?;
    }
    Ok(())
}

fn period_row(
    account_id: &str,
    facts: &Facts,
    item: &ItemFacts,
    now: Millis,
) -> billing_period::ActiveModel {
    let charged = item.charged();
    billing_period::ActiveModel {
        account_id: Set(account_id.to_owned()),
        item: Set(item.item.clone()),
        period_start: Set(charged.start),
        period_end: Set(charged.end),
        recorded_at: Set(now),
        subscription: Set(Some(facts.subscription.clone())),
        meter: Set(Some(item.meter.clone())),
        price: Set(Some(item.price.clone())),
        ..Default::default()
    }
}

/// Where a known period ends otherwise than was thought, and whether it has been charged by then.
fn end_of(row: &Period, facts: &Facts, now: Millis) -> Option<(Millis, bool)> {
    let current = facts.items.iter().find(|item| item.item == row.item);
    let (end, is_charged) = match current.filter(|_| facts.is_live) {
        None => {
            let gone = facts.gone_since(row.meter.as_deref(), row.period_start, now);
            let end = Ord::max(gone, row.period_start.saturating_add(1));
            (Ord::min(end, row.period_end), true)
        }
        Some(_) if row.period_end <= now => return None,
        Some(item) => {
            let charged = item.charged();
            // An item may be known from before it was made: from when it was asked for.
            let is_same = charged.start <= row.period_start || charged.start == item.created;
            if is_same {
                (charged.end, false)
            } else {
                (Ord::min(charged.start, row.period_end), true)
            }
        }
    };
    (end != row.period_end).then_some((end, is_charged))
}

/// Ends what the account bills to, or begins it again, where the subscription did.
async fn move_link(
    tx: &DatabaseTransaction,
    account: &Account,
    facts: &Facts,
    now: Millis,
) -> std::result::Result<bool, DbErr> {
    if account.link.billing.customer() != Some(&facts.customer) {
        return Ok(false);
    }
    match (&account.link.billing, facts.is_live) {
        (Billing::Stripe { .. }, false) => {
            let at = Ord::min(facts.ended_at.unwrap_or(now), now);
            end_link(tx, account, at, now).await
        }
        // One that should have ended by now is not begun again because Stripe is a moment late.
        (Billing::Ended { subscription, .. }, true)
            if facts.cancel_at.is_none_or(|at| at > now) =>
        {
            let Some(since) = facts.charges_since() else {
                return Ok(false);
            };
            let links = read_links(tx, std::iter::once(account.id.as_str()))
                .await?
                .remove(&account.id)
                .unwrap_or_default();
            let taken = taken_until(tx, &facts.customer, &account.id, now).await?;
            let from = valid_from(&links, &facts.customer, taken, None, Some(since), now)
                .map_err(|refusal| DbErr::Custom(refusal.message))?;
            let version = account.link.version.saturating_add(1);
            let billing = Billing::Stripe {
                customer: facts.customer.clone(),
                subscription: subscription.as_ref().map(|_| facts.subscription.clone()),
            };
            insert_link(tx, &account.id, &billing, (version, from), now).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Remembers the customer, and bills nothing to it from a moment on; false where that is so already.
pub(super) async fn end_link(
    tx: &DatabaseTransaction,
    account: &Account,
    at: Millis,
    now: Millis,
) -> std::result::Result<bool, DbErr> {
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
    };
    let version = account.link.version.saturating_add(1);
    insert_link(tx, &account.id, &billing, (version, at), now).await?;
    Ok(true)
}

impl Store {
    /// The latest link of each of some accounts.
    pub(crate) async fn links_of_accounts(
        &self,
        accounts: &[&str],
    ) -> Result<HashMap<String, Link>> {
        let links = read_links(&self.reader, accounts.iter().copied()).await?;
        Ok(links
            .into_iter()
            .filter_map(|(account_id, mut own)| Some((account_id, own.pop()?)))
            .collect())
    }
}
