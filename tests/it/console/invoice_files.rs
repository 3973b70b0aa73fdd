//! Explained invoices as files: of many pages, the same as `usagectl` prints, and never a part that looks like the whole.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use reqwest::Client;
use usage_client::{
    Batch, ExplainInvoice, Increment,
    proto::{KeyRole, RevokeKeyRequest},
};

use super::Browser;
use crate::{
    client::usagectl,
    operations::access::{access, create, first_admin, new_key},
    support::world::{
        Engine, World, at,
        billing::{BASIC, TOKENS},
        on_both_engines, on_sqlite, within,
    },
};

on_both_engines!(
    a_search_over_three_pages_repeats_no_line_and_no_report,
    a_file_has_more_than_four_thousand_reports,
    a_file_has_more_than_fifteen_thousand_increments,
    a_file_that_cannot_be_completed_is_broken_off,
);

on_sqlite!(a_file_ends_with_the_key_of_its_reader);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";

/// The rows of a file, by their columns.
fn rows(csv: &str) -> Vec<BTreeMap<&str, &str>> {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), names.len(), "{line}");
        names.iter().copied().zip(cells).collect()
    });
    rows.collect()
}

/// The number of rows of a kind.
fn number_of(rows: &[BTreeMap<&str, &str>], kind: &str) -> usize {
    rows.iter().filter(|row| row["row"] == kind).count()
}

/// Asserts that `usagectl` prints the same file, with the line ends of this system.
async fn assert_printed(world: &World, csv: &str, args: &[&str]) {
    let all = ["--csv", "--limit", "100000"];
    let args: Vec<&str> = ["explain"]
        .iter()
        .chain(args)
        .chain(&all)
        .copied()
        .collect();
    let printed = usagectl::done(world, &args).await;
    let csv = csv.replace("\r\n", "\n");
    let different = csv
        .lines()
        .zip(printed.lines())
        .find(|(one, other)| one != other);
    assert_eq!(different, None);
    assert_eq!(csv.len(), printed.len());
}

/// Counts 650 keyed increments and a keyless one in each of two windows of two meters. The keys of the four reports take turns,
/// so that each page of a search has some of each.
async fn count_in_turns(world: &World) {
    let reports = [
        ("api_calls", 0),
        ("api_calls", 1),
        ("tokens", 0),
        ("tokens", 1),
    ];
    for (place, (meter, hours)) in reports.into_iter().enumerate() {
        let used = world.now() - TimeDelta::hours(hours);
        let of_report = || Increment::new("acct").meter(meter).timestamp(used);
        let keyed = |number: usize| {
            let key = format!("0192f0c1-2b3c-7d4e-8f50-{:012x}", 4 * number + place);
            of_report().key(key).quantity(2)
        };
        let batch: Vec<Increment> = (0..650).map(keyed).collect();
        let client = world.client();
        client.increment_batch(Batch::from(batch)).await.unwrap();
        let keyless = of_report().without_key().quantity(3);
        client.increment(keyless).await.unwrap();
    }
}

async fn a_search_over_three_pages_repeats_no_line_and_no_report(mut world: World) {
    let now = at(END) - TimeDelta::days(1);
    world
        .start_subscribed(now, &[BASIC, TOKENS], at(START))
        .await;
    count_in_turns(&world).await;
    let (mut pages, mut token) = (0, None);
    loop {
        let mut page = ExplainInvoice::of_account("acct").page_size(1_000);
        if let Some(token) = token {
            page = page.page_token(token);
        }
        let page = world.client().explain_invoice(page).await.unwrap();
        pages += 1;
        let reports = page.lines.iter().map(|line| line.reports.len());
        assert_eq!(reports.collect::<Vec<_>>(), [2, 2], "page {pages}");
        token = page.next_page_token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(pages, 3);

    let browser = Browser::new(world.http_url());
    let csv = browser.get("/invoice?account=acct&as=csv").await;
    assert_eq!(csv.status, 200, "{}", csv.text);
    let rows = rows(&csv.text);
    for (kind, number) in [
        ("line", 2),
        ("report", 4),
        ("increment", 4 * 650),
        ("without_key", 4),
    ] {
        assert_eq!(number_of(&rows, kind), number, "{kind}");
    }
    // Whoever adds up the reports, or their parts, has what was counted.
    let mut sums: BTreeMap<&str, [i64; 2]> = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for row in rows.iter().filter(|row| row["row"] != "line") {
        let part = usize::from(row["row"] != "report");
        sums.entry(row["report"]).or_default()[part] += row["quantity"].parse::<i64>().unwrap();
        assert!(row["row"] != "increment" || keys.insert(row["key"]));
    }
    assert_eq!(sums.len(), 4);
    assert!(
        sums.values().all(|sums| *sums == [1_303, 1_303]),
        "{sums:?}"
    );
    assert_printed(&world, &csv.text, &["acct"]).await;
    world.finish().await;
}

/// Stores reports of an account in one billing period that ends now, and the period with an invoice.
async fn store_reports(world: &World, account: &str, reports: i64, quantity: i64) {
    const WINDOW_MS: i64 = 20 * 60 * 1_000;
    let id = match world.engine {
        Engine::Sqlite => "randomblob(16)",
        Engine::Postgres => "gen_random_uuid()",
    };
    let end = world.now().timestamp_millis();
    let start = end - reports * WINDOW_MS;
    let sql = format!(
        "INSERT INTO billing_periods (account_id, item, period_start, period_end, recorded_at, meter, invoice, invoice_state) \
         VALUES ('{account}', 'si_calls', {start}, {end}, {start}, 'api_calls', 'in_{account}', 'final')"
    );
    world.execute_sql(&sql).await;
    let sql = format!(
        "INSERT INTO usage_reports (account_id, id, meter, window_start, window_end, period_end, closed_at, quantity, \
         first_at, last_at, state) WITH RECURSIVE n(i) AS (SELECT CAST(0 AS bigint) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {reports}) \
         SELECT '{account}', {id}, 'api_calls', {start} + i * {WINDOW_MS}, {start} + (i + 1) * {WINDOW_MS}, \
         {start} + (i + 1) * {WINDOW_MS}, {start} + (i + 1) * {WINDOW_MS}, {quantity}, {start} + i * {WINDOW_MS} + 1, \
         {start} + i * {WINDOW_MS} + 1, 'confirmed' FROM n"
    );
    world.execute_sql(&sql).await;
}

async fn a_file_has_more_than_four_thousand_reports(mut world: World) {
    const REPORTS: usize = 4_321;
    store_reports(&world, "acct", 4_321, 5).await;
    let browser = Browser::new(world.http_url());
    let path = "/invoice?account=acct&invoice=in_acct&as=csv";
    for (increments, args, parts) in [
        ("", &["acct", "--invoice", "in_acct"][..], REPORTS),
        (
            "&increments=no",
            &["acct", "--invoice", "in_acct", "--without-increments"][..],
            0,
        ),
    ] {
        let csv = browser.get(&format!("{path}{increments}")).await;
        assert_eq!(csv.status, 200, "{}", csv.text);
        let rows = rows(&csv.text);
        assert_eq!(number_of(&rows, "line"), 1);
        assert_eq!(number_of(&rows, "report"), REPORTS);
        assert_eq!(number_of(&rows, "without_key"), parts);
        assert_eq!(rows.len(), 1 + REPORTS + parts);
        assert_eq!(rows[0]["reported"], "21605");
        let ids: BTreeSet<&str> = rows.iter().map(|row| row["report"]).collect();
        assert_eq!(ids.len(), 1 + REPORTS);
        assert_printed(&world, &csv.text, args).await;
    }
    // A page has as many reports as are asked for, if no increments are searched for.
    let page = ExplainInvoice::of_invoice("in_acct").page_size(1_000);
    for (page, reports) in [(page.clone(), 100), (page.without_increments(), 1_000)] {
        let page = world.client().explain_invoice(page).await.unwrap();
        assert_eq!(page.lines[0].reports.len(), reports);
    }
    // These reports were never counted.
    world.crash();
}

/// Gives each report so many increments of one unit.
async fn store_increments(world: &World, increments: i64) {
    let key = match world.engine {
        Engine::Sqlite => "randomblob(16)",
        Engine::Postgres => "gen_random_uuid()",
    };
    let sql = format!(
        "INSERT INTO idempotency_keys (key, account_id, meter, quantity, created_at, report_id) \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {increments}) \
         SELECT {key}, r.account_id, r.meter, 1, r.first_at, r.id FROM usage_reports AS r, n WHERE r.account_id = 'acct'"
    );
    world.execute_sql(&sql).await;
}

async fn a_file_has_more_than_fifteen_thousand_increments(mut world: World) {
    store_reports(&world, "acct", 20, 805).await;
    store_increments(&world, 800).await;
    let browser = Browser::new(world.http_url());
    let path = "/invoice?account=acct&invoice=in_acct&as=csv";
    let csv = browser.get(path).await;
    assert_eq!(csv.status, 200, "{}", csv.text);
    let rows = rows(&csv.text);
    assert_eq!(number_of(&rows, "report"), 20);
    assert_eq!(number_of(&rows, "increment"), 16_000);
    let rest = rows.iter().filter(|row| row["row"] == "without_key");
    let rest: Vec<&str> = rest.map(|row| row["quantity"]).collect();
    assert_eq!(rest, ["5"; 20]);
    let keys = rows.iter().map(|row| row["key"]);
    // And one that is empty.
    assert_eq!(keys.collect::<BTreeSet<_>>().len(), 16_001);
    assert_printed(&world, &csv.text, &["acct", "--invoice", "in_acct"]).await;
    // These reports were never counted.
    world.crash();
}

async fn a_file_that_cannot_be_completed_is_broken_off(mut world: World) {
    // The first page is full. The line after it has more lines of invoices than are read.
    store_reports(&world, "acct", 1_000, 5).await;
    let end = world.now().timestamp_millis();
    let start = end - 1_000;
    let period = format!(
        "INSERT INTO billing_periods (account_id, item, period_start, period_end, recorded_at, meter, invoice, invoice_state) \
         VALUES ('acct', 'si_tokens', {start}, {end}, {start}, 'tokens', 'in_acct', 'final')"
    );
    world.execute_sql(&period).await;
    let lines = format!(
        "INSERT INTO invoice_lines (account_id, invoice, line, invoice_status, invoice_created, item, period_start, \
         line_start, line_end, amount, currency, read_at) \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1001) \
         SELECT 'acct', 'in_acct', 'il_' || i, 'open', {start}, 'si_tokens', {start}, {start}, {end}, 1, 'usd', {end} FROM n"
    );
    world.execute_sql(&lines).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let path = "/invoice?account=acct&invoice=in_acct&increments=no&as=csv";
    let url = format!("{}{path}", world.http_url());
    let answer = within("an answer", client.get(url).send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let file = within("the end of the file", answer.text()).await;
    assert!(file.is_err(), "{file:?}");
    // With one line less it is complete.
    world
        .execute_sql("DELETE FROM invoice_lines WHERE line = 'il_1001'")
        .await;
    let whole = Browser::new(world.http_url()).get(path).await;
    assert_eq!(whole.status, 200);
    let rows = rows(&whole.text);
    assert_eq!(number_of(&rows, "report"), 1_000);
    assert_eq!(number_of(&rows, "invoice_line"), 1_000);
    let one = rows
        .iter()
        .find(|row| row["row"] == "invoice_line")
        .unwrap();
    assert_eq!((one["amount"], one["currency"]), ("0.01", "usd"));
    assert_eq!(
        (one["invoices"], one["invoice_status"]),
        ("in_acct", "open")
    );
    // These reports were never counted.
    world.crash();
}

async fn a_file_ends_with_the_key_of_its_reader(mut world: World) {
    // More than the connection holds unread.
    store_reports(&world, "acct", 100, 805).await;
    store_increments(&world, 800).await;
    let (_, root) = first_admin(&world).await;
    let mut keys = access(&world, Some(&root)).await;
    let reader = create(&mut keys, new_key("reader", KeyRole::Reader)).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&reader.text).await;
    let path = "/invoice?account=acct&invoice=in_acct&as=csv";
    let mut answer = within("an answer", browser.begin(path)).await;
    assert_eq!(answer.status(), 200);
    let begun = within("a part", answer.chunk()).await.unwrap();
    assert!(begun.is_some());
    let id = reader.key.unwrap().id;
    keys.revoke_key(RevokeKeyRequest { id }).await.unwrap();
    let file = within("the end of the file", answer.bytes()).await;
    assert!(file.is_err(), "all {} bytes were sent", file.unwrap().len());
    // These reports were never counted.
    world.crash();
}
