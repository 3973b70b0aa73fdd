//! Everything that is stored of an account, page by page: rows of its tables, what Stripe's totals were compared with, its
//! idempotency keys, and where else it is named.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Statement, Value,
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Store,
    account_deletion::mentions::{MENTIONING, Mentioning},
    account_tables::{
        AccountTable, Cell, Column, account_tables, columns_of, idempotency_keys, names, object,
    },
};
use crate::{
    domain::account_id::AccountId,
    entity::{account_link, api_key, audit_entry, customer, report_run, verification},
    error::Result,
};

/// How many rows one page has at most.
const ROWS_PER_PAGE: u64 = 200;
/// How many idempotency keys one step reads, of all accounts.
const KEYS_PER_STEP: i64 = 5_000;
/// The column of API keys that no one is shown.
const SECRET: &str = "secret_hash";

/// Where an export continues.
#[derive(Clone, Debug)]
pub(crate) struct ExportPlace(Part);

#[derive(Clone, Debug)]
enum Part {
    /// A table about accounts, after a key.
    Table(usize, Option<Vec<Cell>>),
    /// Its customers, after one.
    Customers(String),
    /// Verifications of one of the customers, after a key.
    Verifications(Vec<String>, Option<(String, i64)>),
    /// A table in whose texts the account may be named.
    Mentions(usize, Option<Cell>),
    Keys(Option<(Uuid, String)>),
}

impl ExportPlace {
    /// The beginning.
    pub(crate) fn first() -> Self {
        Self(Part::Table(0, None))
    }
}

impl Store {
    /// The next lines of an export, each a JSON object with the table's name and a row; and where it continues, absent at
    /// the end. A page may have no lines.
    ///
    /// # Errors
    /// The database does not respond.
    pub(crate) async fn export_page(
        &self,
        account_id: &AccountId,
        place: ExportPlace,
    ) -> Result<(Vec<String>, Option<ExportPlace>)> {
        let (lines, next) = match place.0 {
            Part::Table(number, after) => self.table_page(account_id, number, after).await?,
            Part::Customers(after) => self.customers_page(account_id, after).await?,
            Part::Verifications(customers, after) => {
                self.verifications_page(customers, after).await?
            }
            Part::Mentions(number, after) => self.mentions_page(account_id, number, after).await?,
            Part::Keys(after) => self.keys_page(account_id, after).await?,
        };
        Ok((lines, next.map(ExportPlace)))
    }

    async fn table_page(
        &self,
        account_id: &AccountId,
        number: usize,
        after: Option<Vec<Cell>>,
    ) -> std::result::Result<(Vec<String>, Option<Part>), DbErr> {
        let tables = account_tables();
        let Some(table) = tables.get(number) else {
            return Ok((Vec::new(), Some(Part::Customers(String::new()))));
        };
        let page = table
            .page(&self.reader, account_id, after.as_deref(), ROWS_PER_PAGE)
            .await?;
        let next = match page.last() {
            Some(last) => Part::Table(number, Some(table.key_of(last))),
            None => Part::Table(number.saturating_add(1), None),
        };
        Ok((lines(table, &page), Some(next)))
    }

    async fn customers_page(
        &self,
        account_id: &AccountId,
        after: String,
    ) -> std::result::Result<(Vec<String>, Option<Part>), DbErr> {
        let columns = columns_of::<customer::Entity>();
        let sql = format!(
            "SELECT {} FROM customers WHERE account_id = $1 AND customer > $2 ORDER BY customer LIMIT $3",
            names(&columns)
        );
        let limit = i64::try_from(ROWS_PER_PAGE).unwrap_or(i64::MAX);
        let values: [Value; 3] = [account_id.into(), after.into(), limit.into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let rows = self.reader.query_all_raw(statement).await?;
        if let Some(last) = rows.last() {
            let last: String = last.try_get("", "customer")?;
            let lines = rows.iter().map(|row| line_of("customers", &columns, row));
            let lines = lines.collect::<std::result::Result<_, DbErr>>()?;
            return Ok((lines, Some(Part::Customers(last))));
        }
        let customers: Vec<Option<String>> = account_link::Entity::find()
            .select_only()
            .column(account_link::Column::Customer)
            .distinct()
            .filter(account_link::Column::AccountId.eq(account_id))
            .filter(account_link::Column::Customer.is_not_null())
            .order_by_asc(account_link::Column::Customer)
            .into_tuple()
            .all(&self.reader)
            .await?;
        let customers = customers.into_iter().flatten().collect();
        Ok((Vec::new(), Some(Part::Verifications(customers, None))))
    }

    async fn verifications_page(
        &self,
        mut customers: Vec<String>,
        after: Option<(String, i64)>,
    ) -> std::result::Result<(Vec<String>, Option<Part>), DbErr> {
        let Some(customer) = customers.last().cloned() else {
            return Ok((Vec::new(), Some(Part::Mentions(0, None))));
        };
        let columns = columns_of::<verification::Entity>();
        let (meter, day) = after.unwrap_or((String::new(), i64::MIN));
        let sql = format!(
            "SELECT {} FROM verifications WHERE customer = $1 AND (meter, day) > ($2, $3) \
             ORDER BY meter, day LIMIT $4",
            names(&columns)
        );
        let limit = i64::try_from(ROWS_PER_PAGE).unwrap_or(i64::MAX);
        let values: [Value; 4] = [customer.into(), meter.into(), day.into(), limit.into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let rows = self.reader.query_all_raw(statement).await?;
        let next = if let Some(last) = rows.last() {
            Some((last.try_get("", "meter")?, last.try_get("", "day")?))
        } else {
            customers.pop();
            None
        };
        let lines = rows
            .iter()
            .map(|row| line_of("verifications", &columns, row));
        let lines = lines.collect::<std::result::Result<_, DbErr>>()?;
        Ok((lines, Some(Part::Verifications(customers, next))))
    }

    async fn mentions_page(
        &self,
        account_id: &AccountId,
        number: usize,
        after: Option<Cell>,
    ) -> std::result::Result<(Vec<String>, Option<Part>), DbErr> {
        let Some(of) = MENTIONING.get(number) else {
            return Ok((Vec::new(), Some(Part::Keys(None))));
        };
        let (found, last) = self.mentions_after(of, account_id, after.as_ref()).await?;
        let mut lines = Vec::new();
        for id in &found {
            lines.extend(self.mention_line(of, id, account_id).await?);
        }
        let next = match last {
            Some(last) => Part::Mentions(number, Some(last)),
            None => Part::Mentions(number.saturating_add(1), None),
        };
        Ok((lines, Some(next)))
    }

    /// One row in which the account may be named. Of a run or a key about several accounts, the others are left out.
    async fn mention_line(
        &self,
        of: &Mentioning,
        id: &Cell,
        account_id: &AccountId,
    ) -> std::result::Result<Option<String>, DbErr> {
        let columns = match of.table {
            "audit_entries" => columns_of::<audit_entry::Entity>(),
            "report_runs" => columns_of::<report_run::Entity>(),
            _ => columns_of::<api_key::Entity>(),
        };
        let columns: Vec<Column> = columns
            .into_iter()
            .filter(|column| column.name != SECRET)
            .collect();
        let sql = format!("SELECT {} FROM {} WHERE id = $1", names(&columns), of.table);
        let statement = Statement::from_sql_and_values(self.backend(), sql, [id.value()]);
        let Some(row) = self.reader.query_one_raw(statement).await? else {
            return Ok(None);
        };
        let cells: std::result::Result<Vec<Cell>, DbErr> =
            columns.iter().map(|column| column.read(&row)).collect();
        let mut row = object(&columns, &cells?);
        if !is_about(of, &mut row, account_id) {
            return Ok(None);
        }
        Ok(Some(json!({ "table": of.table, "row": row }).to_string()))
    }

    async fn keys_page(
        &self,
        account_id: &AccountId,
        after: Option<(Uuid, String)>,
    ) -> std::result::Result<(Vec<String>, Option<Part>), DbErr> {
        const LAST: &str = "SELECT key, account_id FROM (SELECT key, account_id FROM idempotency_keys \
            WHERE (key, account_id) > ($1, $2) ORDER BY key, account_id LIMIT $3) AS step \
            ORDER BY key DESC, account_id DESC LIMIT 1";
        let (key, account) = after.unwrap_or((Uuid::nil(), String::new()));
        let values: [Value; 3] = [key.into(), account.as_str().into(), KEYS_PER_STEP.into()];
        let last = Statement::from_sql_and_values(self.backend(), LAST, values);
        let Some(last) = self.reader.query_one_raw(last).await? else {
            return Ok((Vec::new(), None));
        };
        let last: (Uuid, String) = (last.try_get("", "key")?, last.try_get("", "account_id")?);
        let table = idempotency_keys();
        let sql = format!(
            "SELECT {} FROM idempotency_keys WHERE key BETWEEN $1 AND $3 \
             AND (key, account_id) > ($1, $2) AND (key, account_id) <= ($3, $4) AND account_id = $5",
            table.names()
        );
        let values: [Value; 5] = [
            key.into(),
            account.into(),
            last.0.into(),
            last.1.as_str().into(),
            account_id.into(),
        ];
        let own = Statement::from_sql_and_values(self.backend(), sql, values);
        let lines = self.lines_of(table.name, &table.columns, own).await?;
        Ok((lines, Some(Part::Keys(Some(last)))))
    }

    async fn lines_of(
        &self,
        table: &str,
        columns: &[Column],
        statement: Statement,
    ) -> std::result::Result<Vec<String>, DbErr> {
        let rows = self.reader.query_all_raw(statement).await?;
        rows.iter()
            .map(|row| line_of(table, columns, row))
            .collect()
    }
}

/// Whether a row is about the account. What it says of others is removed.
fn is_about(of: &Mentioning, row: &mut serde_json::Value, account_id: &AccountId) -> bool {
    let id = account_id.as_str();
    if row.get("account_id").is_some_and(|account| account == id) {
        return true;
    }
    let mut is_named = false;
    for column in of.texts {
        let Some(field) = row.get_mut(*column) else {
            continue;
        };
        let Some(text) = field.as_str() else { continue };
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(mut value @ (serde_json::Value::Array(_) | serde_json::Value::Object(_))) => {
                is_named |= keep_own(&mut value, id);
                *field = json!(value.to_string());
            }
            _ => is_named |= crate::domain::account_deletion::names(text, id),
        }
    }
    is_named
}

/// Leaves the account alone in lists that name it. Returns whether one does.
fn keep_own(value: &mut serde_json::Value, id: &str) -> bool {
    match value {
        serde_json::Value::String(text) => text == id,
        serde_json::Value::Array(items) => {
            let is_named = items.iter_mut().any(|item| keep_own(item, id));
            if is_named {
                items.retain(|item| item == id || !item.is_string());
            }
            is_named
        }
        serde_json::Value::Object(fields) => fields
            .values_mut()
            .map(|field| keep_own(field, id))
            .fold(false, |left, right| left | right),
        _ => false,
    }
}

fn lines(table: &AccountTable, rows: &[Vec<Cell>]) -> Vec<String> {
    let line = |row: &Vec<Cell>| {
        let row = object(&table.columns, row);
        json!({ "table": table.name, "row": row }).to_string()
    };
    rows.iter().map(line).collect()
}

fn line_of(
    table: &str,
    columns: &[Column],
    row: &sea_orm::QueryResult,
) -> std::result::Result<String, DbErr> {
    let cells: std::result::Result<Vec<Cell>, DbErr> =
        columns.iter().map(|column| column.read(row)).collect();
    let row = object(columns, &cells?);
    Ok(json!({ "table": table, "row": row }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_names_no_other_account() {
        let id = AccountId::parse("acct").unwrap();
        let mut run = json!({ "id": "1", "scope": r#"["acct","other"]"#, "requested_by": "ann" });
        assert!(is_about(&MENTIONING[1], &mut run, &id));
        assert_eq!(run["scope"], r#"["acct"]"#);
        let mut other = json!({ "id": "1", "scope": r#"["acct-2"]"#, "requested_by": "acct_2" });
        assert!(!is_about(&MENTIONING[1], &mut other, &id));
        let mut entry = json!({ "account_id": "acct", "request": r#"{"reason":"like other"}"# });
        assert!(is_about(&MENTIONING[0], &mut entry, &id));
    }
}
