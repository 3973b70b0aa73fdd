//! The marks of databases in the metadata of products. What a mark says is decided in `domain::sender_mark`.

use std::collections::{BTreeSet, HashMap};

use stripe_product::{
    price::{ListPrice, ListPriceRecurring},
    product::UpdateProduct,
};

use super::{Failure, PAGE_SIZE, Stripe, failure, timed};
use crate::domain::{meter::Meters, sender_mark::StoredMark};

/// The maximum number of products that marks are in.
const MAX_PRODUCTS: usize = 20;

/// A product that a configured meter is sold by, and the marks in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MarkedProduct {
    /// Its id.
    pub(crate) id: String,
    /// The marks, of this database and of others.
    pub(crate) marks: Vec<StoredMark>,
}

impl Stripe {
    /// The products of the newest active prices of the meters. Without a price, a meter charges no one.
    pub(crate) async fn marked_products(
        &self,
        meters: &Meters,
    ) -> Result<Vec<MarkedProduct>, Failure> {
        let mut ids = BTreeSet::new();
        for meter in meters.all() {
            match self.meter_id(&meter.event_name).await {
                Ok(id) => ids.extend(self.products_of(&id).await?),
                Err(Failure::NoMeter(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        let mut products = Vec::new();
        for id in ids.into_iter().take(MAX_PRODUCTS) {
            if let Some(product) = self.find_product(&id).await? {
                let metadata = product.metadata.iter();
                let marks = metadata.filter_map(|(key, value)| StoredMark::read(key, value));
                products.push(MarkedProduct {
                    id,
                    marks: marks.collect(),
                });
            }
        }
        Ok(products)
    }

    async fn products_of(&self, meter: &str) -> Result<Vec<String>, Failure> {
        let mut recurring = ListPriceRecurring::new();
        recurring.meter = Some(meter.to_owned());
        let query = ListPrice::new()
            .active(true)
            .recurring(recurring)
            .limit(PAGE_SIZE);
        let page = timed("prices", query.send(self.client()?))
            .await
            .map_err(|error| failure(&error))?;
        let products = page.data.into_iter();
        Ok(products
            .map(|price| price.product.into_id().to_string())
            .collect())
    }

    /// Writes a mark into a product, in place of the last one of its database.
    pub(crate) async fn write_mark(&self, product: &str, mark: &StoredMark) -> Result<(), Failure> {
        let key = StoredMark::key_of(mark.database);
        let metadata = HashMap::from([(key, mark.to_string())]);
        let request = UpdateProduct::new(product).metadata(metadata);
        match timed("products", request.send(self.client()?)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failure(&error)),
        }
    }
}
