//! Many rows of values in one SQLite statement, in few fixed sizes.
//!
//! A statement for each number of rows would have to be prepared each time: only about a hundred prepared statements
//! are cached per connection. As one JSON text, each value of each row is parsed again.

use std::sync::LazyLock;

use sea_orm::{DbBackend, DbErr, Statement, Value};

/// The most rows of one statement. SQLite takes 32,766 values.
pub(super) const MAX_ROWS: usize = 2_048;

/// The texts of a statement over rows of `COLUMNS` values: for 1, 2, 4 rows and so on.
///
/// The rows are a table with the columns `column1`, `column2` and so on. It may have rows of nulls beside those that are
/// meant.
pub(super) struct ValueRows<const COLUMNS: usize> {
    texts: LazyLock<Vec<String>, fn() -> Vec<String>>,
}

impl<const COLUMNS: usize> ValueRows<COLUMNS> {
    pub(super) const fn new(texts: fn() -> Vec<String>) -> Self {
        Self {
            texts: LazyLock::new(texts),
        }
    }

    /// The texts, from one row on.
    pub(super) fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The texts of a statement, with the rows between `before` and `after`.
    pub(super) fn around_rows(before: &str, after: &str) -> Vec<String> {
        let row = format!("({})", vec!["?"; COLUMNS].join(", "));
        let sizes = std::iter::successors(Some(1_usize), |size| size.checked_mul(2));
        sizes
            .take_while(|size| *size <= MAX_ROWS)
            .map(|size| {
                let rows = vec![row.as_str(); size].join(", ");
                format!("{before}(VALUES {rows}){after}")
            })
            .collect()
    }

    /// The statements for some rows: one for each 2,048 of them.
    pub(super) fn statements(
        &self,
        rows: impl Iterator<Item = [Value; COLUMNS]>,
        nulls: &[Value; COLUMNS],
    ) -> Result<Vec<Statement>, DbErr> {
        let mut statements = Vec::new();
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            let some: Vec<[Value; COLUMNS]> = rows.by_ref().take(MAX_ROWS).collect();
            let count = some.len();
            let too_many = || DbErr::Custom(format!("a statement of {count} rows"));
            let (size, text) = self.text_for(count).ok_or_else(too_many)?;
            let values: Vec<Value> = padded(some.into_iter(), nulls, size).collect();
            statements.push(Statement::from_sql_and_values(
                DbBackend::Sqlite,
                text,
                values,
            ));
        }
        Ok(statements)
    }

    fn text_for(&self, rows: usize) -> Option<(usize, &str)> {
        let (size, place) = place_of(rows)?;
        Some((size, self.texts.get(place)?))
    }
}

/// The number of rows of the smallest statement that has room for some, and the place of its text.
pub(super) fn place_of(rows: usize) -> Option<(usize, usize)> {
    let size = rows.next_power_of_two();
    let place = usize::try_from(size.trailing_zeros()).ok()?;
    (size <= MAX_ROWS).then_some((size, place))
}

/// The values of some rows, and those of as many other rows as a statement of a size needs.
pub(super) fn padded<const COLUMNS: usize>(
    rows: impl Iterator<Item = [Value; COLUMNS]>,
    nulls: &[Value; COLUMNS],
    size: usize,
) -> impl Iterator<Item = Value> {
    rows.chain(std::iter::repeat(nulls.clone()))
        .take(size)
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    static PAIRS: ValueRows<2> =
        ValueRows::new(|| ValueRows::<2>::around_rows("SELECT * FROM ", " WHERE column1 > 0"));

    fn statements(rows: usize) -> Vec<(usize, usize)> {
        let rows = (0..rows).map(|_| [1_i64.into(), 2_i64.into()]);
        let nulls = [Value::BigInt(None), Value::BigInt(None)];
        let statements = PAIRS.statements(rows, &nulls).unwrap();
        let sizes = statements.iter().map(|statement| {
            let marks = statement.sql.matches('?').count();
            (marks, statement.values.as_ref().unwrap().0.len())
        });
        sizes.collect()
    }

    #[test]
    fn every_mark_of_a_statement_has_a_value() {
        assert_eq!(statements(0), []);
        assert_eq!(statements(1), [(2, 2)]);
        assert_eq!(statements(3), [(8, 8)]);
        assert_eq!(statements(2_048), [(4_096, 4_096)]);
        assert_eq!(statements(2_049), [(4_096, 4_096), (2, 2)]);
    }

    #[test]
    fn a_text_has_its_rows_in_place() {
        let (size, text) = PAIRS.text_for(2).unwrap();
        assert_eq!(size, 2);
        assert_eq!(
            text,
            "SELECT * FROM (VALUES (?, ?), (?, ?)) WHERE column1 > 0"
        );
    }
}
