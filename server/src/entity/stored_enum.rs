//! Enums as text columns store them. The domain knows nothing of the database, so each of its enums that is
//! stored has a twin here, and the compiler checks that both have the same variants.

/// Declares an enum with the text of each variant, and conversions from and to the domain's enum.
///
/// The name says table and column, such as `UsageReportState`: it is what the error of an unknown text names,
/// next to the text.
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
