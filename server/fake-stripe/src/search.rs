//! Stripe's search query language: clauses of a field, an operator and a value, joined by spaces, AND or OR, negated by a
//! minus. `:` compares texts without regard to case, `~` finds a part of at least 3 characters, `<`, `>`, `<=` and `>=`
//! compare numbers, and `null` is an absent value. Every field of Stripe is known, others are errors.
//!
//! Stripe shows new objects in searches after up to a minute; here they are found at once.

use serde_json::{Value, json};

use crate::errors::StripeError;
use crate::list::Paging;
use crate::params::Params;

const MIN_PART_CHARS: usize = 3;

/// The fields of a resource that Stripe searches by; `metadata` is one of every resource.
#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) resource: &'static str,
    /// Compared as a whole.
    pub(crate) tokens: &'static [&'static str],
    /// Compared as a whole or in part.
    pub(crate) texts: &'static [&'static str],
    pub(crate) numbers: &'static [&'static str],
}

/// Finds the objects that match the parameter `query`.
pub(crate) fn search(
    mut params: Params,
    fields: &Fields,
    all: &[Value],
) -> Result<Value, StripeError> {
    let query = params.required("query")?;
    let paging = Paging::take_for_search(&mut params)?;
    params.finish()?;
    let query = Query::parse(&query, fields)
        .map_err(|message| StripeError::invalid(message).param("query"))?;
    let found: Vec<Value> = all
        .iter()
        .filter(|item| query.matches(item))
        .cloned()
        .collect();
    let url = format!("/v1/{}/search", fields.resource);
    let page = paging.page("page", &url, &found)?;
    let more = page.get("has_more").and_then(Value::as_bool) == Some(true);
    let last = page
        .get("data")
        .and_then(Value::as_array)
        .and_then(|data| data.last()?.get("id").cloned())
        .filter(|_| more);
    Ok(json!({
        "object": "search_result",
        "data": page.get("data"),
        "has_more": more,
        "next_page": last,
        "url": url,
    }))
}

/// The clauses of a query.
#[derive(Debug)]
struct Query {
    clauses: Vec<Clause>,
    /// Whether one clause is enough.
    any: bool,
}

#[derive(Debug)]
struct Clause {
    negated: bool,
    field: String,
    /// The key, where the field is `metadata`.
    key: Option<String>,
    operator: Operator,
    /// `None` is `null`.
    value: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Part,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Query {
    fn parse(query: &str, fields: &Fields) -> Result<Query, String> {
        let mut rest = query.trim();
        let mut clauses = Vec::new();
        let (mut and, mut or) = (false, false);
        while !rest.is_empty() {
            if !clauses.is_empty() {
                if let Some(after) = strip_word(rest, "or") {
                    (or, rest) = (true, after);
                } else {
                    (and, rest) = (true, strip_word(rest, "and").unwrap_or(rest));
                }
            }
            let (clause, after) = Clause::parse(rest, query)?;
            clause.check(fields)?;
            clauses.push(clause);
            rest = after.trim_start();
        }
        if and && or {
            return Err(format!(
                "The query {query} combines AND and OR; they cannot be used in one query."
            ));
        }
        if clauses.is_empty() {
            return Err(malformed(query));
        }
        Ok(Query { clauses, any: or })
    }

    fn matches(&self, item: &Value) -> bool {
        if self.any {
            self.clauses.iter().any(|clause| clause.matches(item))
        } else {
            self.clauses.iter().all(|clause| clause.matches(item))
        }
    }
}

impl Clause {
    /// Reads one clause; returns it and what follows.
    fn parse<'a>(text: &'a str, query: &str) -> Result<(Clause, &'a str), String> {
        let wrong = || malformed(query);
        let (negated, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let end = text
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
            .ok_or_else(wrong)?;
        let (field, mut text) = text.split_at_checked(end).ok_or_else(wrong)?;
        let mut key = None;
        if let Some(rest) = text.strip_prefix('[') {
            let (name, rest) = quoted(rest).ok_or_else(wrong)?;
            key = Some(name);
            text = rest.strip_prefix(']').ok_or_else(wrong)?;
        }
        let (operator, text) = [
            (":", Operator::Equal),
            ("~", Operator::Part),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ]
        .into_iter()
        .find_map(|(sign, operator)| Some((operator, text.strip_prefix(sign)?)))
        .ok_or_else(wrong)?;
        let (value, rest) = if text.starts_with(['"', '\'']) {
            let (value, rest) = quoted(text).ok_or_else(wrong)?;
            (Some(value), rest)
        } else {
            let end = text.find(char::is_whitespace).unwrap_or(text.len());
            let (word, rest) = text.split_at_checked(end).ok_or_else(wrong)?;
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if word.is_empty() || !word.chars().all(plain) {
                return Err(wrong());
            }
            let value = (!word.eq_ignore_ascii_case("null")).then(|| word.to_owned());
            (value, rest)
        };
        if field.is_empty() || !(rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            return Err(wrong());
        }
        let clause = Clause {
            negated,
            field: field.to_owned(),
            key,
            operator,
            value,
        };
        Ok((clause, rest))
    }

    fn check(&self, fields: &Fields) -> Result<(), String> {
        let field = self.field.as_str();
        let is_metadata = field == "metadata" && self.key.is_some();
        let is_text = fields.texts.contains(&field);
        let is_number = fields.numbers.contains(&field);
        let is_known = is_metadata
            || (self.key.is_none() && (is_text || is_number || fields.tokens.contains(&field)));
        if !is_known {
            let resource = fields.resource;
            return Err(format!(
                "Field `{field}` is an unsupported search field for resource `{resource}`. See \
                 http://stripe.com/docs/search#query-fields-for-{resource} for a list of supported fields."
            ));
        }
        let value = self.value.as_deref().unwrap_or_default();
        let is_whole = value.parse::<i64>().is_ok();
        match self.operator {
            Operator::Equal if is_number && !is_whole && self.value.is_some() => Err(format!(
                "The field `{field}` needs a number, and has {value}."
            )),
            Operator::Part if !is_text => Err(format!(
                "The field `{field}` cannot be searched by a part of its value."
            )),
            Operator::Part if value.chars().count() < MIN_PART_CHARS => Err(format!(
                "A substring needs at least {MIN_PART_CHARS} characters, and \"{value}\" has fewer."
            )),
            Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual
                if !is_number || !is_whole =>
            {
                Err(format!(
                    "The field `{field}` and the value {value} cannot be compared as numbers."
                ))
            }
            _ => Ok(()),
        }
    }

    fn matches(&self, item: &Value) -> bool {
        let found = match &self.key {
            Some(key) => item.get(&self.field).and_then(|metadata| metadata.get(key)),
            None => item.get(&self.field),
        };
        let found = found.filter(|value| !value.is_null());
        self.negated != self.holds(found)
    }

    fn holds(&self, found: Option<&Value>) -> bool {
        let (Some(found), Some(wanted)) = (found, &self.value) else {
            return found.is_none() && self.value.is_none();
        };
        let text = match found {
            Value::String(text) => text.to_lowercase(),
            other => other.to_string(),
        };
        let numbers = || text.parse::<i64>().ok().zip(wanted.parse::<i64>().ok());
        match self.operator {
            Operator::Equal => text == wanted.to_lowercase(),
            Operator::Part => text.contains(&wanted.to_lowercase()),
            Operator::Less => numbers().is_some_and(|(found, wanted)| found < wanted),
            Operator::LessOrEqual => numbers().is_some_and(|(found, wanted)| found <= wanted),
            Operator::Greater => numbers().is_some_and(|(found, wanted)| found > wanted),
            Operator::GreaterOrEqual => numbers().is_some_and(|(found, wanted)| found >= wanted),
        }
    }
}

/// Reads a text in quotes of either kind, in which a backslash escapes; returns it and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((value, text.get(at.saturating_add(1)..)?));
        }
        value.push(if c == '\\' { chars.next()?.1 } else { c });
    }
    None
}

/// What follows a word and a space at the start, in any case.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (first, rest) = text.split_once(char::is_whitespace)?;
    first.eq_ignore_ascii_case(word).then(|| rest.trim_start())
}

fn malformed(query: &str) -> String {
    format!(
        "We were unable to parse your search query: {query}. Try using the format `metadata[\"key\"]:\"value\"` to query \
         for metadata or key:\"value\" to query for other fields."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: Fields = Fields {
        resource: "products",
        tokens: &["active"],
        texts: &["name"],
        numbers: &["created"],
    };

    fn found(query: &str) -> Result<Vec<i64>, String> {
        let query = Query::parse(query, &FIELDS)?;
        let items = [
            json!({ "n": 1, "name": "All Calls", "active": true, "created": 10, "metadata": { "plan": "pro" } }),
            json!({ "n": 2, "name": "To:kens AND", "active": false, "created": 20, "metadata": {} }),
            json!({ "n": 3, "name": null, "active": true, "created": 30, "metadata": { "a b": "x\"y" } }),
        ];
        let matching = items.iter().filter(|item| query.matches(item));
        Ok(matching.map(|item| item["n"].as_i64().unwrap()).collect())
    }

    #[test]
    fn clauses_are_compared_joined_and_negated() {
        for (query, expected) in [
            ("name:\"all calls\"", vec![1]),
            ("name:'To:kens AND'", vec![2]),
            ("name~\"CALL\"", vec![1]),
            ("-name~\"call\"", vec![2, 3]),
            ("name:null", vec![3]),
            ("-name:NULL", vec![1, 2]),
            ("active:\"true\" AND created>10", vec![3]),
            ("active:true created<=10", vec![1]),
            ("created<15 or created>=30", vec![1, 3]),
            ("metadata[\"plan\"]:\"pro\"", vec![1]),
            ("metadata['plan']:null", vec![2, 3]),
            ("metadata[\"a b\"]:\"x\\\"y\"", vec![3]),
        ] {
            assert_eq!(found(query).unwrap(), expected, "{query}");
        }
    }

    #[test]
    fn what_stripe_cannot_read_is_refused() {
        for query in [
            "",
            "name",
            "name:",
            "name:\"open",
            "colour:\"red\"",
            "metadata:\"x\"",
            "name~\"ab\"",
            "active~\"true\"",
            "created:\"soon\"",
            "name>3",
            "(name:\"a\")",
            "name:\"a\" AND",
            "name:\"a\" AND name:\"b\" OR name:\"c\"",
            "name:\"a\"name:\"b\"",
        ] {
            assert!(found(query).is_err(), "{query}");
        }
    }
}
