//! Deleting an account: first its usage is refused, then its rows get another id.
//!
//! The first transaction excludes counting for a moment. It checks that nothing is left to be billed, and stores a digest of
//! the id, so that nothing is written under it any more. The second one moves the rows and needs no lock that others wait
//! for. After a crash between the two, deleting the account again continues with the second one.

mod anonymise;
pub(super) mod mentions;
mod obstacles;

use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, QuerySelect as _};

use super::{
    Store,
    account_tables::account_tables,
    connection::Transaction,
    deleted_accounts::{find_deletion, insert_deletion},
    retried::retried,
};
use crate::{
    domain::{
        Millis,
        account_deletion::{DIGESTS_KEPT_MS, Obstacle, SALT_BYTES},
        account_id::AccountId,
    },
    entity::account_link,
    error::{Error, Result},
};

/// How many Stripe customers of an account are named.
const MAX_CUSTOMERS: u64 = 100;

/// What a deletion does, or did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deletion {
    /// When the account was deleted; absent in a preview of one that was not.
    pub(crate) deleted_at: Option<Millis>,
    /// Whether its rows had got another id before.
    pub(crate) was_done: bool,
    /// Why it cannot be deleted now. None unless it is a preview.
    pub(crate) obstacles: Vec<Obstacle>,
    /// The number of rows of each table that get another id or are deleted.
    pub(crate) rows: Vec<(String, i64)>,
    /// The Stripe customers that it was linked to, which stay as they are.
    pub(crate) customers: Vec<String>,
}

impl Deletion {
    /// Until when usage under the id is refused.
    pub(crate) fn refused_until(&self) -> Option<Millis> {
        Some(self.deleted_at?.saturating_add(DIGESTS_KEPT_MS))
    }
}

impl Store {
    /// What deleting an account would do now, and what refuses it.
    ///
    /// # Errors
    /// Nothing is stored of the account.
    pub(crate) async fn preview_deletion(
        &self,
        account_id: &AccountId,
        now: Millis,
    ) -> Result<Deletion> {
        let tx = self.begin_reading().await?;
        let known = find_deletion(&tx, account_id).await?;
        let mut deletion = Deletion {
            deleted_at: known.as_ref().map(|known| known.deleted_at),
            was_done: known
                .as_ref()
                .is_some_and(|known| known.anonymised_at.is_some()),
            ..self.read_deletion(&tx, account_id).await?
        };
        if known.is_none() {
            if deletion.rows.is_empty() {
                tx.rollback().await?;
                return Err(Error::NothingStored(account_id.to_string()));
            }
            deletion.obstacles = obstacles::find(&tx, account_id, now).await?;
        }
        tx.rollback().await?;
        Ok(deletion)
    }

    /// Refuses usage of an account from now on, if nothing of it is left to be billed. Nothing is changed if that was
    /// done before.
    ///
    /// # Errors
    /// Something is left, or nothing is stored of the account.
    pub(crate) async fn begin_deletion(
        &self,
        account_id: &AccountId,
        random: [u8; SALT_BYTES],
        now: Millis,
    ) -> Result<Deletion> {
        retried(|| self.begin_deletion_once(account_id, random, now)).await
    }

    async fn begin_deletion_once(
        &self,
        account_id: &AccountId,
        random: [u8; SALT_BYTES],
        now: Millis,
    ) -> Result<Deletion> {
        // Before the lock: rows of other states than those that refuse the deletion are many.
        let tx = self.begin_reading().await?;
        let stored = self.read_deletion(&tx, account_id).await?;
        tx.rollback().await?;
        let tx = self.begin_requested_change().await?;
        if let Some(known) = find_deletion(&tx, account_id).await? {
            tx.rollback().await?;
            return Ok(Deletion {
                deleted_at: Some(known.deleted_at),
                was_done: known.anonymised_at.is_some(),
                ..stored
            });
        }
        let obstacles = obstacles::find(&tx, account_id, now).await?;
        if !obstacles.is_empty() {
            tx.rollback().await?;
            return Err(Error::AccountNotDeletable(obstacles));
        }
        if stored.rows.is_empty() {
            tx.rollback().await?;
            return Err(Error::NothingStored(account_id.to_string()));
        }
        insert_deletion(&tx, account_id, random, now).await?;
        tx.commit().await?;
        Ok(Deletion {
            deleted_at: Some(now),
            ..stored
        })
    }

    /// Checks that something is stored of an account.
    ///
    /// # Errors
    /// Nothing is; the account may have been deleted.
    pub(crate) async fn check_is_stored(&self, account_id: &AccountId) -> Result<()> {
        let tx = self.begin_reading().await?;
        let rows = self.read_deletion(&tx, account_id).await?.rows;
        let known = find_deletion(&tx, account_id).await?;
        tx.rollback().await?;
        match (rows.is_empty(), known) {
            (false, _) => Ok(()),
            (true, Some(_)) => Err(Error::AccountDeleted),
            (true, None) => Err(Error::NothingStored(account_id.to_string())),
        }
    }

    async fn read_deletion(&self, tx: &Transaction, account_id: &AccountId) -> Result<Deletion> {
        let mut rows = Vec::new();
        for table in account_tables() {
            let count = table.count(tx, account_id).await?;
            if count > 0 {
                rows.push((table.name.to_owned(), count));
            }
        }
        let customers: Vec<Option<String>> = account_link::Entity::find()
            .select_only()
            .column(account_link::Column::Customer)
            .distinct()
            .filter(account_link::Column::AccountId.eq(account_id))
            .filter(account_link::Column::Customer.is_not_null())
            .limit(MAX_CUSTOMERS)
            .into_tuple()
            .all(tx)
            .await?;
        Ok(Deletion {
            rows,
            customers: customers.into_iter().flatten().collect(),
            ..Deletion::default()
        })
    }
}
