//! A service that has something on each page of its console, and the addresses of all of them.

use std::collections::{BTreeMap, VecDeque};

use fake_stripe::Fault;
use usage_client::{
    Batch, Correct, ForceReport, Increment, ListReports, PutAccount, ReportState, ResolveAction,
    ResolveReport, UsageClient, proto::KeyRole,
};
use usage_server::domain::http_paths::HttpPath;

use super::super::{Browser, keys};
use crate::{
    operations::access::{access, client, create, new_key},
    support::world::{World, hours_ago, poll},
};

/// Days with usage.
const DAYS: i64 = 28;
/// Paths that are no page: where forms are sent to, and the styles. Each form is sent by a test of its page.
const NO_PAGES: [&str; 2] = ["/sign-out", "/console.css"];
/// Pages that no page links to, and addresses that show more than the first link to the same page. START and END are the days
/// with usage.
const CHOSEN: [(&str, &str); 3] = [
    ("/sign-in", "/sign-in"),
    (
        "/account",
        "/account?id=acme&compare=yes&start=START&end=END",
    ),
    ("/reports", "/reports"),
];
/// Pages that say why there is no other.
pub(super) const REFUSALS: [(&str, &str); 2] = [
    ("not-found", "/report?account=acme&id=none"),
    ("not-valid", "/reports?state=none&from=soon"),
];
/// Addresses of one path that are followed in search of others.
const FOLLOWED: usize = 4;

/// Fills a world; returns the texts of an admin's, a reader's and a writer's key.
pub(super) async fn fill(world: &World) -> [String; 3] {
    let [admin, reader, writer] = keys(world).await;
    let client = client(world.endpoint(), &admin).await;
    for (account, customer) in [("acme", "cus_acme"), ("globex", "cus_globex")] {
        let created = world.stripe().create_subscribed_customer(customer).await;
        created.unwrap();
        let link = PutAccount::stripe(account, customer).bill_from(hours_ago(30 * 24));
        client.put_account(link).await.unwrap();
    }
    let free = PutAccount::free("initech/trial");
    client.put_account(free).await.unwrap();
    let days = (1..=DAYS).flat_map(|day| {
        let at = hours_ago(day * 24);
        let usage = |account: &str, meter: &str, quantity| {
            Increment::new(account)
                .meter(meter)
                .quantity(quantity)
                .timestamp(at)
        };
        // A week has a shape.
        let factor = [9, 11, 12, 10, 8, 3, 2][usize::try_from(day % 7).unwrap()];
        [
            usage("acme", "api_calls", 1_210 * factor),
            usage("acme", "tokens", 31_400 * factor),
            usage("globex", "api_calls", 700 + 90 * factor),
            usage("initech/trial", "tokens", 55 * factor),
        ]
    });
    let batch = days.collect::<Batch>();
    client.increment_batch(batch).await.unwrap();
    report_all(&client).await;
    reject(world, &client, "globex", 1_234).await;
    reject(world, &client, "acme", 57).await;
    let correct = Correct::new("acme", -300, "an outage on Monday").requested_by("ann");
    client.correct(correct).await.unwrap();
    let put = Increment::new("newcomer")
        .quantity(12)
        .timestamp(hours_ago(3));
    client.increment(put).await.unwrap();
    let mut admins = access(world, Some(&admin)).await;
    for name in ["billing exports", "gateway eu-west"] {
        create(&mut admins, new_key(name, KeyRole::Writer)).await;
    }
    [admin, reader, writer]
}

async fn report_all(client: &UsageClient) {
    let run = client.force_report(ForceReport::all());
    let mut run = run.await.unwrap();
    while run.next().await.unwrap().is_some() {}
}

/// Lets Stripe reject a report; of one account it is written off.
async fn reject(world: &World, client: &UsageClient, account: &str, quantity: i64) {
    let usage = Increment::new(account)
        .quantity(quantity)
        .timestamp(hours_ago(2));
    client.increment(usage).await.unwrap();
    let refuse = Fault::status(400).on_path("/v1/billing/meter_events");
    world.stripe().script(refuse).await.unwrap();
    report_all(client).await;
    let found = poll("a rejected report", async || {
        let rejected = ListReports::new()
            .account(account)
            .states(vec![ReportState::Rejected]);
        client.list_reports(rejected).await.unwrap().reports.pop()
    })
    .await;
    if account == "acme" {
        let id = &found.id;
        let gift = ResolveReport::new(
            account,
            id,
            ResolveAction::WriteOff,
            "a gift to a new customer",
        );
        client
            .resolve_report(gift.requested_by("ann"))
            .await
            .unwrap();
    }
}

/// A name and an address for each page of the console. Fails for a page that no link leads to and that is not named above.
pub(super) async fn addresses(world: &World, key: &str) -> Vec<(String, String)> {
    let browser = Browser::new(world.http_url());
    browser.sign_in(key).await;
    // The sizes of the pages of each path.
    let mut found: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut waiting = VecDeque::from([("/".to_owned(), true)]);
    while let Some((address, is_link)) = waiting.pop_front() {
        let path = address.split('?').next().unwrap().to_owned();
        let is_page = HttpPath::find(&path).is_some_and(HttpPath::is_console);
        let known = found.entry(path.clone()).or_default();
        let is_full = known.len() == FOLLOWED || known.contains_key(&address);
        if !is_page || NO_PAGES.contains(&&*path) || is_full {
            continue;
        }
        let page = browser.get(&address).await;
        if page.status != 200 {
            assert!(!is_link, "{address}: {}", page.words());
            continue;
        }
        // A path may have the same as a file, too.
        if !page.header("content-type").starts_with("text/html") {
            continue;
        }
        known.insert(address, page.text.len());
        for (name, is_link) in [(" href=\"", true), (" action=\"", false)] {
            let addresses = page.text.split(name).skip(1);
            let addresses = addresses.map(|rest| rest.split(['"', '#']).next().unwrap());
            let own = addresses.filter(|address| address.starts_with('/'));
            waiting.extend(own.map(|address| (address.replace("&amp;", "&"), is_link)));
        }
    }
    let pages = HttpPath::ALL.into_iter().filter(|path| path.is_console());
    let pages = pages
        .map(HttpPath::name)
        .filter(|path| !NO_PAGES.contains(path));
    let addresses = pages.map(|path| {
        let chosen = CHOSEN.iter().find(|(name, _)| *name == path);
        let day = |ago: i64| hours_ago(ago * 24).format("%Y-%m-%d").to_string();
        let chosen = chosen.map(|(_, address)| {
            let since = address.replace("START", &day(DAYS + 1));
            since.replace("END", &day(-1))
        });
        // The page with the most on it.
        let found = || {
            let known = found.get(path)?.iter().max_by_key(|(_, size)| **size)?;
            Some(known.0.clone())
        };
        let address = chosen.or_else(found);
        let address = address.unwrap_or_else(|| {
            panic!("no page links to {path}: name an address of it in CHOSEN, or, if it only takes forms, in NO_PAGES")
        });
        let name = path.trim_matches('/').replace('/', "-");
        (if name.is_empty() { "overview".to_owned() } else { name }, address)
    });
    addresses.collect()
}
