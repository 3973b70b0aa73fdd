//! Lists of values in statements. Statements that differ only in the lengths of their lists are one statement; its plan
//! is checked for the shortest lists and for long ones.

/// The most values that the store puts in one list, if it is none of the following.
const LONG: usize = 1_000;
/// The lists of other lengths: a part of the statement, and the most values. Meters have no limit; a service has few.
const LENGTHS: [(&str, usize); 11] = [
    (r#""commits"."id" IN"#, 2_000),
    // Closes a page of reports.
    (r#"SET "period_end" = "window_end""#, 200),
    // The reports whose place in the queue is stored in one transaction.
    (r#"UPDATE "usage_reports" SET "send_by""#, 256),
    // The reports that the sender marks at a time, before as many requests.
    (
        r#"FROM "subscription_changes" WHERE "subscription_changes"."account_id" IN"#,
        256,
    ),
    // A page of Stripe's subscriptions.
    (r#"UPDATE "subscriptions" SET "synced_at""#, 100),
    (r#"FROM "customers" WHERE "customers"."customer" IN"#, 100),
    (
        r#"FROM "subscriptions" WHERE "subscriptions"."account_id" IN"#,
        100,
    ),
    // The runs whose reports are counted: they have 100,000 together.
    (r#""usage_reports"."run_id" IN"#, 100),
    // The items of a subscription.
    (r#""billing_periods"."item" IN"#, 20),
    // The accounts of a page of a sign-off.
    ("AS decided FROM usage_reports WHERE account_id IN", 100),
    (r#""folded_reports"."decisions" IS NOT NULL"#, 100),
];
/// The most meters in one list.
const METERS: usize = 20;
/// Before lists of states, which are as long as the store writes them.
const STATES: [&str; 3] = ["\"state\"", "(state || '')", "NOT"];

/// A statement whose plan is checked.
pub(super) struct Checked {
    pub(super) sql: String,
    pub(super) has_long_lists: bool,
}

/// A statement with one value in place of each list of values.
pub(super) fn shape(sql: &str) -> String {
    let mut letters = sql.chars().peekable();
    let mut shape = String::new();
    while let Some(letter) = letters.next() {
        if letter == '$' && letters.peek().is_some_and(char::is_ascii_digit) {
            while letters.next_if(char::is_ascii_digit).is_some() {}
            shape.push('?');
        } else {
            shape.push(letter);
        }
    }
    for (several, one) in [("?, ?", "?"), ("(?), (?)", "(?)")] {
        while shape.contains(several) {
            shape = shape.replace(several, one);
        }
    }
    shape
}

/// A statement with the longest list in place of each `IN (..)` that has a value for each row; `None` if it has none.
pub(super) fn with_long_lists(sql: &str) -> Option<Checked> {
    let parts: Vec<&str> = sql.split(" IN (").collect();
    let mut long = parts.first().copied().unwrap_or_default().to_owned();
    let mut is_changed = false;
    for (before, part) in parts.iter().zip(parts.iter().skip(1)) {
        long.push_str(" IN (");
        let (prefix, values) = part
            .strip_prefix("VALUES ")
            .map_or(("", *part), |values| ("VALUES ", values));
        match first_value(values) {
            Some((value, rest)) if !STATES.iter().any(|states| before.ends_with(states)) => {
                is_changed = true;
                long.push_str(prefix);
                long.push_str(&vec![value; length(sql, before)].join(", "));
                long.push_str(rest);
            }
            _ => long.push_str(part),
        }
    }
    is_changed.then(|| Checked {
        sql: renumbered(&long),
        has_long_lists: true,
    })
}

/// The most values in the list of a statement that follows some text.
fn length(sql: &str, before: &str) -> usize {
    let mut lengths = LENGTHS.iter();
    match lengths.find(|(part, _)| sql.contains(part)) {
        _ if before.ends_with(r#""meter""#) => METERS,
        Some((_, length)) => *length,
        None => LONG,
    }
}

/// The first of a list of bound values, and what follows the list.
fn first_value(list: &str) -> Option<(&str, &str)> {
    let is_bound = |text: &str| text.starts_with(['?', '$']);
    let end = if let Some(tuple) = list.strip_prefix('(') {
        is_bound(tuple).then(|| tuple.find(')'))??.checked_add(2)?
    } else {
        is_bound(list).then(|| list.find([',', ')']))??
    };
    let value = list.get(..end)?;
    let mut depth = 0_i32;
    let closing = list.char_indices().find(|(_, letter)| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        depth < 0
    });
    Some((value, list.get(closing?.0..)?))
}

/// A statement with the numbers of its bound values in order. The store binds each value once in such a statement.
fn renumbered(sql: &str) -> String {
    let mut renumbered = String::new();
    for (number, part) in sql.split('$').enumerate() {
        if number > 0 {
            renumbered.push('$');
            renumbered.push_str(&number.to_string());
        }
        renumbered.push_str(if number > 0 {
            part.trim_start_matches(|letter: char| letter.is_ascii_digit())
        } else {
            part
        });
    }
    renumbered
}

#[test]
fn statements_that_differ_in_the_length_of_a_list_have_one_shape() {
    let shortest = "SELECT 1 WHERE a IN ($1) AND (b, c) IN (($2, $3)) AND d = $4";
    let longest = "SELECT 1 WHERE a IN ($1, $2, $3) AND (b, c) IN (($4, $5), ($6, $7)) AND d = $8";
    assert_eq!(shape(shortest), shape(longest));
    assert_ne!(shape(shortest), shape("SELECT 1 WHERE a IN ($1)"));
}

#[test]
fn lists_become_long() {
    let long = |sql: &str| with_long_lists(sql).expect("a list").sql;
    let postgres = long("SELECT 1 WHERE a IN ($1, $2) AND (b, c) IN (($3, $4)) AND d = $5");
    assert!(postgres.starts_with("SELECT 1 WHERE a IN ($1, $2, $3, "));
    assert!(postgres.contains(", $1000) AND (b, c) IN (($1001, $1002), ($1003, $1004), "));
    assert!(postgres.ends_with(", ($2999, $3000)) AND d = $3001"));
    let sqlite = long("SELECT 1 WHERE (b, c) IN (VALUES (?, ?)) AND d IN (SELECT f(e) FROM t)");
    assert!(sqlite.starts_with("SELECT 1 WHERE (b, c) IN (VALUES (?, ?), (?, ?), "));
    assert!(sqlite.ends_with(", (?, ?)) AND d IN (SELECT f(e) FROM t)"));
    let states = r#"SELECT 1 WHERE "t"."state" IN ($1) AND a IN ('x')"#;
    assert!(with_long_lists(states).is_none());
    let meters = long(r#"SELECT 1 WHERE a IN ($1) AND "t"."meter" IN ($2) AND b = $3"#);
    assert!(meters.contains(r#", $1000) AND "t"."meter" IN ($1001, "#));
    assert!(meters.ends_with(", $1020) AND b = $1021"), "{meters}");
}
