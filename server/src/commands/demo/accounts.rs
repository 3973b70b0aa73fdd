//! The accounts, meters and hours of the demo.

/// The linked accounts and their Stripe customers.
pub(super) const LINKED: [(&str, &str); 2] = [("account-a", "cus_a"), ("account-b", "cus_b")];
/// The free account.
pub(super) const FREE: &str = "account-free";
/// The meters: their names, and the event names at Stripe.
pub(super) const METERS: [(&str, &str); 2] = [("api_calls", "api_calls"), ("tokens", "llm_tokens")];
/// The age of the demo's oldest usage, in hours.
pub(super) const HOURS: i64 = 6;
