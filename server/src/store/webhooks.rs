//! Webhook events: each is stored once, even if Stripe sends it again. They are read oldest first and marked when
//! handled.
//!
//! A webhook event only says which object changed. The object itself is read from Stripe's API.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    TryInsertResult,
    sea_query::{Expr, ExprTrait as _},
};

use super::Store;
use crate::{
    domain::{Millis, webhook::WebhookKind},
    entity::webhook_event::{self, Column},
    error::Result,
};

/// The number of ids in one statement, far below the limit of bound values of either engine.
const IDS_PER_STATEMENT: usize = 1_000;

/// A webhook event with a valid signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWebhookEvent {
    /// Stripe's id of the event, `evt_...`: the same every time it is sent.
    pub id: String,
    /// What it says.
    pub kind: WebhookKind,
    /// The customer that it concerns, if it names one.
    pub customer: Option<String>,
    /// The subscription, invoice, customer or meter that it concerns, if it names one.
    pub object: Option<String>,
    /// Whether it is from live mode.
    pub livemode: bool,
    /// When Stripe created it, by Stripe's clock.
    pub created_at: Millis,
}

/// A stored webhook event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookEvent {
    /// What Stripe sent.
    pub event: NewWebhookEvent,
    /// When it was first received.
    pub received_at: Millis,
}

impl Store {
    /// Stores a webhook event. Returns false if it was stored before; nothing changes then.
    ///
    /// # Errors
    /// The database does not respond.
    pub async fn record_webhook_event(&self, new: &NewWebhookEvent, now: Millis) -> Result<bool> {
        let row = webhook_event::ActiveModel {
            id: Set(new.id.clone()),
            kind: Set(new.kind.name().to_owned()),
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

    /// The webhook events after `after` that are not handled yet, oldest first.
    ///
    /// # Errors
    /// The database does not respond.
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

    /// Marks webhook events as handled. An event that was marked before keeps its time.
    ///
    /// # Errors
    /// The database does not respond. Some events may be marked then; the others are handled again.
    pub async fn finish_webhook_events(&self, ids: &[String], now: Millis) -> Result<()> {
        for chunk in ids.chunks(IDS_PER_STATEMENT) {
            webhook_event::Entity::update_many()
                .col_expr(Column::HandledAt, Expr::value(now))
                .filter(Column::Id.is_in(chunk))
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
                kind: WebhookKind::parse(&row.kind),
                customer: row.customer,
                object: row.object,
                livemode: row.livemode,
                created_at: row.created_at,
            },
            received_at: row.received_at,
        }
    }
}
