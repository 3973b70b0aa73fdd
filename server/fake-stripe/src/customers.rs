//! `/v1/customers`: create, retrieve, update, delete, list. Only what metering needs is stored: a name, an email, a
//! description, a phone number and metadata. Other parameters are refused rather than forgotten.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::billing::cancellation;
use crate::errors::StripeError;
use crate::ids;
use crate::list::Paging;
use crate::params::Params;
use crate::state::State;

/// A customer, and whether it was deleted: Stripe remembers the ids of the deleted.
#[derive(Debug, Default)]
pub(crate) struct Customer {
    pub(crate) id: String,
    pub(crate) deleted: bool,
    created: i64,
    name: Option<String>,
    email: Option<String>,
    description: Option<String>,
    phone: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl Customer {
    pub(crate) fn new(id: &str, created: i64) -> Customer {
        Customer {
            id: id.to_owned(),
            created,
            ..Customer::default()
        }
    }

    /// The customer as Stripe writes it. What the fake Stripe does not model has the value of a fresh customer.
    fn json(&self) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "customer", "deleted": true });
        }
        json!({
            "id": self.id,
            "object": "customer",
            "address": null,
            "balance": 0,
            "created": self.created,
            "currency": null,
            "default_source": null,
            "delinquent": false,
            "description": self.description,
            "discount": null,
            "email": self.email,
            "invoice_prefix": null,
            "invoice_settings": {
                "custom_fields": null,
                "default_payment_method": null,
                "footer": null,
                "rendering_options": null,
            },
            "livemode": false,
            "metadata": self.metadata,
            "name": self.name,
            "next_invoice_sequence": 1,
            "phone": self.phone,
            "preferred_locales": [],
            "shipping": null,
            "tax_exempt": "none",
            "test_clock": null,
        })
    }
}

/// The fields that a creation or an update sets; an empty text unsets a field.
struct Change {
    name: Option<String>,
    email: Option<String>,
    description: Option<String>,
    phone: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
}

impl Change {
    fn take(mut params: Params) -> Result<Change, StripeError> {
        let change = Change {
            name: params.text_or_empty("name")?,
            email: params.text_or_empty("email")?,
            description: params.text_or_empty("description")?,
            phone: params.text_or_empty("phone")?,
            metadata: params.text_map("metadata")?,
        };
        params.finish()?;
        Ok(change)
    }

    fn apply(self, customer: &mut Customer) {
        let fields = [
            (&mut customer.name, self.name),
            (&mut customer.email, self.email),
            (&mut customer.description, self.description),
            (&mut customer.phone, self.phone),
        ];
        for (field, new) in fields {
            if let Some(new) = new {
                *field = Some(new).filter(|text| !text.is_empty());
            }
        }
        for (key, value) in self.metadata.unwrap_or_default() {
            if value.is_empty() {
                customer.metadata.remove(&key);
            } else {
                customer.metadata.insert(key, value);
            }
        }
    }
}

pub(crate) fn create(state: &mut State, params: Params) -> Result<Value, StripeError> {
    let change = Change::take(params)?;
    let mut customer = Customer::new(&ids::customer(), state.clock.now_secs());
    change.apply(&mut customer);
    let body = customer.json();
    state.customers.insert(&customer.id.clone(), customer);
    Ok(body)
}

pub(crate) fn retrieve(state: &mut State, id: &str, params: Params) -> Result<Value, StripeError> {
    params.finish()?;
    state
        .customers
        .get(id)
        .map(Customer::json)
        .ok_or_else(|| StripeError::no_such("customer", id))
}

pub(crate) fn update(state: &mut State, id: &str, params: Params) -> Result<Value, StripeError> {
    let change = Change::take(params)?;
    let customer = find_existing(state, id)?;
    change.apply(customer);
    Ok(customer.json())
}

pub(crate) fn delete(state: &mut State, id: &str, params: Params) -> Result<Value, StripeError> {
    params.finish()?;
    remove(state, id)
}

/// Deletes a customer, which ends its subscriptions at once.
pub(crate) fn remove(state: &mut State, id: &str) -> Result<Value, StripeError> {
    let now = state.clock.now_secs();
    let last = find_existing(state, id)?.json();
    cancellation::cancel_all_of_customer(state, id)?;
    state.record_event("customer.deleted", now, &last, None);
    let customer = find_existing(state, id)?;
    customer.deleted = true;
    Ok(customer.json())
}

pub(crate) fn list(state: &mut State, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let email = params.text("email")?;
    params.finish()?;
    let all: Vec<Value> = state
        .customers
        .newest_first()
        .filter(|customer| !customer.deleted && (email.is_none() || customer.email == email))
        .map(Customer::json)
        .collect();
    paging.page("customer", "/v1/customers", &all)
}

fn find_existing<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Customer, StripeError> {
    state
        .customers
        .get_mut(id)
        .filter(|customer| !customer.deleted)
        .ok_or_else(|| StripeError::no_such("customer", id))
}
