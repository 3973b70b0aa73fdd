//! Invoices line by line, one increment, and what verification found.

use chrono::TimeDelta;
use fake_stripe::Fault;
use usage_client::{ExplainInvoice, Increment, InvoiceLine, ReportState};

use super::{Answer, Browser, keys, links};
use crate::{
    client::usagectl,
    support::world::{
        World, at,
        billing::{BASIC, TOKENS},
        hours_ago, on_both_engines,
    },
};

on_both_engines!(
    an_invoice_is_shown_line_by_line,
    what_is_not_known_is_said_on_the_page,
    verification_shows_what_is_not_charged_and_why,
);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";
const KEY: &str = "0192f0c1-2b3c-7d4e-8f50-61728394a5b6";

/// Bills 125 units of the account `acct`, 120 of them with the returned key.
pub(super) async fn invoice(world: &mut World) -> &'static str {
    let now = at(END) - TimeDelta::days(1);
    world
        .start_subscribed(now, &[BASIC, TOKENS], at(START))
        .await;
    let client = world.client();
    let used = world.now();
    let keyed = Increment::new("acct").key(KEY).quantity(120);
    client.increment(keyed.timestamp(used)).await.unwrap();
    let keyless = Increment::new("acct").without_key().quantity(5);
    client.increment(keyless.timestamp(used)).await.unwrap();
    world.advance_past_draft(at(END)).await;
    world
        .advance_until_found("invoice_comparisons WHERE finding = 'equal' AND reported = 125")
        .await;
    KEY
}

async fn an_invoice_is_shown_line_by_line(mut world: World) {
    invoice(&mut world).await;
    let browser = Browser::new(world.http_url());

    // From the call to its report and invoice.
    let found = browser.get(&format!("/find?account=acct&key={KEY}")).await;
    found.assert_shows(200, "Meter api_calls");
    found.assert_shows(200, "Quantity 120");
    found.assert_shows(200, "State invoiced");
    let of_report = link(&found, "/invoice?account=acct&start=").unwrap();
    let of_invoice = link(&found, "/invoice?account=acct&invoice=").unwrap();

    // From the invoice to the call.
    let only = browser.get(&of_report).await;
    only.assert_shows(200, "Accepted by Stripe 125 Invoiced 125 Difference 0");
    only.assert_shows(200, "invoiced 125");
    only.assert_shows(200, "Sum of these reports 125");
    let page = browser.get(&of_invoice).await;
    page.assert_shows(200, "Comparison equal since");
    page.assert_shows(200, &format!("{KEY} 120"));
    // With a key, and without.
    page.assert_shows(200, "120 5 Sum of these reports 125");
    let key = link(&page, "/find?account=acct&key=").unwrap();
    browser.get(&key).await.assert_shows(200, "Quantity 120");
    let report = link(&page, "/report?account=acct").unwrap();
    let report = browser.get(&report).await;
    let back = link(&report, "/invoice?account=acct&start=").unwrap();
    browser.get(&back).await.assert_shows(200, "Difference 0");
    let account = browser.get("/account?id=acct").await;
    account.assert_shows(200, "The present billing period to date");
    assert!(link(&account, "/invoice?account=acct&start=").is_some());
    assert!(link(&account, "/invoice?account=acct&invoice=in_").is_some());

    // The same as JSON and CSV.
    let json = link(&page, "/usage.v1.UsageService/ExplainInvoice?").unwrap();
    let json = browser.get(&json).await;
    assert_eq!(json.status, 200);
    assert!(json.text.contains("\"reported\":\"125\""), "{}", json.text);
    let csv = link(&page, "/invoice?account=acct&invoice=in_").unwrap();
    let csv = format!("{}&as=csv", csv.split("&as=").next().unwrap());
    let csv = browser.get(&csv).await;
    let (_, invoice) = of_invoice.split_once("&invoice=").unwrap();
    let invoice = invoice.split('&').next().unwrap();
    let explained = ExplainInvoice::of_invoice(invoice);
    let explained = world.client().explain_invoice(explained).await.unwrap();
    let charged = &explained.lines[0].invoice_lines[0];
    assert_charged(&page, charged);
    assert_rows(&csv, charged);
    // `usagectl` prints the same, with the line ends of this system.
    let explain = ["explain", "acct", "--invoice", invoice, "--csv"];
    let printed = usagectl::done(&world, &explain).await;
    assert_eq!(csv.text.replace("\r\n", "\n"), printed);
    world.finish().await;
}

/// The first link of a page that begins with a text.
fn link(page: &Answer, start: &str) -> Option<String> {
    links(page, start).into_iter().next()
}

/// The page says what the invoice charges, and where the rest of it is.
fn assert_charged(page: &Answer, charged: &InvoiceLine) {
    let amount = charged.decimal_amount();
    assert!(amount.contains('.'), "{amount}");
    page.assert_shows(200, &format!("125 {amount} USD"));
    page.assert_shows(200, "Metered lines only.");
    let start = "https://dashboard.stripe.com/invoices/";
    let at_stripe = links(page, start);
    assert_eq!(at_stripe, [format!("{start}{}", charged.invoice)]);
}

/// The invoice as CSV: a line with what the invoice charges, a keyed and a keyless part of one report, and a line without any.
fn assert_rows(csv: &Answer, charged: &InvoiceLine) {
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(csv.header("x-content-type-options"), "nosniff");
    let rows: Vec<Vec<&str>> = csv
        .text
        .lines()
        .map(|row| row.split(',').collect())
        .collect();
    let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let parts = ["report", "increment", "without_key", "line"];
    let amount = charged.decimal_amount();
    assert_eq!(names[..3], ["row", "line", "invoice_line"], "{}", csv.text);
    assert_eq!(names[3..7], parts, "{}", csv.text);
    let place = |name| rows[0].iter().position(|column| *column == name).unwrap();
    assert_eq!(rows[1][place("difference")], "0");
    for (column, value) in [
        ("invoices", &*charged.invoice),
        ("quantity", "125"),
        ("invoice_line", &*charged.line),
        ("invoice_status", &*charged.status),
        ("amount", &*amount),
        ("currency", "usd"),
    ] {
        assert_eq!(rows[2][place(column)], value, "{column}");
    }
    assert_eq!(rows[4][place("key")], KEY);
    assert_eq!(rows[4][place("quantity")], "120");
    assert_eq!(rows[5][place("quantity")], "5");
}

async fn what_is_not_known_is_said_on_the_page(world: World) {
    world.count("acct", 9, hours_ago(2)).await;
    let browser = Browser::new(world.http_url());
    for (path, status, words) in [
        ("/invoice", 200, "Give an account, for its billing periods"),
        (
            "/invoice?account=acct",
            200,
            "No line is known here: no billing period",
        ),
        ("/invoice?invoice=in_none", 200, "No line is known here"),
        ("/invoice?account=%20%25", 400, "INVALID_FIELD"),
        ("/invoice?account=acct&start=2026-03-01", 400, "give both"),
        ("/invoice?account=acct&page=x", 400, "PAGE_TOKEN_INVALID"),
        ("/invoice?account=acct&report=x", 400, "report_id"),
        ("/invoice?as=csv", 400, "no account and no invoice"),
        ("/find", 200, "Give an account and the idempotency key"),
        ("/find?account=acct", 200, "idempotency_key is missing"),
        (
            "/find?account=acct&key=never",
            200,
            "No increment with this key",
        ),
    ] {
        let page = browser.get(path).await;
        page.assert_shows(status, words);
    }
    // A reader may see them, and a writer nothing.
    let [_, reader, writer] = keys(&world).await;
    for (key, status) in [(reader, 200), (writer, 403)] {
        let browser = Browser::new(world.http_url());
        browser.sign_in(&key).await;
        for path in ["/usage", "/invoice?account=acct", "/find", "/verification"] {
            assert_eq!(browser.get(path).await.status, status, "{path}");
        }
        let csv = browser.get("/invoice?account=acct&as=csv").await;
        assert_eq!(csv.status, if status == 200 { 404 } else { status });
    }
    let stranger = Browser::new(world.http_url());
    let refused = stranger.get("/invoice?account=acct&as=csv").await;
    refused.assert_shows(401, "Sign in");
    world.finish().await;
}

async fn verification_shows_what_is_not_charged_and_why(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 1_234, hours_ago(30)).await;
    let refuse = Fault::status(400).on_path("/v1/billing/meter_events");
    world.stripe().script(refuse).await.unwrap();
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Rejected])
        .await;
    world.count("other", 7, hours_ago(2)).await;
    let browser = Browser::new(world.http_url());
    let page = browser.get("/verification").await;
    page.assert_shows(200, "BAD reports : rejected: 1 reports");
    page.assert_shows(200, "OK invoices : no difference that is not acknowledged");
    page.assert_shows(200, "acct api_calls 1,234 rejected Stripe refused it");
    page.assert_shows(200, "fix what Stripe says, then retry");
    for (filter, words) in [
        (
            "state=rejected&account=acct&meter=api_calls",
            "1,234 rejected",
        ),
        ("state=missing", "There is none"),
        ("meter=tokens", "There is none"),
    ] {
        let page = browser.get(&format!("/verification?{filter}")).await;
        page.assert_shows(200, words);
    }
    let wrong = browser.get("/verification?state=open").await;
    wrong.assert_shows(400, "no state that waits for a decision");
    // Stripe is asked only by our own links.
    let period = format!(
        "start={}&end={}",
        hours_ago(72).format("%Y-%m-%dT%H:%M:%SZ"),
        hours_ago(0).format("%Y-%m-%dT%H:%M:%SZ")
    );
    let path = format!("/verification?compare=yes&{period}");
    let own = [("sec-fetch-site", "same-origin")];
    let compared = browser.get_with(&path, &own).await;
    compared.assert_shows(200, "To be billed 1,234");
    compared.assert_shows(200, "the figures differ");
    let foreign = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    let page = browser.get_with(&path, &foreign).await;
    page.assert_shows(200, "It asks Stripe for the totals");
    world.finish().await;
}
