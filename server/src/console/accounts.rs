//! `/accounts`: the accounts, all of them or those whose id begins with a text, and the one of a Stripe customer.

use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{Account, ListAccountsRequest, ListAccountsResponse, account::Billing};

use super::{
    calls::Failure,
    html::{ROWS, account_link, field, foreign, json_url, more, time},
    layout::Page,
    visitor::Visitor,
};
use crate::{
    domain::{http_paths::HttpPath, violation::quoted},
    rpc::accounts_from,
};

/// What the id of a Stripe customer begins with.
const CUSTOMER: &str = "cus_";

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let wanted = visitor.query.get("id");
    let request = request(wanted, visitor.query.get("page")).ok_or_else(|| {
        Failure::invalid(format!(
            "no account begins with {}: ids have 1 to 128 characters out of A-Z a-z 0-9 . _ : @ / + = -",
            quoted(wanted)
        ))
    })?;
    let mut page = visitor.calls.list_accounts(request.clone()).await?;
    if !is_customer(wanted) {
        keep_prefix(&mut page, wanted);
    }
    let json = json!({
        "pageSize": request.page_size,
        "pageToken": request.page_token,
        "stripeCustomer": request.stripe_customer,
        "includeCounted": request.include_counted,
    });
    let content = html! {
        h1 { "Accounts" }
        form .filters method="get" action=(HttpPath::ConsoleAccounts.name()) role="search" {
            (field(&visitor.query, "id", "Account, beginning of one, or Stripe customer", "cus_…"))
            button type="submit" { "Find" }
        }
        @if page.accounts.is_empty() && page.counted.is_empty() {
            p { "There is no account here." }
        } @else {
            (table(&page))
        }
        (more(HttpPath::ConsoleAccounts, &visitor.query, &page.next_page_token, Some(&json_url("AccountService/ListAccounts", &json))))
    };
    Ok(Page::new("Accounts", content))
}

fn is_customer(wanted: &str) -> bool {
    wanted.starts_with(CUSTOMER)
}

/// None if no id begins with what is wanted.
fn request(wanted: &str, token: &str) -> Option<ListAccountsRequest> {
    let mut request = ListAccountsRequest {
        page_size: ROWS,
        page_token: token.to_owned(),
        stripe_customer: String::new(),
        include_counted: true,
    };
    if is_customer(wanted) {
        // Only linked accounts have one.
        request.include_counted = false;
        wanted.clone_into(&mut request.stripe_customer);
    } else if token.is_empty() && !wanted.is_empty() {
        // Ids are listed in their order, so those with a beginning follow each other.
        request.page_token = accounts_from(wanted)?;
    }
    Some(request)
}

/// Leaves what does not begin with a text out. Nothing after it does.
fn keep_prefix(page: &mut ListAccountsResponse, prefix: &str) {
    let number =
        |page: &ListAccountsResponse| page.accounts.len().saturating_add(page.counted.len());
    let all = number(page);
    page.accounts
        .retain(|account| account.account_id.starts_with(prefix));
    page.counted.retain(|id| id.starts_with(prefix));
    if number(page) < all {
        page.next_page_token.clear();
    }
}

/// Both lists of a page, by id.
fn table(page: &ListAccountsResponse) -> Markup {
    let linked = page.accounts.iter();
    let linked = linked.map(|account| (account.account_id.as_str(), Some(account)));
    let counted = page.counted.iter().map(|id| (id.as_str(), None));
    let mut accounts: Vec<_> = linked.chain(counted).collect();
    accounts.sort_by_key(|(id, _)| *id);
    html! {
        div .scroll tabindex="0" role="region" aria-label="Accounts" {
            table {
                caption { "Accounts by id" }
                thead {
                    tr {
                        th scope="col" { "Account" }
                        th scope="col" { "Billing" }
                        th scope="col" { "Stripe customer" }
                        th scope="col" { "Subscription" }
                        th scope="col" { "Status" }
                        th scope="col" { "Since" }
                    }
                }
                tbody { @for (id, account) in accounts { (row(id, account)) } }
            }
        }
    }
}

fn row(id: &str, account: Option<&Account>) -> Markup {
    let customer = account.and_then(|account| match &account.billing {
        Some(Billing::Stripe(stripe)) => Some(stripe.customer.as_str()),
        _ => None,
    });
    let billing = match (account, customer) {
        (None, _) => "not linked",
        (Some(_), None) => "free",
        (Some(_), Some(_)) => "Stripe",
    };
    let synced = account.and_then(|account| account.subscription.as_ref());
    html! {
        tr {
            th scope="row" { (account_link(id)) }
            td { (billing) }
            td { (foreign(customer.unwrap_or_default())) }
            td { (foreign(synced.map_or("", |synced| &synced.subscription))) }
            td { (foreign(synced.map_or("", |synced| &synced.status))) }
            td { (time(account.and_then(|account| account.valid_from))) }
        }
    }
}
