//! Parts of the page of an account: its link, its subscription, and the comparison with Stripe.

use maud::{Markup, html};
use usage_proto::v1::{
    Account, BillingPeriod, InvoiceComparison, InvoiceFinding, InvoiceState, ReconciledUsage,
    Subscription, account::Billing,
};

use super::{
    html::{foreign, grouped, rfc3339, state, time, words},
    invoice_parts::url_of_invoice,
};

/// Billing periods that are shown, the newest ones.
const MAX_PERIODS: usize = 20;

pub(super) fn link(account: Option<&Account>) -> Markup {
    let Some(account) = account else {
        return html! {
            p .note { "This account is not linked: its usage is counted and shown, and its reports wait for a Stripe customer." }
        };
    };
    html! {
        h2 { "Link" }
        dl {
            @match &account.billing {
                Some(Billing::Stripe(stripe)) => {
                    dt { "Billing" } dd { "Stripe" }
                    dt { "Stripe customer" } dd { (foreign(&stripe.customer)) }
                    dt { "Billed from" } dd { (time(stripe.bill_from)) }
                }
                _ => { dt { "Billing" } dd { "free: counted and shown, never billed" } }
            }
            dt { "Since" } dd { (time(account.valid_from)) }
            dt { "Set at" } dd { (time(account.updated_at)) }
        }
    }
}

pub(super) fn subscription(synced: &Subscription, account: &str) -> Markup {
    html! {
        h2 { "Subscription" }
        dl {
            dt { "Subscription" } dd { (foreign(&synced.subscription)) }
            dt { "Status" } dd { (foreign(&synced.status)) }
            dt { "Billing mode" } dd { (foreign(&synced.billing_mode)) }
            @if synced.cancel_at.is_some() { dt { "Ends at" } dd { (time(synced.cancel_at)) } }
            @if synced.ended_at.is_some() { dt { "Ended at" } dd { (time(synced.ended_at)) } }
            dt { "Read from Stripe" } dd { (time(synced.synced_at)) }
        }
        @if !synced.periods.is_empty() { (periods(&synced.periods, account)) }
    }
}

fn periods(periods: &[BillingPeriod], account: &str) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Billing periods" {
            table {
                caption { "Billing periods, the newest first" }
                thead {
                    tr {
                        th scope="col" { "Start" }
                        th scope="col" { "End" }
                        th scope="col" { "Meter" }
                        th scope="col" { "Price" }
                        th scope="col" { "Invoice" }
                    }
                }
                tbody {
                    @for one in periods.iter().take(MAX_PERIODS) {
                        @let period = one.period.unwrap_or_default();
                        tr {
                            th scope="row" { (time(period.start)) }
                            td { (time(period.end)) }
                            td { (foreign(&one.meter)) }
                            td { (foreign(&one.price)) }
                            td {
                                @match one.invoice_state() {
                                    InvoiceState::Draft => "draft ",
                                    InvoiceState::Final => "final ",
                                    InvoiceState::Unspecified => "not read yet ",
                                }
                                @if !one.invoice.is_empty() { a href=(url_of_invoice(account, &one.invoice)) { bdi .id { (one.invoice) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn comparison(rows: &[ReconciledUsage]) -> Markup {
    html! {
        @if rows.is_empty() { p { "There is nothing to compare." } }
        @for row in rows {
            @let period = row.period.unwrap_or_default();
            h3 { (foreign(&row.meter)) ", " (time(period.start)) " to " (time(period.end)) }
            (totals(row))
            @for waiting in &row.waiting {
                p .warn { "The comparison with invoices of " bdi { (waiting.item) } " waits since " (time(waiting.since)) ": " bdi { (waiting.reason) } }
            }
            @if !row.invoices.is_empty() {
                @let start = period.start.map(rfc3339).unwrap_or_default();
                (invoices(&row.invoices, &format!("Invoices of {}, from {start}", row.meter)))
            }
        }
    }
}

fn totals(row: &ReconciledUsage) -> Markup {
    let is_same = row.counted == row.reported && row.stripe_total == Some(row.reported);
    html! {
        dl {
            dt { "Stripe customer" } dd { (foreign(&row.stripe_customer)) }
            dt { "To be billed" } dd { (grouped(row.counted)) }
            dt { "Accepted by Stripe" } dd { (grouped(row.reported)) }
            dt { "Stripe's total" }
            dd {
                @match row.stripe_total {
                    Some(total) => (grouped(total)),
                    None => span .bad { "could not be read: " bdi { (row.stripe_error) } },
                }
            }
            dt { "Result" } dd { @if is_same { span .ok { "Stripe has all of it" } } @else { span .warn { "the figures differ" } } }
            @for count in &row.states {
                dt { (state(count.state)) }
                dd { (grouped(count.count.map_or(0, |count| count.reports))) " reports, " (grouped(count.count.map_or(0, |count| count.quantity))) " units" }
            }
        }
    }
}

fn invoices(invoices: &[InvoiceComparison], name: &str) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label=(name) {
            table {
                caption { "What invoices charge" }
                thead {
                    tr {
                        th scope="col" { "Price" }
                        th scope="col" { "Item" }
                        th scope="col" { "Finding" }
                        th scope="col" .number { "In Stripe's totals" }
                        th scope="col" .number { "Invoiced" }
                        th scope="col" { "Invoices" }
                        th scope="col" { "Acknowledged" }
                    }
                }
                tbody { @for one in invoices { (invoice(one)) } }
            }
        }
    }
}

fn invoice(one: &InvoiceComparison) -> Markup {
    let class = match one.finding() {
        InvoiceFinding::Equal => "ok",
        _ if one.acknowledged.is_some() => "plain",
        _ => "bad",
    };
    html! {
        tr {
            th scope="row" { (foreign(&one.price)) }
            td { (foreign(&one.item)) }
            td { span class=(class) { (words(one.finding().as_str_name(), "INVOICE_FINDING_")) } }
            td .number { (grouped(one.reported)) }
            td .number { @match one.invoiced { Some(invoiced) => (grouped(invoiced)), None => "–" } }
            td { @for invoice in &one.invoices { a href=(url_of_invoice("", &invoice.id)) { bdi .id { (invoice.id) } } " (" bdi { (invoice.status) } ") " } }
            td {
                @if let Some(known) = &one.acknowledged {
                    (time(known.acknowledged_at)) " " (foreign(&known.requested_by)) ": " (foreign(&known.reason))
                }
            }
        }
    }
}
