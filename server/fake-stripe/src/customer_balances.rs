//! The credit balance of customers: what Stripe sets off against the next finalized invoice. A negative balance is owed to
//! the customer, a positive one by it: amounts too small to be charged, which Stripe adds to the balance.
//!
//! The smallest amounts are those of Stripe's page about supported currencies, of accounts that are paid out in the same
//! currency. A customer has one currency at a time.

use std::collections::HashMap;

use crate::errors::StripeError;

/// The smallest amount that is charged, by currency, in its minor unit.
const SMALLEST_CHARGES: &[(&str, i64)] = &[
    ("aed", 200),
    ("aud", 50),
    ("brl", 50),
    ("cad", 50),
    ("chf", 50),
    ("czk", 1_500),
    ("dkk", 250),
    ("eur", 50),
    ("gbp", 30),
    ("hkd", 400),
    ("huf", 17_500),
    ("inr", 50),
    ("jpy", 50),
    ("mxn", 1_000),
    ("myr", 200),
    ("nok", 300),
    ("nzd", 50),
    ("pln", 200),
    ("ron", 200),
    ("sek", 300),
    ("sgd", 50),
    ("thb", 1_000),
    ("usd", 50),
];

/// The balances of all customers, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Balances {
    of: HashMap<String, Balance>,
}

/// The balance of a customer, in the currency of its subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) amount: i64,
    pub(crate) currency: String,
}

/// How an invoice and a balance are set off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AfterBalance {
    /// What is left to pay.
    pub(crate) due: i64,
    /// The balance afterwards.
    pub(crate) balance: i64,
}

impl Balances {
    pub(crate) fn find(&self, customer: &str) -> Option<&Balance> {
        self.of.get(customer)
    }

    pub(crate) fn amount(&self, customer: &str) -> i64 {
        self.find(customer).map_or(0, |balance| balance.amount)
    }

    /// Sets the currency of a customer that starts a subscription.
    pub(crate) fn start(&mut self, customer: &str, currency: &str) -> Result<(), StripeError> {
        let amount = self.amount(customer);
        let before = self.find(customer).map(|balance| balance.currency.as_str());
        if amount != 0 && before.is_some_and(|before| before != currency) {
            return Err(StripeError::unsupported(format!(
                "a subscription in {currency} of the customer {customer} with a balance in another currency"
            )));
        }
        let currency = currency.to_owned();
        self.of
            .insert(customer.to_owned(), Balance { amount, currency });
        Ok(())
    }

    /// Adds to a balance.
    pub(crate) fn add(&mut self, customer: &str, amount: i64) {
        if let Some(balance) = self.of.get_mut(customer) {
            balance.amount = balance.amount.saturating_add(amount);
        }
    }
}

/// Sets off the total of an invoice against a balance.
pub(crate) fn apply_balance(total: i64, balance: i64, currency: &str) -> AfterBalance {
    let owed = total.saturating_add(balance);
    if owed < smallest_charge(currency).unwrap_or(0) {
        AfterBalance {
            due: 0,
            balance: owed,
        }
    } else {
        AfterBalance {
            due: owed.max(0),
            balance: owed.min(0),
        }
    }
}

/// Checks the currency of a price: one whose smallest charge is known.
pub(crate) fn check_currency(currency: &str) -> Result<(), StripeError> {
    let is_code = currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_lowercase());
    if !is_code {
        return Err(
            StripeError::invalid(format!("Invalid currency: {currency}.")).param("currency"),
        );
    }
    if smallest_charge(currency).is_none() {
        return Err(StripeError::unsupported(format!("currency={currency}")).param("currency"));
    }
    Ok(())
}

/// The smallest amount that is charged in a currency; `None` where the fake Stripe does not know the currency.
fn smallest_charge(currency: &str) -> Option<i64> {
    SMALLEST_CHARGES
        .iter()
        .find(|(known, _)| *known == currency)
        .map(|(_, amount)| *amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_and_small_amounts_move_to_the_balance() {
        let applied = |total, balance| {
            let after = apply_balance(total, balance, "usd");
            (after.due, after.balance)
        };
        assert_eq!(applied(300, 0), (300, 0));
        assert_eq!(applied(-300, 0), (0, -300));
        assert_eq!(applied(200, -300), (0, -100));
        assert_eq!(applied(1_000, -300), (700, 0));
        assert_eq!(applied(49, 0), (0, 49));
        assert_eq!(applied(50, 0), (50, 0));
        assert_eq!(applied(30, 49), (79, 0));
        assert_eq!(applied(0, 0), (0, 0));
    }
}
