//! The domain's account id as the type of a text column. Reading a column whose text is no account id is an error
//! that names the column and the text.

use sea_orm::{
    ColIdx, ColumnType, DbErr, QueryResult, TryFromU64, TryGetError, TryGetable, Value,
    sea_query::{ArrayType, Nullable, ValueType, ValueTypeErr},
};

use crate::domain::account_id::AccountId;

impl From<AccountId> for Value {
    fn from(id: AccountId) -> Self {
        id.as_str().into()
    }
}

impl From<&AccountId> for Value {
    fn from(id: &AccountId) -> Self {
        id.as_str().into()
    }
}

impl TryGetable for AccountId {
    fn try_get_by<I: ColIdx>(row: &QueryResult, index: I) -> Result<Self, TryGetError> {
        let text = String::try_get_by(row, index)?;
        Self::parse(&text).map_err(|violation| {
            TryGetError::DbErr(DbErr::Type(format!(
                "invalid value in column {index:?}: {}",
                violation.message
            )))
        })
    }
}

impl ValueType for AccountId {
    fn try_from(value: Value) -> Result<Self, ValueTypeErr> {
        let text = <String as ValueType>::try_from(value)?;
        Self::parse(&text).map_err(|_| ValueTypeErr)
    }

    fn type_name() -> String {
        "AccountId".to_owned()
    }

    fn array_type() -> ArrayType {
        ArrayType::String
    }

    fn column_type() -> ColumnType {
        ColumnType::Text
    }
}

impl Nullable for AccountId {
    fn null() -> Value {
        Value::String(None)
    }
}

impl TryFromU64 for AccountId {
    fn try_from_u64(_: u64) -> Result<Self, DbErr> {
        Err(DbErr::ConvertFromU64("AccountId"))
    }
}
