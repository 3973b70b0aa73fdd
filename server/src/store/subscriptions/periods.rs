//! Queries of billing periods: their edges and their invoices.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, OnConflict},
};

use crate::store::connection::Transaction;
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        billing_period::{BillingPeriod, RELEVANT_MS, ROLLOVER_MS},
        invoice_draft::InvoiceState,
        read_order::is_outdated,
        subscription::{ItemSnapshot, SubscriptionSnapshot},
        window::Slots,
    },
    entity::billing_period::{self, BillingPeriodInvoiceState},
    error::Result,
    planted_defects::{Defect, planted},
    store::{
        Store, boundaries::record_boundary_change, deleted_accounts::is_deleted,
        reassign::reassign_open_reports, rows, send_order::forget_send_by,
    },
};

/// The maximum number of an account's billing periods that contain one time: one per subscription item.
const MAX_PERIODS_AROUND: u64 = 1_000;

/// The data of an invoice about a billing period.
#[derive(Clone, Debug)]
pub(crate) struct InvoicedPeriod {
    /// The subscription item.
    pub(crate) item: String,
    /// The price that it charges, if the invoice says so.
    pub(crate) price: Option<String>,
    /// The period's start, for a period that is not stored yet.
    pub(crate) start: Millis,
    /// The period's end.
    pub(crate) end: Millis,
    /// The invoice.
    pub(crate) invoice: String,
    /// The state of the invoice.
    pub(crate) state: InvoiceState,
}

impl Store {
    /// Periods that have ended and whose invoices have to be read: the invoice is unknown, or should have become final
    /// by now. Ordered by account, item and start, after the given ones.
    pub(crate) async fn uninvoiced_periods(
        &self,
        now: Millis,
        after: Option<&(AccountId, String, Millis)>,
        limit: u64,
    ) -> Result<Vec<BillingPeriod>> {
        use billing_period::Column;
        let unknown = Column::InvoiceState.eq(BillingPeriodInvoiceState::Unknown);
        let overdue = Column::InvoiceState
            .eq(BillingPeriodInvoiceState::Draft)
            .and(Column::DraftUntil.is_null().or(Column::DraftUntil.lte(now)));
        let mut query = billing_period::Entity::find()
            .filter(Column::PeriodEnd.lte(now))
            .filter(Column::PeriodEnd.gt(now.saturating_sub(RELEVANT_MS)))
            .filter(Column::Subscription.is_not_null())
            // For the partial index.
            .filter(Expr::cust("invoice_state <> 'final'"))
            .filter(unknown.or(overdue));
        if let Some((account, item, start)) = after {
            let place = [Column::AccountId, Column::Item, Column::PeriodStart].map(Expr::col);
            let last = [
                Expr::value(account),
                Expr::value(item.as_str()),
                Expr::value(*start),
            ];
            query = query.filter(Expr::tuple(place).gt(Expr::tuple(last)));
        }
        let periods = query
            .order_by_asc(Column::AccountId)
            .order_by_asc(Column::Item)
            .order_by_asc(Column::PeriodStart)
            .limit(limit)
            .all(&self.reader)
            .await?;
        Ok(rows::all(periods))
    }

    /// Records the invoices of an account's periods, as read at a time. A period that was not known yet adds boundaries.
    /// One whose invoice was read later keeps its state.
    pub(crate) async fn record_invoices(
        &self,
        synced: (&AccountId, &str),
        invoiced: &[InvoicedPeriod],
        slots: Slots,
        (read_at, now): (Millis, Millis),
    ) -> Result<()> {
        let (account_id, subscription) = synced;
        let tx = self.begin_moving_boundaries().await?;
        if is_deleted(&tx, account_id).await? {
            tx.rollback().await?;
            return Ok(());
        }
        let known = periods_of(&tx, account_id, subscription).await?;
        let mut has_new = false;
        for period in invoiced {
            let (state, until) = columns(period.state);
            let row = known
                .iter()
                .find(|row| row.item == period.item && row.period_end == period.end);
            if let Some(row) = row {
                if is_outdated(read_at, row.invoice_read_at, now) {
                    continue;
                }
                update_period(row)
                    .col_expr(billing_period::Column::InvoiceReadAt, Expr::value(read_at))
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
            // The price says which meter the line charges. Of a price that no period has, that is not known.
            let is_priced =
                |row: &&BillingPeriod| period.price.is_none() || row.price == period.price;
            // The nearest one before it: earlier ones may be of a price that was replaced.
            let before = own()
                .filter(is_priced)
                .rfind(|row| row.period_start <= period.start);
            let like = before.or_else(|| own().find(is_priced));
            let Some(like) = like.filter(|_| !is_known) else {
                continue;
            };
            // A whole period passed between two syncs. Only its invoice shows that it existed.
            let row = billing_period::ActiveModel {
                account_id: Set(account_id.clone()),
                item: Set(period.item.clone()),
                period_start: Set(period.start),
                period_end: Set(period.end),
                recorded_at: Set(now),
                subscription: Set(Some(subscription.to_owned())),
                meter: Set(like.meter.clone()),
                price: Set(period.price.clone().or_else(|| like.price.clone())),
                invoice: Set(Some(period.invoice.clone())),
                invoice_state: Set(state),
                draft_until: Set(until),
                invoice_read_at: Set(Some(read_at)),
                ..Default::default()
            };
            has_new |= insert_period(&tx, row).await?;
        }
        if has_new {
            reassign_open_reports(&tx, account_id, slots, now).await?;
            forget_send_by(&tx, account_id).await?;
            record_boundary_change(&tx, account_id, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Records that a period will have no invoice, so that no usage can be added to it, unless its invoice was read later.
    pub(crate) async fn give_up_on_invoice(
        &self,
        period: &BillingPeriod,
        (read_at, now): (Millis, Millis),
    ) -> Result<()> {
        let tx = self.begin().await?;
        let key = (
            period.account_id.clone(),
            period.item.clone(),
            period.period_start,
        );
        let row = billing_period::Entity::find_by_id(key)
            .lock_exclusive()
            .one(&tx)
            .await?;
        if row.is_some_and(|row| !is_outdated(read_at, row.invoice_read_at, now)) {
            finalize_period(period, read_at).exec(&tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Updates the account's billing periods from a snapshot. It was synced before at a time. Returns the boundaries that are new or moved.
pub(super) async fn move_periods(
    tx: &Transaction,
    account_id: &AccountId,
    (snapshot, synced_at): (&SubscriptionSnapshot, Option<Millis>),
    now: Millis,
) -> std::result::Result<Vec<Millis>, DbErr> {
    use billing_period::Column;
    let mut known = periods_of(tx, account_id, &snapshot.subscription).await?;
    let mut moved = Vec::new();
    for row in &mut known {
        let Some((end, is_charged)) = end_of(row, snapshot, now) else {
            continue;
        };
        let change = if is_charged {
            finalize_period(row, snapshot.read_at)
        } else {
            update_period(row)
        };
        change
            .col_expr(Column::PeriodEnd, Expr::value(end))
            .exec(tx)
            .await?;
        row.period_end = end;
        moved.push(end);
    }
    if !snapshot.is_live() {
        return Ok(moved);
    }
    for item in &snapshot.items {
        let charged = item.charged();
        let latest = known
            .iter()
            .filter(|row| row.item == item.item)
            .max_by_key(|row| row.period_start);
        let is_within = |at: &Millis| charged.start < *at && *at < charged.end;
        let starts_at = latest.and_then(|row| {
            let is_cut = is_within(&row.period_end);
            let is_final = row.invoice_state == InvoiceState::Final;
            let is_cut_now = moved.contains(&row.period_end);
            if is_price_replaced(row, item) && is_cut && (is_cut_now || !is_final) {
                return Some(row.period_end);
            }
            // It had another price since, of no configured meter. Stripe does not say until when.
            let was_read =
                synced_at.is_some_and(|at| at > charged.start.saturating_add(ROLLOVER_MS));
            let is_away = is_cut || row.period_end < charged.start && was_read;
            let is_back = is_away && is_final && row.period_end <= now;
            Some(now).filter(|now| is_back && is_within(now))
        });
        if let Some(start) = starts_at {
            let mut row = period_row(account_id, snapshot, item, now);
            row.period_start = Set(start);
            row.bills_from = Set(Some(start));
            if insert_period(tx, row).await? {
                moved.extend([start, charged.end]);
            }
            continue;
        }
        let is_up_to_date = known.iter().any(|row| {
            row.item == item.item
                && (row.period_end > charged.start || row.period_end == charged.end)
        });
        if is_up_to_date || charged.start >= charged.end {
            continue;
        }
        let row = period_row(account_id, snapshot, item, now);
        if insert_period(tx, row).await? {
            moved.extend([charged.start, charged.end]);
        }
    }
    Ok(moved)
}

pub(super) async fn insert_period(
    tx: &Transaction,
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

async fn periods_of(
    tx: &Transaction,
    account_id: &AccountId,
    subscription: &str,
) -> std::result::Result<Vec<BillingPeriod>, DbErr> {
    let periods = billing_period::Entity::find()
        .filter(billing_period::Column::AccountId.eq(account_id))
        .filter(billing_period::Column::Subscription.eq(subscription))
        .order_by_asc(billing_period::Column::PeriodStart)
        .all(tx)
        .await?;
    Ok(rows::all(periods))
}

fn update_period(row: &BillingPeriod) -> sea_orm::UpdateMany<billing_period::Entity> {
    billing_period::Entity::update_many()
        .filter(billing_period::Column::AccountId.eq(&row.account_id))
        .filter(billing_period::Column::Item.eq(&row.item))
        .filter(billing_period::Column::PeriodStart.eq(row.period_start))
}

/// Updates a period whose invoice takes no more usage, as read at a time.
pub(in crate::store) fn finalize_period(
    row: &BillingPeriod,
    read_at: Millis,
) -> sea_orm::UpdateMany<billing_period::Entity> {
    update_period(row)
        .col_expr(
            billing_period::Column::InvoiceState,
            Expr::value(BillingPeriodInvoiceState::Final),
        )
        .col_expr(billing_period::Column::InvoiceReadAt, Expr::value(read_at))
}

pub(super) fn period_row(
    account_id: &AccountId,
    snapshot: &SubscriptionSnapshot,
    item: &ItemSnapshot,
    now: Millis,
) -> billing_period::ActiveModel {
    let charged = item.charged();
    billing_period::ActiveModel {
        account_id: Set(account_id.clone()),
        item: Set(item.item.clone()),
        period_start: Set(charged.start),
        period_end: Set(charged.end),
        recorded_at: Set(now),
        subscription: Set(Some(snapshot.subscription.clone())),
        meter: Set(Some(item.meter.clone())),
        price: Set(Some(item.price.clone())),
        is_trial: Set(snapshot.is_trial(charged.end)),
        ..Default::default()
    }
}

/// The new end of a known period whose end changed, and whether its invoice is final by then.
fn end_of(
    row: &BillingPeriod,
    snapshot: &SubscriptionSnapshot,
    now: Millis,
) -> Option<(Millis, bool)> {
    let current = snapshot.items.iter().find(|item| item.item == row.item);
    // Stripe charges what it did; only its meter is no longer configured. The period stays as it is.
    let price = row.price.as_deref();
    if snapshot.is_live() && current.is_none() && snapshot.has_item(&row.item, price) {
        return None;
    }
    let (end, is_charged) = match current.filter(|_| snapshot.is_live()) {
        None => {
            let gone = snapshot.gone_since(row.meter.as_deref(), row.period_start, now);
            let end = Ord::max(gone, row.period_start.saturating_add(1));
            (Ord::min(end, row.period_end), true)
        }
        Some(_) if row.period_end <= now => return None,
        // Stripe invoices what it has at the old price, or in classic mode not at all. It does not say since when.
        Some(item) if is_price_replaced(row, item) => {
            (Ord::max(now, row.period_start.saturating_add(1)), true)
        }
        Some(item) => {
            let charged = item.charged();
            // The item of a plan change is stored with the change's boundary as its start, before Stripe creates the
            // item.
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

/// Whether an item charges another price than in a period: usage from then on is of a period of its own.
pub(super) fn is_price_replaced(row: &BillingPeriod, item: &ItemSnapshot) -> bool {
    row.item == item.item
        && row.price.as_ref().is_some_and(|price| *price != item.price)
        && !planted(Defect::PriceSwapIgnored)
}

/// An invoice's state as the columns `invoice_state` and `draft_until`.
fn columns(state: InvoiceState) -> (BillingPeriodInvoiceState, Option<Millis>) {
    let until = match state {
        InvoiceState::Draft { until } => until,
        InvoiceState::Unknown | InvoiceState::Final => None,
    };
    (state.into(), until)
}

/// The account's billing periods that contain a time, the last recorded first: candidates, of which the domain chooses.
pub(in crate::store) async fn read_periods_around(
    db: &impl ConnectionTrait,
    account_id: &AccountId,
    at: Millis,
) -> std::result::Result<Vec<BillingPeriod>, DbErr> {
    use billing_period::Column;
    let found = billing_period::Entity::find()
        .filter(Column::AccountId.eq(account_id))
        .filter(Column::PeriodStart.lte(at))
        .filter(Column::PeriodEnd.gt(at))
        .order_by_desc(Column::RecordedAt)
        .limit(MAX_PERIODS_AROUND)
        .all(db)
        .await?;
    Ok(rows::all(found))
}
