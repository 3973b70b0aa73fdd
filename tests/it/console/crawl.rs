//! Every link of every page leads to a page, and none to elsewhere.

use std::collections::BTreeSet;

use usage_client::Correct;

use super::{Answer, Browser, keys};
use crate::{
    operations::access::client,
    support::world::{World, hours_ago, on_both_engines},
};

on_both_engines!(every_page_is_reached_and_has_no_outside_address);

/// More pages than a small service has.
const MAX_PAGES: usize = 2_000;
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The values of some attributes.
fn attributes(text: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for name in ["href", "src", "action"] {
        for (at, _) in text.match_indices(&format!(" {name}=\"")) {
            let rest = &text[at + name.len() + 3..];
            let value = rest.split('"').next().unwrap();
            found.push((name, value.replace("&amp;", "&")));
        }
    }
    found
}

async fn every_page_is_reached_and_has_no_outside_address(world: World) {
    world.link_to_new_customer("acct/1", "cus_1").await;
    world.count("acct/1", 7, hours_ago(3)).await;
    world.count("acct/1", 5, hours_ago(2)).await;
    world.count("unlinked", 3, hours_ago(2)).await;
    world.report_all().await;
    let [admin, ..] = keys(&world).await;
    let with_key = client(world.endpoint(), &admin).await;
    let correct = Correct::new("acct/1", -1, "a gift").requested_by("ann");
    with_key.correct(correct).await.unwrap();
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    let mut waiting = vec!["/".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        assert!(seen.len() < MAX_PAGES, "{seen:?}");
        let page = browser.get(&path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.words());
        if path.starts_with("/usage.v1.") {
            assert_eq!(page.header("content-type"), "application/json");
            let answer = serde_json::from_str::<serde_json::Value>(&page.text);
            assert!(answer.unwrap().is_object(), "{path}");
            continue;
        }
        assert_protected(&path, &page);
        if path.starts_with("/console.css") {
            assert!(page.header("cache-control").contains("immutable"));
            assert_eq!(page.header("content-type"), "text/css; charset=utf-8");
            continue;
        }
        if path.contains("as=csv") {
            assert_eq!(page.header("content-type"), "text/csv; charset=utf-8");
            continue;
        }
        if path.contains("as=jsonl") {
            let lines = "application/jsonl; charset=utf-8";
            assert_eq!(page.header("content-type"), lines);
            continue;
        }
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(page.header("cache-control"), "no-store");
        assert_page(&path, &page.text);
        assert_has_json(&path, &page);
        for (name, value) in attributes(&page.text) {
            let target = value.split('#').next().unwrap();
            let is_ours = target.is_empty() || target.starts_with('/') || target == "data:,";
            assert!(
                is_ours && !target.starts_with("//"),
                "{path}: {name} {value}"
            );
            if name == "href" && target.starts_with('/') {
                waiting.push(target.to_owned());
            }
        }
    }
    assert_all_seen(&seen);
    for other in ["/console.css", "/console.css?v=0123456789abcdef"] {
        let styles = browser.get(other).await;
        assert_eq!(styles.header("cache-control"), "no-cache", "{other}");
    }
    world.finish().await;
}

/// Each kind of page was among those that were seen.
fn assert_all_seen(seen: &BTreeSet<String>) {
    for page in [
        "/accounts",
        "/usage",
        "/account?",
        "/invoice?",
        "/find",
        "/verification",
        "/sign-off?",
        "/reports",
        "/report?",
        "/runs",
        "/run?",
        "/shadow",
        "/audit",
        "/keys",
        "/set-up",
        "/correct?",
        "/force",
        "/usage.v1.",
        "/console.css",
    ] {
        assert!(
            seen.iter().any(|path| path.starts_with(page)),
            "{page}: {seen:?}"
        );
    }
    assert!(
        seen.iter().any(|path| path.contains("compare=yes")),
        "{seen:?}"
    );
}

/// The headers of each answer of the console.
fn assert_protected(path: &str, page: &Answer) {
    assert_eq!(page.header("content-security-policy"), POLICY, "{path}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("x-frame-options"), "DENY");
    assert_eq!(page.header("referrer-policy"), "same-origin");
    assert!(!page.header("x-request-id").is_empty());
}

/// A page that shows something has a link to it as JSON, which is followed as any other.
fn assert_has_json(path: &str, page: &Answer) {
    let forms = ["/correct", "/force", "/resolve", "/sign-in"];
    let page_path = path.split('?').next().unwrap();
    // Nothing was asked for, or the call has nothing either.
    let is_empty = ["/find", "/invoice", "/sign-off"].contains(&path)
        || page.text.contains("No line is known here");
    if is_empty || forms.contains(&page_path) {
        return;
    }
    let links = attributes(&page.text).into_iter();
    let mut links = links.filter(|(name, _)| *name == "href");
    let has_json = links.any(|(_, target)| target.starts_with("/usage.v1."));
    assert!(has_json, "{path}: {}", page.words());
}

/// What each page has, whatever it shows.
fn assert_page(path: &str, text: &str) {
    assert!(
        text.starts_with("<!DOCTYPE html><html lang=\"en\">"),
        "{path}"
    );
    for (part, count) in [
        ("usage-billing</title>", 1),
        ("<h1", 1),
        ("<main id=\"main\"", 1),
        ("href=\"#main\"", 1),
        ("name=\"viewport\"", 1),
    ] {
        assert_eq!(text.matches(part).count(), count, "{path}: {part}");
    }
    for never in ["<script", "style=\"", " onclick", "javascript:"] {
        assert!(!text.contains(never), "{path}: {never}");
    }
    // Each column and row says what it is.
    assert_eq!(
        text.matches("<th ").count(),
        text.matches(" scope=\"").count(),
        "{path}"
    );
    assert!(!text.contains("<th>"), "{path}");
    // Each field has a label.
    for (at, _) in text.match_indices(" id=\"field-") {
        let id = text[at + 5..].split('"').next().unwrap();
        assert!(text.contains(&format!("for=\"{id}\"")), "{path}: {id}");
    }
    let fields = ["<input ", "<select ", "<textarea "];
    let fields: usize = fields.map(|field| text.matches(field).count()).iter().sum();
    let hidden = text.matches("type=\"hidden\"").count();
    assert_eq!(text.matches("<label ").count(), fields - hidden, "{path}");
}
