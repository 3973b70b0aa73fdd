//! What a statement returns: columns that it names. With `*`, a column that a later version adds would change the result,
//! and PostgreSQL refuses a prepared statement whose result has changed.

/// Whether a query returns all columns of a table, whatever they are.
pub(super) fn returns_all_columns(sql: &str) -> bool {
    let is_query = sql.starts_with("SELECT ") || sql.starts_with("WITH ");
    let mut depth = 0_i32;
    let mut result = None;
    for (place, character) in sql.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            // The last one outside of parentheses is that of the whole statement.
            'S' if is_query && depth == 0 && sql[place..].starts_with("SELECT ") => {
                result = Some(place);
            }
            'R' if depth == 0 && sql[place..].starts_with("RETURNING ") => {
                result = Some(place);
            }
            _ => {}
        }
    }
    let Some(result) = result else { return false };
    let result = &sql[result..];
    let columns = result.split(" FROM ").next().unwrap_or(result);
    columns.split(',').any(|column| {
        let column = column.trim_end();
        // Not a product.
        column.ends_with(" *") || column == "*" || column.ends_with(".*")
    })
}

#[test]
fn a_star_in_the_result_is_found() {
    for (sql, is_star) in [
        ("SELECT * FROM a", true),
        ("SELECT DISTINCT r.* FROM a r", true),
        ("WITH b AS (SELECT * FROM a) SELECT b.id FROM b", false),
        ("WITH b AS (SELECT id FROM a) SELECT b.* FROM b", true),
        ("SELECT COUNT(*), a * 2 FROM a", false),
        ("SELECT b.a, b.* FROM b", true),
        ("SELECT id FROM (SELECT * FROM a) AS b", false),
        ("INSERT INTO a (id) SELECT * FROM (VALUES (1))", false),
        ("DELETE FROM a RETURNING *", true),
        ("UPDATE a SET b = 1", false),
    ] {
        assert_eq!(returns_all_columns(sql), is_star, "{sql}");
    }
}
