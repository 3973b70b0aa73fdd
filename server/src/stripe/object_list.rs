//! Pages of Stripe's lists, object by object: one that cannot be read does not hide the others.
//!
//! An object may lack what the API version promises, such as one of another app or of an older mode. It is skipped and
//! named. Whoever reads the list decides what may be done without it.

use std::fmt;

use http::HeaderMap;
use miniserde::json;
use serde_json::Value;
use stripe::StripeRequest;
use stripe_types::List;

use super::transport::{RequestError, Transport, truncate};
use crate::metrics;

/// An object of a list that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// What it is, such as `subscription`.
    pub(crate) object: &'static str,
    /// Its id, if it has one.
    pub(crate) id: Option<String>,
    /// The customer that it belongs to, if it says so.
    pub(crate) customer: Option<String>,
    raw: Value,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct ListPage<T> {
    pub(super) items: Vec<T>,
    pub(super) unreadable: Vec<Unreadable>,
    /// The id after which the next page begins; `None` on the last page.
    pub(super) next: Option<String>,
}

impl Unreadable {
    fn new(object: &'static str, raw: &Value) -> Self {
        let text = |field: &str| raw.get(field).and_then(Value::as_str).map(str::to_owned);
        Self {
            object,
            id: text("id"),
            // It is expanded if it is an object.
            customer: text("customer").or_else(|| {
                let id = raw.pointer("/customer/id").and_then(Value::as_str);
                id.map(str::to_owned)
            }),
            raw: raw.clone(),
        }
    }

    /// Whether a field has a value, or might have: it is not readable either.
    pub(super) fn may_have(&self, field: &str, value: &str) -> bool {
        let found = self.raw.get(field).and_then(Value::as_str);
        found.is_none_or(|found| found == value)
    }

    /// It as Stripe wrote it.
    pub(super) fn raw(&self) -> &Value {
        &self.raw
    }

    /// A field that is a whole number.
    pub(super) fn whole(&self, field: &str) -> Option<i64> {
        self.raw.get(field).and_then(Value::as_i64)
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{} {} cannot be read", self.object, truncate(id)),
            None => write!(f, "one {} without an id cannot be read", self.object),
        }
    }
}

impl Transport {
    /// Reads a page of a list.
    pub(super) async fn list<R, T>(
        &self,
        query: &R,
        object: &'static str,
    ) -> Result<ListPage<T>, RequestError>
    where
        R: StripeRequest<Output = List<T>> + Sync,
        T: miniserde::Deserialize,
    {
        self.list_prepared(query, object, |_| {}).await
    }

    /// Reads a page of a list. Each object is prepared before it is read, so that a part of it that is not as promised
    /// does not hide the rest.
    pub(super) async fn list_prepared<R, T>(
        &self,
        query: &R,
        object: &'static str,
        prepare: fn(&mut Value),
    ) -> Result<ListPage<T>, RequestError>
    where
        R: StripeRequest<Output = List<T>> + Sync,
        T: miniserde::Deserialize,
    {
        let body = self.send(query.build(), HeaderMap::new()).await?;
        let page: ListPage<T> = read_page(&body, object, prepare)?;
        for skipped in &page.unreadable {
            tracing::warn!(
                object,
                id = skipped.id,
                customer = skipped.customer,
                "an object in a list of Stripe's cannot be read and is skipped"
            );
            metrics::stripe_unreadable(object);
        }
        Ok(page)
    }
}

fn read_page<T: miniserde::Deserialize>(
    body: &[u8],
    object: &'static str,
    prepare: fn(&mut Value),
) -> Result<ListPage<T>, RequestError> {
    let unreadable =
        |why: String| RequestError::Unreadable(format!("Stripe's answer cannot be read: {why}"));
    let mut page: Value =
        serde_json::from_slice(body).map_err(|error| unreadable(error.to_string()))?;
    let has_more = page.get("has_more").and_then(Value::as_bool);
    let data = page.get_mut("data").and_then(Value::as_array_mut);
    let (Some(data), Some(has_more)) = (data, has_more) else {
        return Err(unreadable("it is not a list".to_owned()));
    };
    let mut read = ListPage {
        items: Vec::new(),
        unreadable: Vec::new(),
        next: None,
    };
    data.iter_mut().for_each(prepare);
    for raw in data.iter() {
        match json::from_str(&raw.to_string()) {
            Ok(item) => read.items.push(item),
            Err(_) => read.unreadable.push(Unreadable::new(object, raw)),
        }
    }
    if has_more {
        // The next page overlaps this one if the last objects have no id.
        let id = |raw: &Value| raw.get("id")?.as_str().map(str::to_owned);
        let last = data.iter().rev().find_map(id);
        let last = last.ok_or_else(|| unreadable("no object has an id".to_owned()))?;
        read.next = Some(last);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads texts as a list of objects.
    fn page(body: &str) -> Result<ListPage<Named>, RequestError> {
        read_page(body.as_bytes(), "thing", |_| {})
    }

    #[derive(miniserde::Deserialize)]
    struct Named {
        id: String,
        #[allow(dead_code, reason = "it has to be there")]
        size: i64,
    }

    #[test]
    fn an_unreadable_object_is_named_and_the_others_are_read() {
        let body = r#"{"has_more": true, "data": [
            {"id": "a", "size": 1},
            {"id": "b", "customer": "cus_b"},
            {"id": "c", "size": "3", "customer": {"id": "cus_c"}},
            {"id": "d", "size": 4},
            {"size": null}
        ]}"#;
        let page = page(body).unwrap();
        let ids: Vec<&str> = page.items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["a", "d"]);
        assert_eq!(page.next.as_deref(), Some("d"));
        let customers = page.unreadable.iter().map(|one| one.customer.as_deref());
        let customers: Vec<Option<&str>> = customers.collect();
        assert_eq!(customers, [Some("cus_b"), Some("cus_c"), None]);
        let names: Vec<String> = page.unreadable.iter().map(ToString::to_string).collect();
        assert_eq!(names[0], "thing b cannot be read");
        assert_eq!(names[2], "one thing without an id cannot be read");
        assert!(page.unreadable[0].may_have("size", "5"));
        assert!(!page.unreadable[1].may_have("size", "5"));
    }

    #[test]
    fn what_is_not_a_list_is_refused() {
        for body in [
            "",
            "[]",
            r#"{"data": []}"#,
            r#"{"data": 1, "has_more": false}"#,
        ] {
            assert!(matches!(page(body), Err(RequestError::Unreadable(_))));
        }
        let endless = r#"{"data": [{"size": 1}], "has_more": true}"#;
        assert!(page(endless).is_err());
    }
}
