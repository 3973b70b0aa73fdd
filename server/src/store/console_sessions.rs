//! Queries of the sessions of the console. A session is found by the hash of its cookie; the cookie itself is stored nowhere.

use sea_orm::{ActiveValue::Set, ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _};

use super::Store;
use crate::{
    domain::{Millis, api_key::KeyId, console_session::SessionHash},
    entity::console_session::{self, Column},
    error::Result,
};

/// A session as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredSession {
    /// The key that was signed in with.
    pub(crate) key: KeyId,
    /// From when on it is not valid.
    pub(crate) expires_at: Millis,
}

impl Store {
    /// Stores a session.
    pub(crate) async fn create_console_session(
        &self,
        hash: &SessionHash,
        session: StoredSession,
        now: Millis,
    ) -> Result<()> {
        let row = console_session::ActiveModel {
            hash: Set(hash.to_text()),
            key_id: Set(session.key.to_string()),
            created_at: Set(now),
            expires_at: Set(session.expires_at),
        };
        console_session::Entity::insert(row)
            .exec_without_returning(&self.writer)
            .await?;
        Ok(())
    }

    /// The session of a cookie with this hash, also one that has ended.
    pub(crate) async fn find_console_session(
        &self,
        hash: &SessionHash,
    ) -> Result<Option<StoredSession>> {
        let found = console_session::Entity::find_by_id(hash.to_text())
            .one(&self.reader)
            .await?;
        let session = |row: console_session::Model| {
            let wrong =
                || DbErr::Type(format!("invalid key_id {} in console_sessions", row.key_id));
            Ok(StoredSession {
                key: KeyId::parse(&row.key_id).ok_or_else(wrong)?,
                expires_at: row.expires_at,
            })
        };
        found.map(session).transpose()
    }

    /// Deletes the session of a cookie with this hash, if there is one.
    pub(crate) async fn delete_console_session(&self, hash: &SessionHash) -> Result<()> {
        console_session::Entity::delete_many()
            .filter(Column::Hash.eq(hash.to_text()))
            .exec(&self.writer)
            .await?;
        Ok(())
    }
}
