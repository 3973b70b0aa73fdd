//! Reads the keys of an account's reports, a limited number of stored keys at a time. `domain/key_search.rs` says in which
//! order.

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, EntityTrait as _, Statement, Value};
use uuid::Uuid;

use super::{
    Store,
    columns::columns,
    postgres_arrays::uuids,
    value_rows::{padded, place_of},
};
use crate::{
    domain::{account_id::AccountId, kept_increment::KeptIncrement},
    entity::idempotency_key,
    error::Result,
};

/// How many stored keys one step reads, of whatever account.
const KEYS_PER_STEP: i64 = 10_000;

/// A place among all stored keys: after a key of an account.
pub(crate) type KeyPlace = (Uuid, String);

/// What is searched for.
#[derive(Clone, Debug)]
pub(crate) struct KeySearch<'a> {
    /// The account.
    pub(crate) account_id: &'a AccountId,
    /// The ids of its reports, each once.
    pub(crate) reports: &'a [Uuid],
    /// The place after which keys are read, ...
    pub(crate) after: &'a KeyPlace,
    /// ... and the last key that is.
    pub(crate) last: Uuid,
    /// The maximum number of increments.
    pub(crate) limit: usize,
}

impl Store {
    /// The increments of some reports among the next stored keys, in the order of their keys, and the place to go on from;
    /// `None` after the last key.
    pub(crate) async fn search_keys(
        &self,
        search: &KeySearch<'_>,
    ) -> Result<(Vec<KeptIncrement>, Option<KeyPlace>)> {
        let Some(last) = self.last_key_read(search).await? else {
            return Ok((Vec::new(), None));
        };
        let found = self.keys_until(search, &last).await?;
        let account = search.account_id.to_string();
        let mut next = last;
        if found.len() >= search.limit
            && let Some(row) = found.last()
        {
            next = (row.key, account);
        }
        Ok((
            found.into_iter().map(KeptIncrement::from).collect(),
            Some(next),
        ))
    }

    /// The last of the next keys; absent after the last one.
    async fn last_key_read(
        &self,
        search: &KeySearch<'_>,
    ) -> std::result::Result<Option<KeyPlace>, DbErr> {
        const SQL: &str = "SELECT key, account_id FROM (SELECT key, account_id FROM idempotency_keys \
            WHERE key BETWEEN $1 AND $3 AND (key, account_id) > ($1, $2) ORDER BY key, account_id LIMIT $4) AS step \
            ORDER BY key DESC, account_id DESC LIMIT 1";
        let (key, account) = search.after;
        let values: [Value; 4] = [
            (*key).into(),
            account.as_str().into(),
            search.last.into(),
            KEYS_PER_STEP.into(),
        ];
        let statement = Statement::from_sql_and_values(self.backend(), SQL, values);
        let row = self.reader.query_one_raw(statement).await?;
        row.map(|row| {
            let account: AccountId = row.try_get("", "account_id")?;
            Ok((row.try_get("", "key")?, account.to_string()))
        })
        .transpose()
    }

    async fn keys_until(
        &self,
        search: &KeySearch<'_>,
        last: &KeyPlace,
    ) -> std::result::Result<Vec<idempotency_key::Model>, DbErr> {
        let Some(first) = search.reports.first() else {
            return Ok(Vec::new());
        };
        let limit = i64::try_from(search.limit).unwrap_or(i64::MAX);
        let mut values: Vec<Value> = vec![
            search.after.0.into(),
            search.after.1.as_str().into(),
            last.0.into(),
            last.1.as_str().into(),
            search.account_id.into(),
            limit.into(),
        ];
        let of_reports = if self.backend() == DbBackend::Sqlite {
            let count = search.reports.len();
            let too_many = || DbErr::Custom(format!("a search for the keys of {count} reports"));
            let (size, _) = place_of(count).ok_or_else(too_many)?;
            let marks: Vec<String> = (7..).take(size).map(|place| format!("${place}")).collect();
            // Few texts: one of them is repeated until the list has a fixed size.
            let ids = search.reports.iter().map(|id| [(*id).into()]);
            values.extend(padded(ids, &[(*first).into()], size));
            format!("k.report_id IN ({})", marks.join(", "))
        } else {
            values.push(uuids(search.reports.iter().copied()));
            "k.report_id = ANY($7)".to_owned()
        };
        // As for `old_keys`: PostgreSQL knows what BETWEEN is.
        let sql = format!(
            "SELECT {} FROM idempotency_keys AS k WHERE k.key BETWEEN $1 AND $3 \
             AND (k.key, k.account_id) > ($1, $2) AND (k.key, k.account_id) <= ($3, $4) AND k.account_id = $5 \
             AND {of_reports} ORDER BY k.key LIMIT $6",
            columns::<idempotency_key::Entity>("k")
        );
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        idempotency_key::Entity::find()
            .from_raw_sql(statement)
            .all(&self.reader)
            .await
    }
}
