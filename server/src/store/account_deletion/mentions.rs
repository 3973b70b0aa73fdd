//! Where an id is written besides the rows of its account: the audit table, the scopes of runs and of API keys.
//!
//! These tables have no index of what is written in their texts. They are read in steps, before the transaction that
//! replaces the id. Nothing new is written with it meanwhile: whatever writes there looks for deleted accounts.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement, Value};
use uuid::Uuid;

use crate::{
    domain::{
        account_deletion::{About, replaced, replaced_in_stored},
        account_id::AccountId,
    },
    store::{Store, account_tables::Cell, connection::Transaction},
};

/// How many rows one step reads.
const ROWS_PER_STEP: i64 = 1_000;
/// How many rows are read to be changed.
const ROWS_PER_CHANGE: usize = 50;

/// A table in whose texts ids of accounts stand.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Mentioning {
    pub(in crate::store) table: &'static str,
    /// Whether its key `id` is a UUID, or else a text.
    has_uuids: bool,
    /// The column that says which account a row is about, if it has one. It contains the id alone.
    account: Option<&'static str>,
    /// The other columns.
    pub(in crate::store) texts: &'static [&'static str],
}

/// Every such table.
pub(in crate::store) const MENTIONING: [Mentioning; 3] = [AUDIT, RUNS, KEYS];

const AUDIT: Mentioning = Mentioning {
    table: "audit_entries",
    has_uuids: true,
    account: Some("account_id"),
    texts: &["request", "before", "after", "message", "key_name"],
};
const RUNS: Mentioning = Mentioning {
    table: "report_runs",
    has_uuids: true,
    account: None,
    texts: &["scope", "requested_by"],
};
/// A scope that named the account must not become empty, which would be no limit.
const KEYS: Mentioning = Mentioning {
    table: "api_keys",
    has_uuids: false,
    account: None,
    texts: &["scope", "name"],
};

impl Mentioning {
    fn columns(&self) -> Vec<&'static str> {
        self.account.iter().chain(self.texts).copied().collect()
    }

    fn first(&self) -> Cell {
        if self.has_uuids {
            Cell::Uuid(Some(Uuid::nil()))
        } else {
            Cell::Text(Some(String::new()))
        }
    }

    fn read_id(&self, row: &sea_orm::QueryResult) -> Result<Cell, DbErr> {
        Ok(if self.has_uuids {
            Cell::Uuid(row.try_get("", "id")?)
        } else {
            Cell::Text(row.try_get("", "id")?)
        })
    }
}

impl Store {
    /// The ids of the rows of a table after one, up to a limit, in whose texts an account may be named; and the last row
    /// that was read, absent at the end of the table.
    pub(in crate::store) async fn mentions_after(
        &self,
        of: &Mentioning,
        account_id: &AccountId,
        after: Option<&Cell>,
    ) -> Result<(Vec<Cell>, Option<Cell>), DbErr> {
        let after = after.map_or_else(|| of.first(), Clone::clone);
        let last = format!(
            "SELECT id FROM (SELECT id FROM {} WHERE id > $1 ORDER BY id LIMIT $2) AS step \
             ORDER BY id DESC LIMIT 1",
            of.table
        );
        let values = [after.value(), ROWS_PER_STEP.into()];
        let last = Statement::from_sql_and_values(self.backend(), last, values);
        let Some(row) = self.reader.query_one_raw(last).await? else {
            return Ok((Vec::new(), None));
        };
        let last = of.read_id(&row)?;
        let place = match self.backend() {
            DbBackend::Postgres => "strpos",
            _ => "instr",
        };
        let named = of
            .columns()
            .into_iter()
            .map(|column| format!("{place}({column}, $3) > 0"));
        let found = format!(
            "SELECT id FROM {} WHERE id > $1 AND id <= $2 AND ({}) ORDER BY id",
            of.table,
            named.collect::<Vec<_>>().join(" OR ")
        );
        let values: [Value; 3] = [after.value(), last.value(), account_id.into()];
        let found = Statement::from_sql_and_values(self.backend(), found, values);
        let rows = self.reader.query_all_raw(found).await?;
        let ids = rows.iter().map(|row| of.read_id(row));
        Ok((ids.collect::<Result<_, _>>()?, Some(last)))
    }

    /// The ids of all rows of a table in whose texts an account may be named.
    pub(super) async fn all_mentions(
        &self,
        of: &Mentioning,
        account_id: &AccountId,
    ) -> Result<Vec<Cell>, DbErr> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (found, last) = self.mentions_after(of, account_id, after.as_ref()).await?;
            all.extend(found);
            if last.is_none() {
                return Ok(all);
            }
            after = last;
        }
    }
}

/// Writes another id in the place of an account's in some rows of a table. Returns how many were changed.
pub(super) async fn replace_mentions(
    tx: &Transaction,
    of: &Mentioning,
    rows: &[Cell],
    (account_id, with): (&AccountId, &AccountId),
) -> Result<i64, DbErr> {
    let mut changed = 0_i64;
    let backend = tx.get_database_backend();
    let columns = of.columns();
    for some in rows.chunks(ROWS_PER_CHANGE) {
        let places: Vec<String> = (1..=some.len()).map(|place| format!("${place}")).collect();
        let sql = format!(
            "SELECT id, {} FROM {} WHERE id IN ({})",
            columns.join(", "),
            of.table,
            places.join(", ")
        );
        let values = some.iter().map(Cell::value);
        let found = Statement::from_sql_and_values(backend, sql, values);
        for row in tx.query_all_raw(found).await? {
            let texts: Vec<Option<String>> = columns
                .iter()
                .map(|column| row.try_get("", column))
                .collect::<Result<_, _>>()?;
            let texts: Vec<(&str, &str)> = columns
                .iter()
                .zip(&texts)
                .filter_map(|(column, text)| Some((*column, text.as_deref()?)))
                .collect();
            let others = replaced_texts(of, &texts, (account_id, with));
            if others.is_empty() {
                continue;
            }
            let set: Vec<String> = others
                .iter()
                .zip(2_usize..)
                .map(|((column, _), place)| format!("{column} = ${place}"))
                .collect();
            let sql = format!("UPDATE {} SET {} WHERE id = $1", of.table, set.join(", "));
            let mut values = vec![of.read_id(&row)?.value()];
            values.extend(others.into_iter().map(|(_, text)| Value::from(text)));
            let update = Statement::from_sql_and_values(backend, sql, values);
            tx.execute_raw(update).await?;
            changed = changed.saturating_add(1);
        }
    }
    Ok(changed)
}

/// The columns of a row that change, with their new texts.
fn replaced_texts<'a>(
    of: &Mentioning,
    texts: &[(&'a str, &str)],
    (account_id, with): (&AccountId, &AccountId),
) -> Vec<(&'a str, String)> {
    let is_own =
        |column: &str, text: &str| Some(column) == of.account && text == account_id.as_str();
    let names_it_alone = texts.iter().any(|(column, text)| is_own(column, text))
        || texts.iter().any(|(column, text)| {
            *column == "scope" && text.contains(&format!("[\"{account_id}\"]"))
        });
    let about = if names_it_alone {
        About::ThisAccount
    } else {
        About::Others
    };
    texts
        .iter()
        .filter_map(|(column, text)| {
            let other = if Some(*column) == of.account {
                replaced(text, account_id, with, About::Others)
            } else {
                replaced_in_stored(text, account_id, with, about)
            };
            Some((*column, other?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(id: &str) -> AccountId {
        AccountId::parse(id).unwrap()
    }

    #[test]
    fn what_is_about_the_account_alone_loses_every_trace_of_its_id() {
        let (id, with) = (account("acct-4"), account("T"));
        let own = [
            ("account_id", "acct-4"),
            ("request", r#"{"idempotency_key":"acct-4-may"}"#),
            ("message", r#"NOT_FOUND: "acct-4""#),
        ];
        let changed = replaced_texts(&AUDIT, &own, (&id, &with));
        let expected = [
            ("account_id", "T".to_owned()),
            ("request", r#"{"idempotency_key":"T-may"}"#.to_owned()),
            ("message", r#"NOT_FOUND: "T""#.to_owned()),
        ];
        assert_eq!(changed, expected);
    }

    #[test]
    fn the_ids_of_others_stay() {
        let (id, with) = (account("acct-4"), account("T"));
        let shared = [
            ("account_id", "acct-4-b"),
            ("request", r#"{"account_ids":["acct-4","acct-4-b"]}"#),
        ];
        let changed = replaced_texts(&AUDIT, &shared, (&id, &with));
        let expected = r#"{"account_ids":["T","acct-4-b"]}"#.to_owned();
        assert_eq!(changed, [("request", expected)]);
        let key = [
            ("scope", r#"{"accounts":["acct-4","other"]}"#),
            ("name", "acct-4-b"),
        ];
        let changed = replaced_texts(&KEYS, &key, (&id, &with));
        assert_eq!(
            changed,
            [("scope", r#"{"accounts":["T","other"]}"#.to_owned())]
        );
    }
}
