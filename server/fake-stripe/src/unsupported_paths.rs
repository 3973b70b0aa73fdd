//! What Stripe's API has and the fake Stripe does not: these paths are refused as unsupported, all others are unknown. The
//! list is from the API reference and Stripe's client libraries.

/// Resources of which nothing is supported, by the first part of their path.
const RESOURCES: &[&str] = &[
    "account_links",
    "account_sessions",
    "accounts",
    "apple_pay",
    "application_fees",
    "apps",
    "balance_settings",
    "balance_transactions",
    "billing_portal",
    "charges",
    "checkout",
    "climate",
    "confirmation_tokens",
    "country_specs",
    "coupons",
    "credit_notes",
    "customer_sessions",
    "disputes",
    "entitlements",
    "ephemeral_keys",
    "exchange_rates",
    "file_links",
    "files",
    "financial_connections",
    "forwarding",
    "identity",
    "invoice_payments",
    "invoice_rendering_templates",
    "invoiceitems",
    "issuing",
    "linked_accounts",
    "mandates",
    "payment_attempt_records",
    "payment_intents",
    "payment_links",
    "payment_method_configurations",
    "payment_method_domains",
    "payment_methods",
    "payment_records",
    "payouts",
    "plans",
    "product_catalog",
    "promotion_codes",
    "quotes",
    "radar",
    "refunds",
    "reporting",
    "reviews",
    "setup_attempts",
    "setup_intents",
    "shipping_rates",
    "sigma",
    "sources",
    "subscription_schedules",
    "tax",
    "tax_codes",
    "tax_ids",
    "tax_rates",
    "terminal",
    "test_helpers",
    "three_d_secure",
    "tokens",
    "topups",
    "transfers",
    "treasury",
    "webhook_endpoints",
];

/// Endpoints of resources that are supported in part; `*` is any one part.
const ENDPOINTS: &[&str] = &[
    "GET balance/history",
    "GET balance/history/*",
    "* billing/alerts",
    "* billing/alerts/*",
    "POST billing/alerts/*/*",
    "* billing/feedback_options",
    "* billing/feedback_options/*",
    "POST billing/feedback_options/*/deactivate",
    "GET billing/credit_balance_summary",
    "GET billing/credit_balance_transactions",
    "GET billing/credit_balance_transactions/*",
    "* billing/credit_grants",
    "* billing/credit_grants/*",
    "POST billing/credit_grants/*/*",
    "GET customers/search",
    "* customers/*/balance_transactions",
    "* customers/*/balance_transactions/*",
    "* customers/*/bank_accounts",
    "* customers/*/cards",
    "* customers/*/cash_balance",
    "GET customers/*/cash_balance_transactions",
    "GET customers/*/cash_balance_transactions/*",
    "DELETE customers/*/discount",
    "POST customers/*/funding_instructions",
    "GET customers/*/payment_methods",
    "GET customers/*/payment_methods/*",
    "* customers/*/sources",
    "* customers/*/sources/*",
    "POST customers/*/sources/*/verify",
    "* customers/*/subscriptions",
    "* customers/*/subscriptions/*",
    "* customers/*/tax_ids",
    "* customers/*/tax_ids/*",
    "POST invoices",
    "GET invoices/search",
    "DELETE invoices/*",
    "POST invoices/*/add_lines",
    "POST invoices/*/attach_payment",
    "POST invoices/*/lines/*",
    "POST invoices/*/remove_lines",
    "POST invoices/*/send",
    "POST invoices/*/update_lines",
    "* products/*/features",
    "* products/*/features/*",
    "DELETE subscriptions/*/discount",
    "POST subscriptions/*/pause",
];

/// Whether Stripe has this endpoint, and the fake Stripe does not.
pub(crate) fn is_unsupported(method: &str, path: &str) -> bool {
    if path.starts_with("/v2/") {
        return true;
    }
    let Some(path) = path.strip_prefix("/v1/") else {
        return false;
    };
    let resource = path.split('/').next().unwrap_or_default();
    RESOURCES.contains(&resource)
        || ENDPOINTS.iter().any(|endpoint| {
            let Some((wanted_method, template)) = endpoint.split_once(' ') else {
                return false;
            };
            (wanted_method == "*" || wanted_method == method) && fits(template, path)
        })
}

fn fits(template: &str, path: &str) -> bool {
    let (wanted, found) = (template.split('/'), path.split('/'));
    wanted.clone().count() == found.clone().count()
        && wanted
            .zip(found)
            .all(|(wanted, found)| wanted == found || (wanted == "*" && !found.is_empty()))
}
