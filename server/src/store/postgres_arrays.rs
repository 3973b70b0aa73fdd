//! Columns of many rows as the arrays of one PostgreSQL statement, whose text is then the same for any number of rows.

use sea_orm::{Value, sea_query::ArrayType};
use uuid::Uuid;

/// Means "no time" in an array, whose elements cannot be null here.
pub(super) const NO_TIME: i64 = i64::MIN;

pub(super) fn texts<'a>(values: impl Iterator<Item = &'a str>) -> Value {
    Value::Array(
        ArrayType::String,
        Some(Box::new(values.map(Value::from).collect())),
    )
}

pub(super) fn numbers(values: impl Iterator<Item = i64>) -> Value {
    Value::Array(
        ArrayType::BigInt,
        Some(Box::new(values.map(Value::from).collect())),
    )
}

pub(super) fn uuids(values: impl Iterator<Item = Uuid>) -> Value {
    Value::Array(
        ArrayType::Uuid,
        Some(Box::new(values.map(Value::from).collect())),
    )
}
