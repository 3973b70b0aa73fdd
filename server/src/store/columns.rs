//! The columns of an entity, for statements that sea-orm does not write.
//!
//! A later version adds columns while this one runs. PostgreSQL refuses a prepared statement from then on whose result
//! is `*`, because its columns have changed.

use sea_orm::{EntityTrait, IdenStatic as _, Iterable as _};

/// The columns of a table that is called `name` in the statement: `r.id, r.meter`.
pub(super) fn columns<E: EntityTrait>(name: &str) -> String {
    let columns = E::Column::iter().map(|column| format!("{name}.{}", column.as_str()));
    columns.collect::<Vec<_>>().join(", ")
}
