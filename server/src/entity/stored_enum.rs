//! Enums that are stored as text. The domain does not depend on the database, so each stored enum of the domain has a
//! counterpart here. The compiler checks that both have the same variants. The texts are the domain's names.

/// Declares the counterpart of an enum of the domain, which needs `ALL` and `name()`.
///
/// The name consists of table and column, such as `UsageReportState`, because the error for an unknown text contains
/// it.
macro_rules! stored_enum {
    ($(#[$doc:meta])* $name:ident of $domain:ident { $($variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $name {
            $($variant,)+
        }

        impl From<$domain> for $name {
            fn from(value: $domain) -> Self {
                match value {
                    $($domain::$variant => Self::$variant,)+
                }
            }
        }

        impl From<$name> for $domain {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => Self::$variant,)+
                }
            }
        }

        impl From<$name> for sea_orm::Value {
            fn from(value: $name) -> Self {
                $domain::from(value).name().into()
            }
        }

        impl $name {
            pub(crate) fn from_text(text: &str) -> Result<Self, sea_orm::DbErr> {
                let found = $domain::ALL.into_iter().find(|value| value.name() == text);
                found.map(Self::from).ok_or_else(|| {
                    let name = stringify!($name);
                    sea_orm::DbErr::Type(format!("unexpected value for {name} enum: {text}"))
                })
            }
        }

        impl sea_orm::TryGetable for $name {
            fn try_get_by<I: sea_orm::ColIdx>(
                row: &sea_orm::QueryResult,
                index: I,
            ) -> Result<Self, sea_orm::TryGetError> {
                let text = String::try_get_by(row, index)?;
                Self::from_text(&text).map_err(sea_orm::TryGetError::DbErr)
            }
        }

        impl sea_orm::sea_query::ValueType for $name {
            fn try_from(value: sea_orm::Value) -> Result<Self, sea_orm::sea_query::ValueTypeErr> {
                let text = <String as sea_orm::sea_query::ValueType>::try_from(value)?;
                Self::from_text(&text).map_err(|_| sea_orm::sea_query::ValueTypeErr)
            }

            fn type_name() -> String {
                stringify!($name).to_owned()
            }

            fn array_type() -> sea_orm::sea_query::ArrayType {
                sea_orm::sea_query::ArrayType::String
            }

            fn column_type() -> sea_orm::ColumnType {
                sea_orm::ColumnType::Text
            }
        }

        impl sea_orm::sea_query::Nullable for $name {
            fn null() -> sea_orm::Value {
                sea_orm::Value::String(None)
            }
        }
    };
}

pub(crate) use stored_enum;
