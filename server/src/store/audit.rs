//! Queries of audit entries. They are only written and listed; the deletion of an account replaces its id in them, in
//! `account_deletion`.

use std::borrow::Cow;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{Expr, ExprTrait as _},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Store,
    deleted_accounts::{find_deleted, read_salts},
    retried::retried,
};
use crate::{
    domain::{
        Millis,
        account_deletion::UNKNOWN_TOKEN,
        account_id::AccountId,
        api_key::KeyId,
        audit::{Actor, Entry, EntryFilter, NewEntry, Outcome, bounded_json, bounded_message},
    },
    entity::audit_entry::{self, Column},
    error::Result,
};

impl Store {
    /// Writes an entry. One about an account that was deleted does not name it.
    ///
    /// # Errors
    /// The database does not respond.
    pub(crate) async fn write_audit_entry(&self, entry: &NewEntry, now: Millis) -> Result<()> {
        let accounts = entry.accounts();
        if accounts.is_empty() {
            return Ok(write_entry(&self.writer, entry, now).await?);
        }
        retried(|| self.write_audit_entry_once(entry, &accounts, now)).await
    }

    /// The same of an entry about accounts.
    async fn write_audit_entry_once(
        &self,
        entry: &NewEntry,
        accounts: &[AccountId],
        now: Millis,
    ) -> Result<()> {
        // No account is deleted meanwhile: what was written before names it, and is found by its deletion.
        let tx = self.begin_within_boundaries().await?;
        let salts = read_salts(&tx).await?;
        let mut entry = entry.clone();
        for account in find_deleted(&tx, &salts, accounts.iter()).await? {
            entry.rename_account(account, UNKNOWN_TOKEN);
        }
        write_entry(&tx, &entry, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records that a command on the database begins, is done or has failed, for the reason of the message; all have the
    /// same action id.
    ///
    /// # Errors
    /// The database does not respond.
    pub(crate) async fn audit_command(
        &self,
        action: &str,
        action_id: Uuid,
        request: &Value,
        (outcome, message): (Outcome, Option<String>),
    ) -> Result<()> {
        let now = self.shared_now().await?;
        let entry = NewEntry {
            request: Some(request.to_string()),
            outcome,
            message,
            ..NewEntry::done(Actor::command(action_id), action)
        };
        self.write_audit_entry(&entry, now).await?;
        if outcome == Outcome::Done {
            tracing::info!(action, %action_id, %request, "a command changed the database");
        }
        Ok(())
    }

    /// Entries, newest first, after the one with a time and an id.
    ///
    /// # Errors
    /// The database does not respond.
    pub(crate) async fn list_audit_entries(
        &self,
        filter: &EntryFilter,
        after: Option<(Millis, Uuid)>,
        limit: u64,
    ) -> Result<Vec<Entry>> {
        let mut query = audit_entry::Entity::find();
        if let Some(key) = filter.key {
            query = query.filter(Column::KeyId.eq(key.to_string()));
        }
        if let Some(account) = &filter.account_id {
            query = query.filter(Column::AccountId.eq(account));
        }
        if let Some(from) = filter.from {
            query = query.filter(Column::At.gte(from));
        }
        if let Some(until) = filter.until {
            query = query.filter(Column::At.lt(until));
        }
        if let Some((at, id)) = after {
            let place = Expr::tuple([Expr::col(Column::At), Expr::col(Column::Id)]);
            query = query.filter(place.lt(Expr::tuple([Expr::value(at), Expr::value(id)])));
        }
        let rows = query
            .order_by_desc(Column::At)
            .order_by_desc(Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Entry::from).collect())
    }
}

/// Writes an entry, in the transaction of its action or alone.
pub(super) async fn write_entry(
    db: &impl ConnectionTrait,
    entry: &NewEntry,
    now: Millis,
) -> Result<(), DbErr> {
    let actor = &entry.actor;
    let json = |text: &Option<String>| {
        let text = text.as_deref().map(bounded_json);
        text.map(Cow::into_owned)
    };
    let message = entry.message.as_deref().map(bounded_message);
    let row = audit_entry::ActiveModel {
        id: Set(Uuid::now_v7()),
        at: Set(now),
        actor: Set(actor.kind.into()),
        key_id: Set(actor.key.map(|key| key.to_string())),
        key_name: Set(actor.name.clone()),
        address: Set(actor.address.clone()),
        action_id: Set(actor.action_id),
        request_id: Set(actor.request_id.clone()),
        action: Set(entry.action.clone()),
        account_id: Set(entry.account_id.clone()),
        request: Set(json(&entry.request)),
        before: Set(json(&entry.before)),
        after: Set(json(&entry.after)),
        outcome: Set(entry.outcome.into()),
        message: Set(message.map(Cow::into_owned)),
    };
    audit_entry::Entity::insert(row)
        .exec_without_returning(db)
        .await
        .map(|_| ())
}

impl From<audit_entry::Model> for Entry {
    fn from(row: audit_entry::Model) -> Self {
        Self {
            id: row.id,
            at: row.at,
            entry: NewEntry {
                actor: Actor {
                    kind: row.actor.into(),
                    key: row.key_id.as_deref().and_then(KeyId::parse),
                    name: row.key_name,
                    address: row.address,
                    action_id: row.action_id,
                    request_id: row.request_id,
                    is_in_console: false,
                },
                action: row.action,
                account_id: row.account_id,
                request: row.request,
                before: row.before,
                after: row.after,
                outcome: row.outcome.into(),
                message: row.message,
            },
        }
    }
}
