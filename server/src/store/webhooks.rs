//! Webhooks: stored once however often they come, looked at oldest first, and marked when they are handled.
//!
//! A webhook says that something changed, never what is so: that is read from Stripe.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    TryInsertResult,
    sea_query::{Expr, ExprTrait as _},
};

use super::Store;
use crate::{
    domain::Millis,
    entity::webhook_event::{self, Column},
    error::Result,
};

/// How many one statement marks: far below what either engine binds.
const MARKED_AT_ONCE: usize = 1_000;

/// A webhook that was signed right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWebhookEvent {
    /// Stripe's own id, `evt_...`: the same each time it is sent.
    pub id: String,
    /// As Stripe names it, such as `invoice.created`.
    pub kind: String,
    /// The customer that it is about, where it names one.
    pub customer: Option<String>,
    /// The subscription, invoice, customer or meter that it is about, where it names one.
    pub object: Option<String>,
    /// Whether it happened in live mode.
    pub livemode: bool,
    /// When it happened, by Stripe's clock.
    pub created_at: Millis,
}

/// A stored webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookEvent {
    /// What Stripe sent.
    pub event: NewWebhookEvent,
    /// When it came first.
    pub received_at: Millis,
}

impl Store {
    /// Stores a webhook; false when it had come before, and then nothing changes.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn record_webhook_event(&self, new: &NewWebhookEvent, now: Millis) -> Result<bool> {
        let row = webhook_event::ActiveModel {
            id: Set(new.id.clone()),
            kind: Set(new.kind.clone()),
            customer: Set(new.customer.clone()),
            object: Set(new.object.clone()),
            livemode: Set(new.livemode),
            created_at: Set(new.created_at),
            received_at: Set(now),
            handled_at: Set(None),
        };
        let inserted = webhook_event::Entity::insert(row)
            .on_conflict_do_nothing()
            .exec_without_returning(&self.writer)
            .await?;
        Ok(matches!(inserted, TryInsertResult::Inserted(1)))
    }

    /// The webhooks after the one given that are not handled yet, oldest first.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn pending_webhook_events(
        &self,
        after: Option<&WebhookEvent>,
        limit: u64,
    ) -> Result<Vec<WebhookEvent>> {
        let mut query = webhook_event::Entity::find().filter(Column::HandledAt.is_null());
        if let Some(after) = after {
            let place = [Expr::col(Column::ReceivedAt), Expr::col(Column::Id)];
            let last = [
                Expr::value(after.received_at),
                Expr::value(after.event.id.as_str()),
            ];
            query = query.filter(Expr::tuple(place).gt(Expr::tuple(last)));
        }
        let rows = query
            .order_by_asc(Column::ReceivedAt)
            .order_by_asc(Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(WebhookEvent::from).collect())
    }

    /// Marks webhooks as handled; what was marked before keeps its time.
    ///
    /// # Errors
    /// A database that does not answer: some may be marked then, and the others are looked at again.
    pub async fn finish_webhook_events(&self, ids: &[String], now: Millis) -> Result<()> {
        for some in ids.chunks(MARKED_AT_ONCE) {
            webhook_event::Entity::update_many()
                .col_expr(Column::HandledAt, Expr::value(now))
                .filter(Column::Id.is_in(some))
                .filter(Column::HandledAt.is_null())
                .exec(&self.writer)
                .await?;
        }
        Ok(())
    }
}

impl From<webhook_event::Model> for WebhookEvent {
    fn from(row: webhook_event::Model) -> Self {
        Self {
            event: NewWebhookEvent {
                id: row.id,
                kind: row.kind,
                customer: row.customer,
                object: row.object,
                livemode: row.livemode,
                created_at: row.created_at,
            },
            received_at: row.received_at,
        }
    }
}
