//! What kinds of webhook events Stripe sends, as far as they matter here. Pure.

use std::fmt;

/// The kind of a webhook event: Stripe's `type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookKind {
    /// A customer was deleted.
    CustomerDeleted,
    /// An invoice was created. It is a draft at first.
    InvoiceCreated,
    /// Anything else about an invoice, with Stripe's name.
    OtherOfInvoice(String),
    /// Anything about a subscription, with Stripe's name.
    OfSubscription(String),
    /// Stripe refused events of a meter after it had accepted them.
    MeterErrors,
    /// Stripe has no meter for events that it had accepted.
    NoMeter,
    /// Anything else, with Stripe's name: not needed.
    Other(String),
}

const CUSTOMER_DELETED: &str = "customer.deleted";
const INVOICE_CREATED: &str = "invoice.created";
const METER_ERRORS: &str = "v1.billing.meter.error_report_triggered";
const NO_METER: &str = "v1.billing.meter.no_meter_found";

impl WebhookKind {
    /// Reads Stripe's name.
    pub fn parse(name: &str) -> Self {
        match name {
            CUSTOMER_DELETED => Self::CustomerDeleted,
            INVOICE_CREATED => Self::InvoiceCreated,
            METER_ERRORS => Self::MeterErrors,
            NO_METER => Self::NoMeter,
            _ if name.starts_with("invoice.") => Self::OtherOfInvoice(name.to_owned()),
            _ if name.starts_with("customer.subscription.") => {
                Self::OfSubscription(name.to_owned())
            }
            _ => Self::Other(name.to_owned()),
        }
    }

    /// Stripe's name, such as `invoice.created`.
    pub fn name(&self) -> &str {
        match self {
            Self::CustomerDeleted => CUSTOMER_DELETED,
            Self::InvoiceCreated => INVOICE_CREATED,
            Self::MeterErrors => METER_ERRORS,
            Self::NoMeter => NO_METER,
            Self::OtherOfInvoice(name) | Self::OfSubscription(name) | Self::Other(name) => name,
        }
    }

    /// Whether the service needs this kind of event.
    pub fn is_relevant(&self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Whether an invoice was created or changed.
    pub fn is_of_invoice(&self) -> bool {
        matches!(self, Self::InvoiceCreated | Self::OtherOfInvoice(_))
    }

    /// Whether Stripe says that it did not count events which it had accepted.
    pub fn is_of_meter(&self) -> bool {
        matches!(self, Self::MeterErrors | Self::NoMeter)
    }
}

impl fmt::Display for WebhookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_an_invoice_is_relevant() {
        for (name, is_relevant) in [
            ("customer.subscription.updated", true),
            ("invoice.created", true),
            ("invoice.voided", true),
            ("customer.deleted", true),
            ("v1.billing.meter.error_report_triggered", true),
            ("v1.billing.meter.no_meter_found", true),
            ("customer.updated", false),
            ("invoiceitem.created", false),
            ("invoice_payment.paid", false),
            ("charge.failed", false),
        ] {
            let kind = WebhookKind::parse(name);
            assert_eq!(kind.is_relevant(), is_relevant, "{name}");
            assert_eq!(kind.name(), name, "the name stays as Stripe sent it");
            assert_eq!(kind.is_of_invoice(), name.starts_with("invoice."));
        }
    }
}
