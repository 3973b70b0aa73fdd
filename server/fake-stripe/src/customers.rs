//! `/v1/customers`: create, retrieve, update, list. Deletion is in `billing::subscriptions::cancellation`. Only a name,
//! an email, a description, a phone number and metadata are stored; other parameters are
//! refused as unsupported.

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::customer_balances::Balances;
use crate::errors::StripeError;
use crate::ids;
use crate::list::{Collection, Created, Paging};
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;

/// A customer, and whether it was deleted: Stripe still returns deleted customers.
#[derive(Debug, Default)]
pub(crate) struct Customer {
    pub(crate) id: String,
    pub(crate) deleted: bool,
    /// The id of the test clock that it belongs to: plain lists leave it out.
    pub(crate) test_clock: Option<String>,
    created: i64,
    name: Option<String>,
    email: Option<String>,
    description: Option<String>,
    phone: Option<String>,
    metadata: Metadata,
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
    pub(crate) fn json(&self, balances: &Balances) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "customer", "deleted": true });
        }
        json!({
            "id": self.id,
            "object": "customer",
            "address": null,
            "balance": balances.amount(&self.id),
            "created": self.created,
            "currency": balances.find(&self.id).map(|balance| &balance.currency),
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
            "test_clock": self.test_clock,
        })
    }
}

/// The fields that a creation or an update sets; an empty text unsets a field.
struct Change {
    name: Option<String>,
    email: Option<String>,
    description: Option<String>,
    phone: Option<String>,
    metadata: MetadataChange,
}

impl Change {
    fn take(mut params: Params) -> Result<Change, StripeError> {
        let change = Change {
            name: params.text_or_empty("name")?,
            email: params.text_or_empty("email")?,
            description: params.text_or_empty("description")?,
            phone: params.text_or_empty("phone")?,
            metadata: MetadataChange::take(&mut params)?,
        };
        params.finish()?;
        Ok(change)
    }

    fn apply(self, customer: &mut Customer) -> Result<(), StripeError> {
        customer.metadata = self.metadata.applied_to(&customer.metadata)?;
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
        Ok(())
    }
}

pub(crate) fn create(
    customers: &mut Collection<Customer>,
    balances: &Balances,
    clock: &Clock,
    params: Params,
) -> Result<Value, StripeError> {
    let change = Change::take(params)?;
    let mut customer = Customer::new(&ids::customer(), clock.now_secs());
    change.apply(&mut customer)?;
    let body = customer.json(balances);
    customers.insert(&customer.id.clone(), customer);
    Ok(body)
}

pub(crate) fn retrieve(
    customers: &Collection<Customer>,
    balances: &Balances,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    customers
        .get(id)
        .map(|customer| customer.json(balances))
        .ok_or_else(|| StripeError::no_such("customer", id))
}

pub(crate) fn update(
    customers: &mut Collection<Customer>,
    balances: &Balances,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    let change = Change::take(params)?;
    let customer = find_existing(customers, id)?;
    change.apply(customer)?;
    Ok(customer.json(balances))
}

pub(crate) fn list(
    customers: &Collection<Customer>,
    balances: &Balances,
    mut params: Params,
) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let email = params.text("email")?;
    let created = Created::take(&mut params)?;
    params.finish()?;
    let all: Vec<Value> = customers
        .newest_first()
        .filter(|customer| customer.test_clock.is_none())
        .filter(|customer| !customer.deleted && (email.is_none() || customer.email == email))
        .filter(|customer| created.contains(customer.created))
        .map(|customer| customer.json(balances))
        .collect();
    paging.page("customer", "/v1/customers", &all)
}

/// The customer with this id; a deleted one counts as absent.
pub(crate) fn find_existing<'a>(
    customers: &'a mut Collection<Customer>,
    id: &str,
) -> Result<&'a mut Customer, StripeError> {
    customers
        .get_mut(id)
        .filter(|customer| !customer.deleted)
        .ok_or_else(|| StripeError::no_such("customer", id))
}
