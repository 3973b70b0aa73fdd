//! Names of the values of an enum: in the database, in logs and in errors. Pure.

/// Gives an enum its names, and the list of its values. The compiler checks that no value is missing.
macro_rules! names {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            /// Every value.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name, in the database, in logs and in errors.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

pub(crate) use names;
