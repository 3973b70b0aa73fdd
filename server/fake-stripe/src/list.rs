//! Stripe's lists, newest first and paged by cursors, and the collection that stores objects in order.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::errors::StripeError;
use crate::params::Params;

/// Objects of one kind, in the order of their creation, found by id.
#[derive(Debug)]
pub(crate) struct Collection<T> {
    items: Vec<T>,
    by_id: HashMap<String, usize>,
}

impl<T> Default for Collection<T> {
    fn default() -> Self {
        Collection {
            items: Vec::new(),
            by_id: HashMap::new(),
        }
    }
}

impl<T> Collection<T> {
    pub(crate) fn insert(&mut self, id: &str, item: T) {
        self.by_id.insert(id.to_owned(), self.items.len());
        self.items.push(item);
    }

    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.items.get(*self.by_id.get(id)?)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.items.get_mut(*self.by_id.get(id)?)
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &T> {
        self.items.iter().rev()
    }
}

/// The requested page of a list.
#[derive(Debug)]
pub(crate) struct Paging {
    limit: usize,
    starting_after: Option<String>,
    ending_before: Option<String>,
}

impl Paging {
    /// Takes Stripe's three list parameters: `limit` (1 to 100, 10 where absent), `starting_after`, `ending_before`.
    pub(crate) fn take(params: &mut Params) -> Result<Paging, StripeError> {
        let limit = match params.integer("limit")? {
            None => 10,
            Some(limit) => usize::try_from(limit)
                .ok()
                .filter(|limit| (1..=100).contains(limit))
                .ok_or_else(|| {
                    StripeError::invalid(format!(
                        "This value must be between 1 and 100, and is {limit}."
                    ))
                    .code("parameter_invalid_integer")
                    .param("limit")
                })?,
        };
        let paging = Paging {
            limit,
            starting_after: params.text("starting_after")?,
            ending_before: params.text("ending_before")?,
        };
        if paging.starting_after.is_some() && paging.ending_before.is_some() {
            return Err(StripeError::invalid(
                "You cannot parameterize both starting_after and ending_before.",
            )
            .param("starting_after"));
        }
        Ok(paging)
    }

    /// Takes the parameters of a search: `limit`, and the cursor `page`.
    pub(crate) fn take_for_search(params: &mut Params) -> Result<Paging, StripeError> {
        let page = params.text("page")?;
        Ok(Paging {
            starting_after: page,
            ..Paging::take(params)?
        })
    }

    /// The page of the whole list, as Stripe's list object. `what` names the objects in the error of an unknown cursor.
    pub(crate) fn page(self, what: &str, url: &str, all: &[Value]) -> Result<Value, StripeError> {
        let find = |cursor: &str, param: &str| {
            all.iter()
                .position(|item| item.get("id").and_then(Value::as_str) == Some(cursor))
                .ok_or_else(|| {
                    StripeError::invalid(format!("No such {what}: '{cursor}'"))
                        .code("resource_missing")
                        .param(param)
                })
        };
        let (from, to, has_more) = if let Some(cursor) = &self.ending_before {
            let to = find(cursor, "ending_before")?;
            let from = to.saturating_sub(self.limit);
            (from, to, from > 0)
        } else {
            let from = match &self.starting_after {
                Some(cursor) => find(cursor, "starting_after")?.saturating_add(1),
                None => 0,
            };
            let to = from.saturating_add(self.limit).min(all.len());
            (from, to, to < all.len())
        };
        let data = all.get(from..to).unwrap_or_default();
        Ok(json!({ "object": "list", "data": data, "has_more": has_more, "url": url }))
    }
}

/// The filter `created`: a time, or a nested object with `gt`, `gte`, `lt` and `lte`.
#[derive(Debug, Default)]
pub(crate) struct Created {
    from: Option<i64>,
    until: Option<i64>,
}

impl Created {
    pub(crate) fn take(params: &mut Params) -> Result<Created, StripeError> {
        if let Ok(Some(moment)) = params.clone().integer("created") {
            params.integer("created")?;
            return Ok(Created {
                from: Some(moment),
                until: Some(moment),
            });
        }
        let Some(mut range) = params.nested("created")? else {
            return Ok(Created::default());
        };
        let after = range.integer("gt")?.map(|moment| moment.saturating_add(1));
        let before = range.integer("lt")?.map(|moment| moment.saturating_sub(1));
        let from = after.max(range.integer("gte")?);
        let until = match (before, range.integer("lte")?) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        range.finish()?;
        Ok(Created { from, until })
    }

    pub(crate) fn contains(&self, created: i64) -> bool {
        self.from.is_none_or(|from| created >= from)
            && self.until.is_none_or(|until| created <= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::pairs;

    fn page(query: &str) -> Result<(Vec<i64>, bool), StripeError> {
        let all: Vec<Value> = (0..25)
            .map(|n| json!({ "id": format!("x{n}"), "n": n }))
            .collect();
        let mut params = Params::nest(&pairs(query.as_bytes())).unwrap();
        let page = Paging::take(&mut params)?.page("thing", "/v1/things", &all)?;
        let numbers = page["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["n"].as_i64().unwrap())
            .collect();
        Ok((numbers, page["has_more"].as_bool().unwrap()))
    }

    #[test]
    fn pages_walk_the_whole_list() {
        assert_eq!(page("").unwrap(), ((0..10).collect(), true));
        assert_eq!(
            page("starting_after=x9").unwrap(),
            ((10..20).collect(), true)
        );
        assert_eq!(
            page("starting_after=x19").unwrap(),
            ((20..25).collect(), false)
        );
        assert_eq!(
            page("ending_before=x5&limit=3").unwrap(),
            ((2..5).collect(), true)
        );
        assert_eq!(
            page("ending_before=x2&limit=3").unwrap(),
            ((0..2).collect(), false)
        );
    }

    #[test]
    fn unknown_cursors_and_limits_out_of_range_are_refused() {
        assert_eq!(
            page("starting_after=y").unwrap_err().param.as_deref(),
            Some("starting_after")
        );
        assert!(page("limit=0").is_err());
        assert!(page("limit=101").is_err());
        assert!(page("starting_after=x1&ending_before=x2").is_err());
    }
}
