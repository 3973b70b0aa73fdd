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
    html::{ROWS, account_link, field, foreign, grouped, json_url, more_named, time},
    layout::Page,
    visitor::Visitor,
};
use crate::domain::{account_id::AccountId, http_paths::HttpPath, violation::quoted};

/// The meters of one account that are shown.
const MAX_METERS: usize = 3;
/// What the id of a Stripe customer begins with.
const CUSTOMER: &str = "cus_";

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let wanted = visitor.query.get("id");
    if !wanted.is_empty() && AccountId::parse(wanted).is_err() {
        return Err(Failure::invalid(format!(
            "no account begins with {}: ids have 1 to 128 characters out of A-Z a-z 0-9 . _ : @ / + = -",
            quoted(wanted)
        )));
    }
    let request = request(wanted, visitor.query.get("page"));
    let mut page = visitor.calls.list_accounts(request.clone()).await?;
    let mut links = vec![(json_of(&request), "The same as JSON")];
    if let Some(request) = of_customer(wanted) {
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
            (field(&visitor.query, "id", "Account, beginning of one, or Stripe customer", "cus_…"))
            button type="submit" { "Find" }
        }
        @if page.accounts.is_empty() && page.counted.is_empty() {
            p { "There is no account here." }
        } @else {
            (table(&page))
        }
        (more_named(HttpPath::ConsoleAccounts, &visitor.query, &page.next_page_token, &links))
    };
    Ok(Page::new("Accounts", content))
}

/// For the accounts of a customer, if one may be wanted. Ids of accounts can begin in the same way.
fn of_customer(wanted: &str) -> Option<ListAccountsRequest> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_customer = wanted.starts_with(CUSTOMER) && wanted.bytes().all(is_part);
    is_customer.then(|| ListAccountsRequest {
        page_size: ROWS,
        include_usage: true,
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
        "accountPrefix": request.account_prefix,
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

/// The accounts whose ids begin with what is wanted.
fn request(wanted: &str, token: &str) -> ListAccountsRequest {
    ListAccountsRequest {
        page_size: ROWS,
        page_token: token.to_owned(),
        stripe_customer: String::new(),
        include_counted: true,
        include_usage: true,
        account_prefix: wanted.to_owned(),
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
                caption { "Accounts by id, with the usage of the present period to date, of the last one, and of the last 30 days in UTC" }
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
                tbody { @for (id, account) in accounts { (row(id, account, &usage_of(page, id))) } }
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

/// Why there is no figure of a period that began before what is read.
const TOO_OLD: &str = "The period began more than 70 days ago, and this list reads the last 70 days. The page of the account has the figure.";
/// Why there is no figure of the last period.
const NONE_BEFORE: &str = "No billing period before the present one is known.";
/// Why there is no figure of an account.
const NO_USAGE: &str = "There is no usage of the last 70 days, which is what this list reads.";

/// In the place of a figure that is not known. It is no zero.
fn no_figure(why: &str) -> Markup {
    html! { span .faint title=(why) { "–" } }
}

fn figures(
    usage: &[&RecentUsage],
    figure: impl Fn(&RecentUsage) -> Result<i64, &'static str>,
) -> Markup {
    html! {
        @if usage.is_empty() { (no_figure(NO_USAGE)) }
        @for one in usage.iter().take(MAX_METERS) {
            div { (foreign(&one.meter)) " " @match figure(one) { Ok(figure) => (grouped(figure)), Err(why) => (no_figure(why)) } }
        }
        @if usage.len() > MAX_METERS { div { "and " (usage.len().saturating_sub(MAX_METERS)) " more" } }
    }
}

/// The usage of the present period.
fn present(usage: &RecentUsage) -> Result<i64, &'static str> {
    usage.quantity.ok_or(TOO_OLD)
}

/// The usage of the last period.
fn last(usage: &RecentUsage) -> Result<i64, &'static str> {
    let why = match usage.previous_period {
        Some(_) => TOO_OLD,
        None => NONE_BEFORE,
    };
    usage.previous_quantity.ok_or(why)
}

fn row(id: &str, account: Option<&Account>, usage: &[&RecentUsage]) -> Markup {
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
            td { @for price in prices(account) { div { (foreign(price)) } } }
            td { (figures(usage, present)) }
            td { (figures(usage, last)) }
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

#[cfg(test)]
mod tests {
    use usage_proto::v1::Period;

    use super::*;

    #[test]
    fn a_figure_that_is_not_known_says_why() {
        let known = RecentUsage {
            quantity: Some(0),
            previous_quantity: Some(7),
            ..RecentUsage::default()
        };
        assert_eq!((present(&known), last(&known)), (Ok(0), Ok(7)));
        let yearly = RecentUsage::default();
        assert_eq!(
            (present(&yearly), last(&yearly)),
            (Err(TOO_OLD), Err(NONE_BEFORE))
        );
        let long = RecentUsage {
            previous_period: Some(Period::default()),
            ..RecentUsage::default()
        };
        assert_eq!(last(&long), Err(TOO_OLD));
        let shown = figures(&[&long], last).into_string();
        assert!(shown.contains(&format!("title=\"{TOO_OLD}\"")), "{shown}");
    }
}
