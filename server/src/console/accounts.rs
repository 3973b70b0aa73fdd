//! `/accounts`: the accounts with their recent usage, all of them or those whose id begins with a text, and those of a Stripe customer.

use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{
    Account, BillingPeriod, ListAccountsRequest, ListAccountsResponse, RecentUsage,
    account::Billing,
};

use super::{
    calls::Failure,
    chart,
    html::{ROWS, account_link_in, field, foreign, grouped, json_url, more_named, time},
    layout::Page,
    visitor::Visitor,
    zone::{self, Zone},
};
use crate::{
    domain::{http_paths::HttpPath, violation::quoted},
    rpc::accounts_from,
};

/// The meters of one account that are shown.
const MAX_METERS: usize = 3;
/// The days whose usage is shown one by one.
const DAYS: u32 = 30;
/// What the id of a Stripe customer begins with.
const CUSTOMER: &str = "cus_";

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let wanted = visitor.query.get("id");
    let zone = visitor.zone.zone()?;
    let request = request(wanted, visitor.query.get("page"), zone).ok_or_else(|| {
        Failure::invalid(format!(
            "no account begins with {}: ids have 1 to 128 characters out of A-Z a-z 0-9 . _ : @ / + = -",
            quoted(wanted)
        ))
    })?;
    let mut page = visitor.calls.list_accounts(request.clone()).await?;
    keep_prefix(&mut page, wanted);
    let name = if wanted.is_empty() {
        "The same as JSON"
    } else {
        "All accounts from here on as JSON"
    };
    let mut links = vec![(json_of(&request), name)];
    if let Some(request) = of_customer(wanted, zone) {
        // On the first page only.
        if visitor.query.get("page").is_empty() {
            let found = visitor.calls.list_accounts(request.clone()).await?;
            add(&mut page, found.accounts);
            page.usage.extend(found.usage);
        }
        links.push((json_of(&request), "Accounts of the Stripe customer as JSON"));
    }
    let links: Vec<_> = links.iter().map(|(link, name)| (&**link, *name)).collect();
    let content = html! {
        h1 { "Accounts" }
        form .filters method="get" action=(HttpPath::ConsoleAccounts.name()) role="search" {
            (zone::hidden(visitor))
            (field(&visitor.query, "id", "Account, beginning of one, or Stripe customer", "cus_…"))
            button type="submit" { "Find" }
        }
        @if page.accounts.is_empty() && page.counted.is_empty() {
            p { "There is no account here." }
        } @else {
            (zone.note(zone.last_days(visitor.now, DAYS)))
            (table(&page, zone, visitor.zone.named()))
        }
        (more_named(HttpPath::ConsoleAccounts, &visitor.query, &page.next_page_token, &links))
    };
    Ok(Page::new("Accounts", content))
}

/// For the accounts of a customer, if one may be wanted. Ids of accounts can begin in the same way.
fn of_customer(wanted: &str, zone: Zone) -> Option<ListAccountsRequest> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_customer = wanted.starts_with(CUSTOMER) && wanted.bytes().all(is_part);
    is_customer.then(|| ListAccountsRequest {
        page_size: ROWS,
        include_usage: true,
        time_zone: zone.wire_name(),
        stripe_customer: wanted.to_owned(),
        ..ListAccountsRequest::default()
    })
}

fn json_of(request: &ListAccountsRequest) -> String {
    let json = json!({
        "pageSize": request.page_size,
        "pageToken": request.page_token,
        "stripeCustomer": request.stripe_customer,
        "includeCounted": request.include_counted,
        "includeUsage": request.include_usage,
        "timeZone": request.time_zone,
    });
    json_url("AccountService/ListAccounts", &json)
}

/// Adds accounts that a page does not have.
fn add(page: &mut ListAccountsResponse, accounts: Vec<Account>) {
    for account in accounts {
        let is_same = |known: &Account| known.account_id == account.account_id;
        if !page.accounts.iter().any(is_same) {
            page.accounts.push(account);
        }
    }
}

/// None if no id begins with what is wanted.
fn request(wanted: &str, token: &str, zone: Zone) -> Option<ListAccountsRequest> {
    let mut request = ListAccountsRequest {
        page_size: ROWS,
        page_token: token.to_owned(),
        stripe_customer: String::new(),
        include_counted: true,
        include_usage: true,
        time_zone: zone.wire_name(),
    };
    if token.is_empty() && !wanted.is_empty() {
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
fn table(page: &ListAccountsResponse, zone: Zone, named: &str) -> Markup {
    let linked = page.accounts.iter();
    let linked = linked.map(|account| (account.account_id.as_str(), Some(account)));
    let counted = page.counted.iter().map(|id| (id.as_str(), None));
    let mut accounts: Vec<_> = linked.chain(counted).collect();
    accounts.sort_by_key(|(id, _)| *id);
    html! {
        div .scroll tabindex="0" role="region" aria-label="Accounts" {
            table {
                caption { "Accounts by id, with the usage of the present period to date, of the last one, and of the last " (DAYS) " days in " (zone.name()) }
                thead {
                    tr {
                        th scope="col" { "Account" }
                        th scope="col" { "Billing" }
                        th scope="col" { "Stripe customer" }
                        th scope="col" { "Subscription" }
                        th scope="col" { "Status" }
                        th scope="col" { "Plan" }
                        th scope="col" { "Now" }
                        th scope="col" { "Last period" }
                        th scope="col" { "30 days" }
                        th scope="col" { "Since" }
                    }
                }
                tbody { @for (id, account) in accounts { (row((id, named), account, &usage_of(page, id))) } }
            }
        }
    }
}

/// The usage of an account on the page, of each meter once.
fn usage_of<'a>(page: &'a ListAccountsResponse, id: &str) -> Vec<&'a RecentUsage> {
    let own = page.usage.iter().filter(|usage| usage.account_id == id);
    let mut own: Vec<_> = own.collect();
    own.sort_by(|one, other| one.meter.cmp(&other.meter));
    own.dedup_by(|one, other| one.meter == other.meter);
    own
}

/// The prices that charge the account at a time, or in its newest periods.
fn prices(account: Option<&Account>) -> Vec<&str> {
    let synced = account.and_then(|account| account.subscription.as_ref());
    let periods = synced.map_or(&[][..], |synced| &synced.periods);
    let end = |one: &BillingPeriod| {
        let end = one.period.and_then(|period| period.end);
        end.map(|end| (end.seconds, end.nanos))
    };
    let newest = periods.iter().map(end).max();
    let of_newest = periods.iter().filter(|one| Some(end(one)) == newest);
    let mut prices: Vec<&str> = of_newest.map(|one| one.price.as_str()).collect();
    prices.sort_unstable();
    prices.dedup();
    prices
}

fn figures(usage: &[&RecentUsage], figure: impl Fn(&RecentUsage) -> Option<i64>) -> Markup {
    html! {
        @if usage.is_empty() { span .faint { "–" } }
        @for one in usage.iter().take(MAX_METERS) {
            div { (foreign(&one.meter)) " " @match figure(one) { Some(figure) => (grouped(figure)), None => span .faint { "–" } } }
        }
        @if usage.len() > MAX_METERS { div { "and " (usage.len().saturating_sub(MAX_METERS)) " more" } }
    }
}

fn row((id, named): (&str, &str), account: Option<&Account>, usage: &[&RecentUsage]) -> Markup {
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
            th scope="row" { (account_link_in(id, named)) }
            td { (billing) }
            td { (foreign(customer.unwrap_or_default())) }
            td { (foreign(synced.map_or("", |synced| &synced.subscription))) }
            td { (foreign(synced.map_or("", |synced| &synced.status))) }
            td { @for price in prices(account) { div { (foreign(price)) } } }
            td { (figures(usage, |one| one.quantity)) }
            td { (figures(usage, |one| one.previous_quantity)) }
            td {
                @for one in usage.iter().take(MAX_METERS) {
                    @let name = format!("{} of {id}, {} in 30 days", one.meter, grouped(one.days.iter().copied().fold(0, i64::saturating_add)));
                    (chart::sparkline(&one.days, &name))
                }
            }
            td { (time(account.and_then(|account| account.valid_from))) }
        }
    }
}
