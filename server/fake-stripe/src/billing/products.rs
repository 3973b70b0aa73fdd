//! `/v1/products`. Only a name, a description, a unit and metadata are stored.

use serde_json::{Value, json};

use crate::errors::StripeError;
use crate::ids;
use crate::list::{Collection, Created, Paging};
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::search::{Fields, search};

/// A product. Deleted products are kept, but never returned.
#[derive(Debug, Clone, Default)]
pub(crate) struct Product {
    pub(crate) id: String,
    pub(crate) name: String,
    active: bool,
    deleted: bool,
    created: i64,
    updated: i64,
    description: Option<String>,
    unit_label: Option<String>,
    metadata: Metadata,
}

impl Product {
    pub(crate) fn new(id: &str, name: &str, created: i64) -> Product {
        Product {
            id: id.to_owned(),
            name: name.to_owned(),
            active: true,
            created,
            updated: created,
            ..Product::default()
        }
    }

    /// The product as Stripe writes it.
    pub(crate) fn json(&self) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "product", "deleted": true });
        }
        json!({
            "id": self.id,
            "object": "product",
            "active": self.active,
            "created": self.created,
            "default_price": null,
            "description": self.description,
            "images": [],
            "livemode": false,
            "marketing_features": [],
            "metadata": self.metadata,
            "name": self.name,
            "package_dimensions": null,
            "shippable": null,
            "statement_descriptor": null,
            "tax_code": null,
            "tax_details": null,
            "type": "service",
            "unit_label": self.unit_label,
            "updated": self.updated,
            "url": null,
        })
    }

    /// Applies the parameters that creation and update share.
    fn change(&mut self, params: &mut Params) -> Result<(), StripeError> {
        if let Some(active) = params.boolean("active")? {
            self.active = active;
        }
        for (field, name) in [
            (&mut self.description, "description"),
            (&mut self.unit_label, "unit_label"),
        ] {
            if let Some(text) = params.text_or_empty(name)? {
                *field = Some(text).filter(|text| !text.is_empty());
            }
        }
        self.metadata = MetadataChange::take(params)?.applied_to(&self.metadata)?;
        Ok(())
    }
}

pub(crate) fn create(
    products: &mut Collection<Product>,
    now: i64,
    mut params: Params,
) -> Result<Value, StripeError> {
    let name = params.required("name")?;
    let id = params.text("id")?.unwrap_or_else(|| ids::billing("prod_"));
    let mut product = Product::new(&id, &name, now);
    params.one_of_supported("type", &["service"], &["good"])?;
    product.change(&mut params)?;
    params.finish()?;
    if products.contains(&id) {
        return Err(StripeError::refused("Product already exists.")
            .code("resource_already_exists")
            .param("id"));
    }
    let body = product.json();
    products.insert(&id, product);
    Ok(body)
}

pub(crate) fn retrieve(
    products: &mut Collection<Product>,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    Ok(find(products, id)?.json())
}

pub(crate) fn update(
    products: &mut Collection<Product>,
    now: i64,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    // A copy, so that an error changes nothing.
    let mut product = find(products, id)?.clone();
    if let Some(name) = params.text("name")? {
        product.name = name;
    }
    product.change(&mut params)?;
    product.updated = now;
    params.finish()?;
    let body = product.json();
    *find(products, id)? = product;
    Ok(body)
}

pub(crate) fn delete(
    products: &mut Collection<Product>,
    has_prices: bool,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    find(products, id)?;
    if has_prices {
        return Err(StripeError::refused(
            "This product cannot be deleted because it has one or more user-created prices.",
        ));
    }
    find(products, id)?.deleted = true;
    Ok(json!({ "id": id, "object": "product", "deleted": true }))
}

pub(crate) fn list(
    products: &Collection<Product>,
    mut params: Params,
) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let active = params.boolean("active")?;
    let wanted = params.text_list("ids")?;
    let created = Created::take(&mut params)?;
    params.finish()?;
    let all: Vec<Value> = products
        .newest_first()
        .filter(|product| !product.deleted && active.is_none_or(|active| product.active == active))
        .filter(|product| created.contains(product.created))
        .filter(|product| wanted.is_empty() || wanted.contains(&product.id))
        .map(Product::json)
        .collect();
    paging.page("product", "/v1/products", &all)
}

/// The fields that products can be searched by.
const SEARCHED: Fields = Fields {
    resource: "products",
    tokens: &["active", "shippable"],
    texts: &["description", "name", "url"],
    numbers: &[],
};

/// The search by Stripe's query language.
pub(crate) fn find_by_query(
    products: &Collection<Product>,
    params: Params,
) -> Result<Value, StripeError> {
    let all: Vec<Value> = products
        .newest_first()
        .filter(|product| !product.deleted)
        .map(Product::json)
        .collect();
    search(params, &SEARCHED, &all)
}

fn find<'a>(
    products: &'a mut Collection<Product>,
    id: &str,
) -> Result<&'a mut Product, StripeError> {
    products
        .get_mut(id)
        .filter(|product| !product.deleted)
        .ok_or_else(|| StripeError::no_such("product", id))
}
