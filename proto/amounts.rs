//! Amounts of money as people write them. The contract has them as Stripe does: whole numbers of a currency's smallest unit.

/// Currencies whose smallest unit is the currency itself.
const WITHOUT_DECIMALS: [&str; 15] = [
    "bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf",
    "xof", "xpf",
];
/// Currencies of a thousand units.
const WITH_THREE_DECIMALS: [&str; 5] = ["bhd", "jod", "kwd", "omr", "tnd"];

/// How many decimals Stripe's amounts of a currency have: those of <https://docs.stripe.com/currencies>. `isk` and `ugx` have
/// two there, although no part of one is paid.
fn decimals_of(currency: &str) -> usize {
    let is_one_of = |known: &[&str]| known.iter().any(|one| one.eq_ignore_ascii_case(currency));
    if is_one_of(&WITHOUT_DECIMALS) {
        0
    } else if is_one_of(&WITH_THREE_DECIMALS) {
        3
    } else {
        2
    }
}

/// An amount in the smallest unit of its currency, three letters, as a decimal number of the currency.
///
/// ```
/// use usage_proto::amounts::decimal_amount;
///
/// assert_eq!(decimal_amount(-1_234, "usd"), "-12.34");
/// assert_eq!(decimal_amount(1_234, "jpy"), "1234");
/// ```
#[must_use]
pub fn decimal_amount(amount: i64, currency: &str) -> String {
    let decimals = decimals_of(currency);
    let width = decimals.saturating_add(1);
    let digits = format!("{:0>width$}", amount.unsigned_abs());
    let (whole, part) = digits.split_at(digits.len().saturating_sub(decimals));
    let sign = if amount < 0 { "-" } else { "" };
    if part.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{part}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_the_decimals_of_its_currency() {
        for (amount, currency, text) in [
            (1_234, "usd", "12.34"),
            (1_200, "EUR", "12.00"),
            (5, "usd", "0.05"),
            (0, "usd", "0.00"),
            (-5, "usd", "-0.05"),
            (-1_234, "gbp", "-12.34"),
            (500, "jpy", "500"),
            (0, "KRW", "0"),
            (-7, "xpf", "-7"),
            (5_120, "kwd", "5.120"),
            (-20, "tnd", "-0.020"),
            (500, "isk", "5.00"),
            (500, "ugx", "5.00"),
            (i64::MAX, "usd", "92233720368547758.07"),
            (i64::MIN, "usd", "-92233720368547758.08"),
            (i64::MIN, "jpy", "-9223372036854775808"),
        ] {
            assert_eq!(decimal_amount(amount, currency), text, "{currency}");
        }
    }
}
