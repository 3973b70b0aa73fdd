//! Enums that are stored as text. The domain does not depend on the database, so each stored enum of the domain has a
//! counterpart here. The compiler checks that both have the same variants.

/// Declares an enum with the text of each variant, and conversions from and to the domain's enum.
///
/// The name consists of table and column, such as `UsageReportState`, because the error for an unknown text contains
/// it.
macro_rules! stored_enum {
    ($(#[$doc:meta])* $name:ident of $domain:ident { $($variant:ident = $text:tt),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
        #[sea_orm(rs_type = "String", db_type = "Text")]
        pub(crate) enum $name {
            $(#[sea_orm(string_value = $text)] $variant,)+
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
    };
}

pub(crate) use stored_enum;
