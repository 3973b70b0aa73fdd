//! `/shadow`: what was counted and what another integration gave Stripe, by customer, meter and day.

use chrono_tz::Tz;
use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{CompareShadowRequest, CompareShadowResponse, ShadowDay, ShadowFinding};

use super::{
    calls::Failure,
    html::{
        account_link, choice, field, foreign, grouped, json_url, more, rfc3339, time, utc, words,
    },
    layout::Page,
    query::Query,
    visitor::Visitor,
};
use crate::domain::http_paths::HttpPath;

/// Customers on a page: each needs a request to Stripe for each meter.
const CUSTOMERS: i32 = 20;
/// Accounts that a row names.
const NAMED_ACCOUNTS: usize = 3;

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let query = &visitor.query;
    let request = CompareShadowRequest {
        from: query.time("from", Tz::UTC)?,
        until: query.time("until", Tz::UTC)?,
        stripe_customer: query.text("customer"),
        only_differences: query.get("show") == "differences",
        page_size: CUSTOMERS,
        page_token: query.text("page"),
    };
    let json = json!({
        "from": request.from.map(rfc3339),
        "until": request.until.map(rfc3339),
        "stripeCustomer": request.stripe_customer,
        "onlyDifferences": request.only_differences,
        "pageSize": request.page_size,
        "pageToken": request.page_token,
    });
    // No link of another site makes it ask Stripe.
    if !visitor.is_own_request {
        let content = html! {
            h1 { "Shadow mode" }
            (filters(query))
        };
        return Ok(Page::new("Shadow mode", content));
    }
    let found = visitor.calls.compare_shadow(request).await?;
    let address = json_url("OperationsService/CompareShadow", &json);
    let content = html! {
        h1 { "Shadow mode" }
        (side(&found))
        (filters(query))
        p .faint {
            "Days of UTC from " (time(found.from)) " to " (time(found.until))
            ". Stripe’s figure has everything that Stripe got, from any integration. Ours is all usage that was counted for"
            " the customer, also of a trial, or of a time that no subscription charges: these are never sent from here."
        }
        @if found.days.is_empty() {
            p { "No usage to show on either side, for the customers of this page." }
        } @else {
            (table(&found.days))
        }
        @if !found.unlinked_error.is_empty() {
            p .bad {
                "Not all customers that no account is linked to are shown: " (foreign(&found.unlinked_error))
                @if found.next_page_token.is_empty() { " Load this page again to try once more." }
            }
        }
        (more(HttpPath::ConsoleShadow, query, &found.next_page_token, Some(&address)))
    };
    Ok(Page::new("Shadow mode", content))
}

/// Which side bills.
fn side(found: &CompareShadowResponse) -> Markup {
    html! {
        p {
            @match (found.shadow, found.bill_from) {
                (true, Some(at)) => {
                    "Another integration bills usage before " (time(Some(at))) ", and this service what is after it."
                },
                (true, None) => {
                    "Another integration bills. Reports show what would be sent, and nothing is sent."
                },
                (false, Some(at)) => {
                    "This service bills since " (time(Some(at))) ". Usage before that was billed by another integration."
                },
                (false, None) => {
                    "This service bills; there is no other integration to compare with."
                },
            }
        }
    }
}

fn filters(query: &Query) -> Markup {
    let shown = [
        ("", "all days".to_owned()),
        ("differences", "only differences".to_owned()),
    ];
    html! {
        form .filters method="get" action=(HttpPath::ConsoleShadow.name()) role="search" {
            (field(query, "customer", "Stripe customer", "cus_..."))
            (field(query, "from", "From", "2026-03-01"))
            (field(query, "until", "Before", "2026-03-08"))
            (choice(query, "show", "Show", &shown))
            button type="submit" { "Compare" }
        }
    }
}

fn table(days: &[ShadowDay]) -> Markup {
    let caption = "Counted here and at Stripe, by customer, meter and day";
    html! {
        div .scroll tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead {
                    tr {
                        th scope="col" { "Customer" }
                        th scope="col" { "Meter" }
                        th scope="col" { "Day" }
                        th scope="col" .number { "Counted" }
                        th scope="col" .number { "At Stripe" }
                        th scope="col" { "Result" }
                        th scope="col" { "Accounts" }
                    }
                }
                tbody { @for day in days { (row(day)) } }
            }
        }
    }
}

fn row(day: &ShadowDay) -> Markup {
    let date = day.day.and_then(utc);
    let date = date.map_or_else(String::new, |at| at.format("%Y-%m-%d").to_string());
    let class = match day.finding() {
        ShadowFinding::Equal => "ok",
        _ if day.preliminary => "warn",
        _ => "bad",
    };
    html! {
        tr {
            th scope="row" { (foreign(&day.stripe_customer)) }
            td { (foreign(&day.meter)) }
            td { (date) }
            td .number { (grouped(day.counted)) }
            td .number {
                @match day.stripe_total {
                    Some(total) => (grouped(total)),
                    None => span .faint { (foreign(&day.stripe_error)) },
                }
            }
            td {
                span class=(class) { (words(day.finding().as_str_name(), "SHADOW_FINDING_")) }
                @if day.preliminary { " " span .faint { "(not final yet)" } }
            }
            td {
                @for account in day.account_ids.iter().take(NAMED_ACCOUNTS) { (account_link(account)) " " }
                @if day.account_ids.len() > NAMED_ACCOUNTS { "…" }
                @if day.unlinked { span .faint { "not linked here" } }
            }
        }
    }
}
