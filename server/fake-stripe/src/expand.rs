//! `expand`: replaces ids by the objects they stand for. A path is checked before the endpoint runs, so that nonsense
//! changes nothing: Stripe documents that at most four levels are expanded, and answers 400 for what cannot be.
//!
//! Expanding what is always there, such as `items.data.price`, changes nothing; so does a reference of an object that the
//! fake Stripe does not model, which is always null, and whose own fields are therefore not checked.

use serde_json::{Value, json};

use crate::billing::prices::Price;
use crate::billing::products::Product;
use crate::billing::state::Billing;
use crate::billing::tiers::Tier;
use crate::customers::Customer;
use crate::errors::StripeError;
use crate::list::Collection;
use crate::metering::Metering;
use crate::params::Params;

const MAX_LEVELS: usize = 4;

/// What a field of an object is, where a path may go through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// The id of an object of this kind.
    Id(&'static str),
    /// An object of this kind.
    Object(&'static str),
    /// A part of the object, which has no id: it cannot be expanded itself, only what is below it.
    Hash(Fields),
    /// A list of objects of this kind.
    List(&'static str),
    /// A reference that is always null, or a list of them that is always empty.
    Null,
    /// The tiers of a price.
    Tiers,
    /// Stripe would include it.
    Unsupported,
}

/// The fields of an object or of a part of it.
type Fields = &'static [(&'static str, Field)];

const LIABILITY: Field = Field::Hash(&[("liability", ACCOUNT)]);
const ACCOUNT: Field = Field::Hash(&[("account", Field::Null)]);
const DISCOUNT_AMOUNT: Field = Field::Hash(&[("discount", Field::Null)]);
const PRETAX_CREDIT_AMOUNT: Field = Field::Hash(&[
    ("credit_balance_transaction", Field::Null),
    ("discount", Field::Null),
]);

/// The fields of each kind, as Stripe's client libraries have them.
const KINDS: &[(&str, Fields)] = &[
    (
        "account",
        &[
            ("company", Field::Unsupported),
            ("external_accounts", Field::Unsupported),
            ("settings", Field::Unsupported),
        ],
    ),
    (
        "customer",
        &[
            ("default_source", Field::Null),
            (
                "invoice_settings",
                Field::Hash(&[("default_payment_method", Field::Null)]),
            ),
            ("test_clock", Field::Null),
            ("cash_balance", Field::Unsupported),
            ("invoice_credit_balance", Field::Unsupported),
            ("sources", Field::Unsupported),
            ("subscriptions", Field::Unsupported),
            ("tax", Field::Unsupported),
            ("tax_ids", Field::Unsupported),
        ],
    ),
    (
        "product",
        &[("default_price", Field::Null), ("tax_code", Field::Null)],
    ),
    (
        "price",
        &[
            ("product", Field::Id("product")),
            ("tiers", Field::Tiers),
            ("currency_options", Field::Unsupported),
        ],
    ),
    (
        "plan",
        &[("product", Field::Id("product")), ("tiers", Field::Tiers)],
    ),
    (
        "subscription",
        &[
            ("customer", Field::Id("customer")),
            ("latest_invoice", Field::Id("invoice")),
            ("items", Field::List("subscription_item")),
            ("application", Field::Null),
            ("automatic_tax", LIABILITY),
            (
                "billing_schedules",
                Field::Hash(&[("applies_to", Field::Hash(&[("price", Field::Null)]))]),
            ),
            (
                "cancellation_details",
                Field::Hash(&[("feedback_option", Field::Null)]),
            ),
            ("default_payment_method", Field::Null),
            ("default_source", Field::Null),
            ("discounts", Field::Null),
            (
                "invoice_settings",
                Field::Hash(&[("account_tax_ids", Field::Null), ("issuer", ACCOUNT)]),
            ),
            ("on_behalf_of", Field::Null),
            ("pending_setup_intent", Field::Null),
            ("pending_update", Field::Hash(&[("discounts", Field::Null)])),
            ("schedule", Field::Null),
            ("test_clock", Field::Null),
            (
                "transfer_data",
                Field::Hash(&[("destination", Field::Null)]),
            ),
        ],
    ),
    (
        "subscription_item",
        &[
            ("price", Field::Object("price")),
            ("plan", Field::Object("plan")),
            ("discounts", Field::Null),
            ("billed_until", Field::Unsupported),
        ],
    ),
    (
        "invoice",
        &[
            ("customer", Field::Id("customer")),
            ("lines", Field::List("line_item")),
            (
                "parent",
                Field::Hash(&[(
                    "subscription_details",
                    Field::Hash(&[("subscription", Field::Id("subscription"))]),
                )]),
            ),
            ("account_tax_ids", Field::Null),
            ("application", Field::Null),
            ("automatic_tax", LIABILITY),
            ("default_payment_method", Field::Null),
            ("default_source", Field::Null),
            ("discounts", Field::Null),
            ("from_invoice", Field::Hash(&[("invoice", Field::Null)])),
            ("issuer", ACCOUNT),
            ("latest_revision", Field::Null),
            ("on_behalf_of", Field::Null),
            (
                "shipping_cost",
                Field::Hash(&[("shipping_rate", Field::Null)]),
            ),
            ("test_clock", Field::Null),
            ("total_discount_amounts", DISCOUNT_AMOUNT),
            ("total_pretax_credit_amounts", PRETAX_CREDIT_AMOUNT),
            ("confirmation_secret", Field::Unsupported),
            ("payments", Field::Unsupported),
        ],
    ),
    (
        "line_item",
        &[
            ("subscription", Field::Id("subscription")),
            (
                "pricing",
                Field::Hash(&[(
                    "price_details",
                    Field::Hash(&[("price", Field::Id("price"))]),
                )]),
            ),
            ("discount_amounts", DISCOUNT_AMOUNT),
            ("discounts", Field::Null),
            ("pretax_credit_amounts", PRETAX_CREDIT_AMOUNT),
        ],
    ),
];

/// The checked paths of a request.
#[derive(Debug, Default)]
pub(crate) struct Expansion {
    paths: Vec<Vec<String>>,
    kind: &'static str,
}

/// Where the objects are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Objects<'a> {
    pub(crate) customers: &'a Collection<Customer>,
    pub(crate) billing: &'a Billing,
    pub(crate) metering: Metering<'a>,
}

impl Expansion {
    /// Takes `expand`, and checks it against what the endpoint returns.
    pub(crate) fn take(
        params: &mut Params,
        method: &str,
        path: &str,
    ) -> Result<Expansion, StripeError> {
        if params.is_text("expand") {
            return Err(StripeError::invalid("Invalid array").param("expand"));
        }
        let (kind, is_list) = returned(method, path);
        let mut paths = Vec::new();
        for path in params.text_list("expand")? {
            let levels: Vec<String> = path.split('.').map(str::to_owned).collect();
            if levels.len() > MAX_LEVELS {
                return Err(StripeError::invalid(format!(
                    "You cannot expand more than {MAX_LEVELS} levels of a property. Property: {path}"
                ))
                .param("expand"));
            }
            check(fields_of(kind), is_list, &path, &levels)?;
            paths.push(levels);
        }
        Ok(Expansion { paths, kind })
    }

    /// Expands the answer of the endpoint.
    pub(crate) fn apply(&self, body: &mut Value, objects: Objects<'_>) {
        for path in &self.paths {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            expand(body, fields_of(self.kind), &path, objects);
        }
    }
}

/// The kind of object that an endpoint returns, and whether it is a list of them. Objects without expandable fields, such
/// as meters and what a deletion returns, have the kind of no field.
fn returned(method: &str, path: &str) -> (&'static str, bool) {
    let segments: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    let kind = match (method, segments.as_slice()) {
        ("DELETE", [resource, ..]) if *resource != "subscriptions" => "",
        (_, ["invoices", _, "lines"]) => "line_item",
        (_, ["account"]) => "account",
        (_, ["customers", ..]) => "customer",
        (_, ["products", ..]) => "product",
        (_, ["prices", ..]) => "price",
        (_, ["subscriptions", ..]) => "subscription",
        (_, ["subscription_items", ..]) => "subscription_item",
        (_, ["invoices", ..]) => "invoice",
        _ => "",
    };
    let last = segments.last().copied().unwrap_or_default();
    let is_list = method == "GET"
        && ((segments.len() == 1 && !matches!(last, "account" | "balance"))
            || matches!(last, "search" | "lines" | "event_summaries")
            || path == "/v1/billing/meters");
    (kind, is_list)
}

fn fields_of(kind: &str) -> Fields {
    let known = KINDS.iter().find(|(one, _)| *one == kind);
    known.map_or(&[], |(_, fields)| *fields)
}

fn field(fields: Fields, name: &str) -> Option<Field> {
    let known = fields.iter().find(|(one, _)| *one == name);
    known.map(|(_, field)| *field)
}

fn check(fields: Fields, is_list: bool, path: &str, levels: &[String]) -> Result<(), StripeError> {
    let refuse = |hint: String| {
        Err(
            StripeError::invalid(format!("This property cannot be expanded ({path}).{hint}"))
                .param("expand"),
        )
    };
    let mut levels = levels.iter().map(String::as_str);
    let mut fields = fields;
    let mut expects_data = is_list;
    loop {
        let Some(mut name) = levels.next() else {
            return Ok(());
        };
        if expects_data {
            if name != "data" {
                let hint = format!(" You may want to try expanding 'data.{path}' instead.");
                let helps = is_list && field(fields, name).is_some();
                return refuse(if helps { hint } else { String::new() });
            }
            let Some(next) = levels.next() else {
                return refuse(String::new());
            };
            name = next;
        }
        expects_data = false;
        match field(fields, name) {
            None => return refuse(String::new()),
            Some(Field::Unsupported) => {
                return Err(StripeError::unsupported(format!("expand={path}")).param("expand"));
            }
            Some(Field::Null) => return Ok(()),
            Some(Field::Tiers) => {
                return match levels.next() {
                    None => Ok(()),
                    Some(_) => refuse(String::new()),
                };
            }
            Some(Field::Hash(_)) if levels.len() == 0 => return refuse(String::new()),
            Some(Field::Hash(next)) => fields = next,
            Some(Field::Id(next) | Field::Object(next)) => fields = fields_of(next),
            Some(Field::List(next)) => (fields, expects_data) = (fields_of(next), true),
        }
    }
}

fn expand(value: &mut Value, fields: Fields, path: &[&str], objects: Objects<'_>) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if let Some(Value::Array(data)) = value.get_mut("data").filter(|_| *first == "data") {
        for item in data {
            expand(item, fields, rest, objects);
        }
        return;
    }
    match field(fields, first) {
        Some(Field::Id(next)) => {
            let Some(inner) = value.get_mut(*first) else {
                return;
            };
            if let Some(found) = inner.as_str().and_then(|id| objects.find(next, id)) {
                *inner = found;
            }
            expand(inner, fields_of(next), rest, objects);
        }
        Some(Field::Object(next) | Field::List(next)) => {
            if let Some(inner) = value.get_mut(*first) {
                expand(inner, fields_of(next), rest, objects);
            }
        }
        Some(Field::Hash(next)) => {
            if let Some(inner) = value.get_mut(*first) {
                expand(inner, next, rest, objects);
            }
        }
        Some(Field::Tiers) => {
            let id = value.get("id").and_then(Value::as_str).unwrap_or_default();
            let price = objects.billing.prices.get(id);
            let tiers = price.and_then(|price| price.scheme.tiers());
            if let (Some(tiers), Some(map)) = (tiers, value.as_object_mut()) {
                let tiers: Vec<Value> = tiers.iter().map(Tier::json).collect();
                map.insert("tiers".to_owned(), json!(tiers));
            }
        }
        Some(Field::Null | Field::Unsupported) | None => {}
    }
}

impl Objects<'_> {
    fn find(self, kind: &str, id: &str) -> Option<Value> {
        let billing = self.billing;
        match kind {
            "customer" => self
                .customers
                .get(id)
                .map(|one| one.json(&billing.balances)),
            "product" => billing.products.get(id).map(Product::json),
            "price" => billing.prices.get(id).map(Price::json),
            "subscription" => billing.subscriptions.get(id)?.json(&billing.prices).ok(),
            "invoice" => billing
                .invoices
                .get(id)
                .map(|invoice| billing.invoice_json(invoice, self.metering)),
            _ => None,
        }
    }
}
