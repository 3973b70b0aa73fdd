//! Which accounts were deleted: digests of their ids, and whether an account has one.
//!
//! A deletion first stores the digest, excluding everything that counts or moves boundaries. Whatever writes rows about an
//! account reads the digests in its transaction, and holds the boundary lock shared or alone: so nothing is written under
//! the id after that.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::BoxFuture;
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, Condition, ConnectionTrait, DbErr, EntityTrait as _, PaginatorTrait as _,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, Select,
    sea_query::{Expr, ExprTrait as _},
};

use super::{Store, boundaries::forget_all_boundaries, connection::Transaction};
use crate::{
    domain::{
        MINUTE_MS, Millis,
        account_deletion::{DIGESTS_KEPT_MS, SALT_BYTES, SALT_USED_MS, Salt, is_token},
        account_id::AccountId,
    },
    entity::{
        audit_entry,
        deleted_account::{self, Column},
        deletion_salt,
    },
    error::{Error, Result},
};

/// More salts than can be in use: there is one for each week in which digests are kept, and a deletion that has not ended
/// keeps older ones.
const MAX_SALTS: u64 = 1_000;
/// How many digests one query looks up.
const DIGESTS_PER_QUERY: usize = 5_000;
/// How many digests one step deletes.
const DIGESTS_PER_STEP: u64 = 1_000;
/// The action whose audit entries name accounts that are being deleted.
pub(crate) const DELETE_ACCOUNT: &str = "DeleteAccount";
/// How long before or after the time of a deletion the entry of its beginning is: the clocks of replicas may differ by
/// minutes.
const BEGUN_WITHIN_MS: Millis = 10 * MINUTE_MS;
/// How many of these entries are read.
const MAX_ENTRIES: u64 = 1_000;

/// The salts of the digests that are kept.
pub(super) type Salts = Arc<[Salt]>;

/// The salts of the digests that are kept; none if no account was deleted lately.
pub(super) async fn read_salts(db: &impl ConnectionTrait) -> std::result::Result<Salts, DbErr> {
    let rows = deletion_salt::Entity::find()
        .order_by_desc(deletion_salt::Column::CreatedAt)
        .limit(MAX_SALTS)
        .all(db)
        .await?;
    let salt = |row: deletion_salt::Model| {
        let wrong = || DbErr::Type("invalid salt in table deletion_salts".to_owned());
        Salt::from_text(&row.salt).ok_or_else(wrong)
    };
    rows.into_iter().map(salt).collect()
}

/// Those of some accounts that have a digest.
pub(super) async fn find_deleted<'a>(
    db: &impl ConnectionTrait,
    salts: &[Salt],
    accounts: impl Iterator<Item = &'a AccountId>,
) -> std::result::Result<HashSet<&'a AccountId>, DbErr> {
    let mut deleted = HashSet::new();
    if salts.is_empty() {
        return Ok(deleted);
    }
    let digests: Vec<(String, &AccountId)> = accounts
        .flat_map(|account| {
            salts
                .iter()
                .map(move |salt| (salt.digest(account), account))
        })
        .collect();
    for some in digests.chunks(DIGESTS_PER_QUERY) {
        let known: Vec<String> = deleted_account::Entity::find()
            .select_only()
            .column(Column::Digest)
            .filter(Column::Digest.is_in(some.iter().map(|(digest, _)| digest.as_str())))
            .into_tuple()
            .all(db)
            .await?;
        let known: HashSet<String> = known.into_iter().collect();
        let found = some.iter().filter(|(digest, _)| known.contains(digest));
        deleted.extend(found.map(|(_, account)| *account));
    }
    Ok(deleted)
}

/// Whether an account was deleted: its rows have another id, or are getting one. The rows of that id stay in use.
pub(super) async fn is_deleted(
    db: &impl ConnectionTrait,
    account_id: &AccountId,
) -> std::result::Result<bool, DbErr> {
    Ok(find_deletion(db, account_id).await?.is_some())
}

/// Refuses a caller's change of a deleted account, under its id and under that of its rows.
pub(super) async fn check_not_deleted(
    db: &impl ConnectionTrait,
    account_id: &AccountId,
) -> Result<()> {
    if is_token(account_id) || is_deleted(db, account_id).await? {
        return Err(Error::AccountDeleted);
    }
    Ok(())
}

/// The row of a deleted account; absent if it was not deleted. Boxed: the compiler limits how deep futures are nested.
pub(super) fn find_deletion<'a>(
    db: &'a impl ConnectionTrait,
    account_id: &'a AccountId,
) -> BoxFuture<'a, std::result::Result<Option<deleted_account::Model>, DbErr>> {
    Box::pin(async move {
        let salts = read_salts(db).await?;
        let digests: Vec<String> = salts.iter().map(|salt| salt.digest(account_id)).collect();
        if digests.is_empty() {
            return Ok(None);
        }
        deleted_account::Entity::find()
            .filter(Column::Digest.is_in(digests))
            .one(db)
            .await
    })
}

/// Stores the digest of an account's id. The caller has the boundary lock alone. Every replica reads all boundaries again:
/// the change is not recorded with an account, because that would keep the id.
pub(super) async fn insert_deletion(
    tx: &Transaction,
    account_id: &AccountId,
    random: [u8; SALT_BYTES],
    now: Millis,
) -> Result<()> {
    let latest = deletion_salt::Entity::find()
        .order_by_desc(deletion_salt::Column::CreatedAt)
        .one(tx)
        .await?;
    // A time ahead was stored by a wrong clock. Another salt for each deletion until then would slow down every look-up.
    let is_in_use = |row: &deletion_salt::Model| now < row.created_at.saturating_add(SALT_USED_MS);
    let salt = if let Some(row) = latest.filter(is_in_use) {
        Salt::from_text(&row.salt)
            .ok_or_else(|| Error::Internal("a stored salt cannot be read".into()))?
    } else {
        let salt = Salt::new(random);
        let row = deletion_salt::ActiveModel {
            salt: Set(salt.to_text()),
            created_at: Set(now),
        };
        deletion_salt::Entity::insert(row)
            .exec_without_returning(tx)
            .await?;
        salt
    };
    let row = deleted_account::ActiveModel {
        digest: Set(salt.digest(account_id)),
        version: Set(forget_all_boundaries(tx).await?),
        deleted_at: Set(now),
        anonymised_at: Set(None),
    };
    deleted_account::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// A deletion that was begun and has not ended: usage of the account is refused, and its rows still have its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnfinishedDeletion {
    /// When it was begun.
    pub(crate) deleted_at: Millis,
    /// The account, by the audit entry of that time; absent if there is none any more.
    pub(crate) account_id: Option<AccountId>,
}

fn unfinished() -> Select<deleted_account::Entity> {
    deleted_account::Entity::find().filter(Column::AnonymisedAt.is_null())
}

impl Store {
    /// The number of deletions that were begun and have not ended.
    pub(crate) async fn count_unfinished_deletions(&self) -> Result<u64> {
        Ok(unfinished().count(&self.reader).await?)
    }

    /// Deletions that were begun and have not ended, the oldest first.
    pub(crate) async fn unfinished_deletions(&self, limit: u64) -> Result<Vec<UnfinishedDeletion>> {
        let rows = unfinished()
            .order_by_asc(Column::DeletedAt)
            .limit(limit)
            .all(&self.reader)
            .await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let salts = read_salts(&self.reader).await?;
        let mut found = Vec::new();
        for row in rows {
            found.push(UnfinishedDeletion {
                account_id: self.find_id_of(&row, &salts).await?,
                deleted_at: row.deleted_at,
            });
        }
        Ok(found)
    }

    /// The account of a digest. The entry of its deletion names it until its rows have another id.
    async fn find_id_of(
        &self,
        row: &deleted_account::Model,
        salts: &[Salt],
    ) -> std::result::Result<Option<AccountId>, DbErr> {
        use audit_entry::Column as A;
        let (from, until) = (
            row.deleted_at.saturating_sub(BEGUN_WITHIN_MS),
            row.deleted_at.saturating_add(BEGUN_WITHIN_MS),
        );
        let named: Vec<Option<String>> = audit_entry::Entity::find()
            .select_only()
            .column(A::AccountId)
            .filter(A::At.gte(from))
            .filter(A::At.lt(until))
            .filter(A::Action.eq(DELETE_ACCOUNT))
            .order_by_desc(A::At)
            .limit(MAX_ENTRIES)
            .into_tuple()
            .all(&self.reader)
            .await?;
        let mut ids = named
            .into_iter()
            .flatten()
            .filter_map(|id| AccountId::parse(&id).ok());
        Ok(ids.find(|id| salts.iter().any(|salt| salt.digest(id) == row.digest)))
    }

    /// What is another value once the rows of an account have got another id: the version of the latest deletion, and how many
    /// have not ended. A deletion begins with the boundary lock, which orders versions, so one that begins later has a greater
    /// one. While none begins, each one that ends leaves fewer. The latest is read first: what begins in between is in the second.
    pub(crate) async fn deletions_seen(&self) -> Result<(Option<i64>, u64)> {
        let latest: Option<i64> = deleted_account::Entity::find()
            .select_only()
            .column(Column::Version)
            .order_by_desc(Column::Version)
            .limit(1)
            .into_tuple()
            .one(&self.reader)
            .await?;
        Ok((latest, self.count_unfinished_deletions().await?))
    }

    /// Whether the rows of an account have another id.
    pub(crate) async fn was_anonymised(&self, account_id: &AccountId) -> Result<bool> {
        let known = find_deletion(&self.reader, account_id).await?;
        Ok(known.is_some_and(|known| known.anonymised_at.is_some()))
    }

    /// Whether an account was deleted after a time, of which keys may be left.
    pub(super) async fn has_deletion_after(
        &self,
        time: Millis,
    ) -> std::result::Result<bool, DbErr> {
        let later: Option<Millis> = deleted_account::Entity::find()
            .select_only()
            .column(Column::DeletedAt)
            .filter(Column::DeletedAt.gt(time))
            .order_by_desc(Column::DeletedAt)
            .limit(1)
            .into_tuple()
            .one(&self.reader)
            .await?;
        Ok(later.is_some())
    }

    /// Deletes one step of the digests that are old enough, and the salts that none has any more; false when none are left.
    /// A deletion that has not ended keeps its digest.
    pub(crate) async fn forget_deletions(&self, now: Millis) -> Result<bool> {
        let oldest = now.saturating_sub(DIGESTS_KEPT_MS);
        let old = || {
            deleted_account::Entity::find()
                .select_only()
                .column(Column::Digest)
                .filter(Column::DeletedAt.lt(oldest))
                .filter(Column::AnonymisedAt.is_not_null())
                .order_by_asc(Column::DeletedAt)
                .limit(DIGESTS_PER_STEP)
                .into_tuple::<String>()
        };
        if old().one(&self.reader).await?.is_none() {
            return Ok(false);
        }
        // Replicas remember which accounts were deleted.
        let tx = self.begin_moving_boundaries().await?;
        let digests = old().all(&tx).await?;
        deleted_account::Entity::delete_many()
            .filter(Column::Digest.is_in(digests))
            .exec(&tx)
            .await?;
        // A salt is older than its digests, by the time in which new ones are made with it at most.
        let first: Option<Millis> = deleted_account::Entity::find()
            .select_only()
            .column(Column::DeletedAt)
            .order_by_asc(Column::DeletedAt)
            .limit(1)
            .into_tuple()
            .one(&tx)
            .await?;
        let is_unused = first.map(|first| {
            Expr::col(deletion_salt::Column::CreatedAt).lt(first.saturating_sub(SALT_USED_MS))
        });
        deletion_salt::Entity::delete_many()
            .filter(Condition::all().add_option(is_unused))
            .exec(&tx)
            .await?;
        forget_all_boundaries(&tx).await?;
        tx.commit().await?;
        Ok(true)
    }
}
