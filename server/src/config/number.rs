//! Values with limits. An error says what is allowed, also if the text is no number or no address at all.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, str::FromStr};

/// Parses a whole number within limits.
pub(crate) fn within<T>(
    limits: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text: &str| {
        let number = text.parse::<T>().ok();
        let number = number.filter(|number| limits.contains(number));
        number.ok_or_else(|| {
            let (least, most) = (limits.start(), limits.end());
            format!("must be a whole number from {least} to {most}")
        })
    }
}

/// Parses an address to listen on.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse();
    address.map_err(|_| "must be an IP address and a port, such as 127.0.0.1:50051".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_outside_of_its_limits_is_refused_with_them() {
        let parse = within::<u32>(5..=1_000);
        for (text, number) in [("5", 5), ("1000", 1_000), ("+7", 7)] {
            assert_eq!(parse(text), Ok(number));
        }
        for wrong in ["", "4", "1001", "-1", "many", "7.0", "99999999999999999999"] {
            let error = parse(wrong).unwrap_err();
            assert_eq!(error, "must be a whole number from 5 to 1000", "{wrong}");
        }
    }
}
