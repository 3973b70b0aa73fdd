//! The tables with rows of accounts, as lists of columns: what is exported of an account, and what gets another id when it
//! is deleted. The lists come from the entities, so a new column is in them.

use sea_orm::{
    ColumnTrait as _, ColumnType, ConnectionTrait, DbBackend, DbErr, EntityTrait, IdenStatic as _,
    Iterable as _, PrimaryKeyToColumn as _, QueryResult, Statement, Value,
};
use serde_json::{Map, json};
use uuid::Uuid;

use crate::{
    domain::account_id::AccountId,
    entity::{
        account_link, billing_period, correction_key, folded_report, idempotency_key,
        invoice_comparison, invoice_line, open_report, report_decision, subscription,
        subscription_change, usage_report,
    },
};

/// The column that says which account a row is about.
pub(super) const ACCOUNT: &str = "account_id";

/// A column, and what it contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    BigInteger,
    Flag,
    Uuid,
}

/// A table whose primary key contains the account.
#[derive(Clone, Debug)]
pub(super) struct AccountTable {
    pub(super) name: &'static str,
    /// The rest of the primary key.
    pub(super) key: Vec<Column>,
    /// All columns.
    pub(super) columns: Vec<Column>,
    /// Columns in which people or Stripe may have written the id.
    pub(super) texts: &'static [&'static str],
}

/// The value of a column of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Text(Option<String>),
    Number(Option<i64>),
    Flag(Option<bool>),
    Uuid(Option<Uuid>),
}

/// A row: its cells in the order of the table's columns.
pub(super) type Row = Vec<Cell>;

impl Cell {
    fn json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) => json!(number),
            Self::Flag(flag) => json!(flag),
            Self::Uuid(id) => json!(id.map(|id| id.to_string())),
        }
    }

    pub(super) fn value(&self) -> Value {
        match self {
            Self::Text(text) => text.clone().into(),
            Self::Number(number) => (*number).into(),
            Self::Flag(flag) => (*flag).into(),
            Self::Uuid(id) => (*id).into(),
        }
    }
}

impl Column {
    fn of<E: EntityTrait>(column: E::Column) -> Self {
        let definition = column.def();
        let kind = match definition.get_column_type() {
            ColumnType::Integer => Kind::Integer,
            ColumnType::BigInteger => Kind::BigInteger,
            ColumnType::Boolean => Kind::Flag,
            ColumnType::Uuid => Kind::Uuid,
            // The only other ones are texts; a test reads every table.
            _ => Kind::Text,
        };
        Self {
            name: column.as_str(),
            kind,
        }
    }

    pub(super) fn read(self, row: &QueryResult) -> Result<Cell, DbErr> {
        Ok(match self.kind {
            Kind::Text => Cell::Text(row.try_get("", self.name)?),
            Kind::Integer => {
                let number: Option<i32> = row.try_get("", self.name)?;
                Cell::Number(number.map(i64::from))
            }
            Kind::BigInteger => Cell::Number(row.try_get("", self.name)?),
            Kind::Flag => Cell::Flag(row.try_get("", self.name)?),
            Kind::Uuid => Cell::Uuid(row.try_get("", self.name)?),
        })
    }
}

/// The columns of an entity.
pub(super) fn columns_of<E: EntityTrait>() -> Vec<Column> {
    E::Column::iter().map(Column::of::<E>).collect()
}

/// A row as a JSON object. Times are milliseconds of Unix time.
pub(super) fn object(columns: &[Column], row: &[Cell]) -> serde_json::Value {
    let fields = columns.iter().zip(row);
    let fields = fields.map(|(column, cell)| (column.name.to_owned(), cell.json()));
    serde_json::Value::Object(fields.collect::<Map<_, _>>())
}

impl AccountTable {
    fn of<E: EntityTrait>(texts: &'static [&'static str]) -> Self {
        let key = E::PrimaryKey::iter().map(|key| Column::of::<E>(key.into_column()));
        Self {
            name: E::default().table_name(),
            key: key.filter(|column| column.name != ACCOUNT).collect(),
            columns: columns_of::<E>(),
            texts,
        }
    }

    /// The names of all columns.
    pub(super) fn names(&self) -> String {
        names(&self.columns)
    }

    /// The next rows of an account, in the order of the key.
    pub(super) async fn page(
        &self,
        db: &impl ConnectionTrait,
        account_id: &AccountId,
        after: Option<&[Cell]>,
        limit: u64,
    ) -> Result<Vec<Row>, DbErr> {
        self.page_where(db, account_id, after, limit, "").await
    }

    /// The next of these rows in whose texts the id may stand.
    pub(super) async fn page_naming(
        &self,
        db: &impl ConnectionTrait,
        account_id: &AccountId,
        after: Option<&[Cell]>,
        limit: u64,
    ) -> Result<Vec<Row>, DbErr> {
        let place = match db.get_database_backend() {
            DbBackend::Postgres => "strpos",
            _ => "instr",
        };
        let texts = self.texts.iter();
        let named: Vec<String> = texts
            .map(|column| format!("{place}({column}, $1) > 0"))
            .collect();
        let condition = format!(" AND ({})", named.join(" OR "));
        self.page_where(db, account_id, after, limit, &condition)
            .await
    }

    async fn page_where(
        &self,
        db: &impl ConnectionTrait,
        account_id: &AccountId,
        after: Option<&[Cell]>,
        limit: u64,
        condition: &str,
    ) -> Result<Vec<Row>, DbErr> {
        let key = names(&self.key);
        let mut values: Vec<Value> = vec![
            account_id.into(),
            i64::try_from(limit).unwrap_or(i64::MAX).into(),
        ];
        let range = match after {
            Some(last) => {
                let first = values.len().saturating_add(1);
                values.extend(last.iter().map(Cell::value));
                let places = (first..=values.len()).map(|place| format!("${place}"));
                let places = places.collect::<Vec<_>>().join(", ");
                format!(" AND ({key}) > ({places})")
            }
            None => String::new(),
        };
        let sql = format!(
            "SELECT {} FROM {} WHERE {ACCOUNT} = $1{range}{condition} ORDER BY {key} LIMIT $2",
            self.names(),
            self.name
        );
        let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
        let rows = db.query_all_raw(statement).await?;
        rows.iter().map(|row| self.read(row)).collect()
    }

    fn read(&self, row: &QueryResult) -> Result<Row, DbErr> {
        self.columns.iter().map(|column| column.read(row)).collect()
    }

    /// The key of a row, without the account.
    pub(super) fn key_of(&self, row: &[Cell]) -> Vec<Cell> {
        let is_key = |(column, _): &(&Column, &Cell)| self.key.iter().any(|key| key == *column);
        let mut cells: Vec<(&Column, &Cell)> =
            self.columns.iter().zip(row).filter(is_key).collect();
        // In the order of the key, which may be another one.
        cells.sort_by_key(|(column, _)| self.key.iter().position(|key| key == *column));
        cells.into_iter().map(|(_, cell)| cell.clone()).collect()
    }

    /// How many rows an account has.
    pub(super) async fn count(
        &self,
        db: &impl ConnectionTrait,
        account_id: &AccountId,
    ) -> Result<i64, DbErr> {
        let sql = format!(
            "SELECT COUNT(*) AS number FROM {} WHERE {ACCOUNT} = $1",
            self.name
        );
        let values = [account_id.into()];
        let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
        let row = db.query_one_raw(statement).await?;
        row.map_or(Ok(0), |row| row.try_get("", "number"))
    }
}

/// The names of some columns.
pub(super) fn names(columns: &[Column]) -> String {
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    names.join(", ")
}

/// The tables whose rows are found by the account, in the order in which transactions lock them.
pub(super) fn account_tables() -> [AccountTable; 11] {
    [
        AccountTable::of::<open_report::Entity>(&[]),
        AccountTable::of::<usage_report::Entity>(&["last_error", "note", "entered_by"]),
        AccountTable::of::<folded_report::Entity>(&[]),
        AccountTable::of::<billing_period::Entity>(&["compare_error"]),
        AccountTable::of::<account_link::Entity>(&[]),
        AccountTable::of::<subscription::Entity>(&[]),
        AccountTable::of::<subscription_change::Entity>(&["request", "requested_by", "error"]),
        AccountTable::of::<report_decision::Entity>(&["reason", "requested_by"]),
        AccountTable::of::<invoice_line::Entity>(&[]),
        AccountTable::of::<invoice_comparison::Entity>(&["acknowledged_by", "acknowledged_reason"]),
        AccountTable::of::<correction_key::Entity>(&[]),
    ]
}

/// The idempotency keys. They are stored in the order of the keys, so those of an account are found by reading all.
pub(super) fn idempotency_keys() -> AccountTable {
    AccountTable::of::<idempotency_key::Entity>(&[])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::distribution::BY_ACCOUNT;

    #[test]
    fn every_table_about_accounts_is_here() {
        let mut here: BTreeSet<&str> = account_tables().iter().map(|table| table.name).collect();
        here.insert(idempotency_keys().name);
        assert_eq!(here, BTreeSet::from(BY_ACCOUNT));
    }

    #[test]
    fn each_key_is_in_the_columns() {
        for table in account_tables() {
            assert!(!table.key.is_empty(), "{}", table.name);
            assert!(table.key.iter().all(|key| table.columns.contains(key)));
            let is_text = |name: &&str| {
                let mut columns = table.columns.iter();
                columns.any(|column| column.name == *name && column.kind == Kind::Text)
            };
            assert!(table.texts.iter().all(is_text), "{}", table.name);
        }
    }
}
