//! Texts that others chose, and addresses that no page links to.

use usage_client::Correct;

use super::Browser;
use crate::support::world::{World, hours_ago, on_sqlite};

on_sqlite!(
    texts_of_others_are_escaped_and_change_no_direction,
    an_address_that_means_nothing_is_a_page_that_says_so,
);

const SCRIPT: &str = "\"><script>alert(1)</script>'&\u{202e}gift";
const ESCAPED: &str =
    "<bdi>&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;'&amp;\u{202e}gift</bdi>";

/// Addresses to which a hostile text is added.
const ADDRESSES: [&str; 35] = [
    "/accounts?id=",
    "/account?id=",
    "/account?id=acct&by=",
    "/account?id=acct&tz=",
    "/account?id=acct&start=",
    "/reports?account=",
    "/reports?state=",
    "/reports?meter=",
    "/reports?from=",
    "/report?account=acct&id=",
    "/runs?state=",
    "/runs?page=",
    "/audit?key=",
    "/audit?account=",
    "/keys?page=",
    "/usage?meter=",
    "/usage?prefix=",
    "/usage?tz=",
    "/invoice?account=",
    "/invoice?invoice=",
    "/invoice?account=acct&report=",
    "/invoice?account=acct&start=",
    "/invoice?as=csv&account=",
    "/find?account=",
    "/find?account=acct&key=",
    "/find?account=acct&key=a&meter=",
    "/verification?account=",
    "/verification?meter=",
    "/verification?state=",
    "/verification?of=",
    "/sign-off?month=",
    "/sign-off?as=csv&month=",
    "/sign-off?month=2026-03&as=",
    "/sign-off?month=2026-03&as=csv&open=",
    "/sign-in?next=",
];

async fn texts_of_others_are_escaped_and_change_no_direction(world: World) {
    let long = "a:".repeat(64);
    let client = world.client();
    for account in ["acct", &long] {
        world.count(account, 9, hours_ago(2)).await;
        let correct = Correct::new(account, -1, SCRIPT).requested_by(SCRIPT);
        client.correct(correct).await.unwrap();
    }
    let browser = Browser::new(world.http_url());
    let reports = browser.get("/reports").await;
    assert!(
        reports
            .text
            .contains(&format!("<bdi class=\"id\">{long}</bdi>"))
    );
    // The page of the correction.
    let links = reports.text.split("href=\"").filter_map(|rest| {
        let link = rest.split('"').next().unwrap();
        link.starts_with("/report?account=acct&")
            .then(|| link.replace("&amp;", "&"))
    });
    let mut corrections = 0;
    for link in links.collect::<Vec<_>>() {
        let page = browser.get(&link).await;
        assert_eq!(page.status, 200);
        if page.text.contains("correction") {
            corrections += 1;
            assert!(page.text.contains(ESCAPED), "{}", page.text);
        }
        assert!(!page.text.contains("<script"));
    }
    assert_eq!(corrections, 1);
    // The reason of a correction, and who entered it, are also on the page of the account.
    let account = browser.get("/account?id=acct").await;
    assert!(account.text.contains(ESCAPED), "{}", account.text);
    assert!(!account.text.contains("<script"));
    let audit = browser.get("/audit").await;
    assert!(!audit.text.contains("<script"));
    assert!(audit.text.contains("&lt;script&gt;"), "{}", audit.text);
    // What the address says is shown as it is, and nowhere believed.
    let script = "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for path in ADDRESSES {
        let page = browser.get(&format!("{path}{script}")).await;
        assert!(page.status < 500, "{path}: {}", page.words());
        assert!(!page.text.contains("<script"), "{path}: {}", page.text);
    }
    world.finish().await;
}

async fn an_address_that_means_nothing_is_a_page_that_says_so(world: World) {
    world.count("acct", 9, hours_ago(2)).await;
    let browser = Browser::new(world.http_url());
    for (path, status, words) in [
        ("/account", 400, "the address has no id of an account"),
        ("/account?id=white%20space", 400, "INVALID_FIELD"),
        ("/account?id=never-seen", 200, "This account is not linked"),
        ("/account?id=acct&by=week", 200, "by is \"week\""),
        (
            "/account?id=acct&start=2026-03-01",
            200,
            "give both a start and an end",
        ),
        ("/account?id=acct&tz=Mars", 200, "time_zone"),
        ("/reports?state=none", 400, "state is \"none\""),
        ("/reports?from=soon", 400, "from is \"soon\""),
        ("/reports?page=x", 400, "PAGE_TOKEN_INVALID"),
        ("/report?account=acct", 400, "the address has no id"),
        (
            "/report?account=acct&id=none",
            404,
            "no such report is listed",
        ),
        ("/runs?page=x", 400, "PAGE_TOKEN_INVALID"),
        ("/keys?page=x", 400, "PAGE_TOKEN_INVALID"),
        ("/sign-off?month=soon", 400, "month is \"soon\""),
        ("/sign-off?month=all", 400, "month is \"all\""),
        ("/sign-off?as=csv", 400, "month is \"\""),
        ("/sign-off?month=2026-03&as=pdf", 400, "as is \"pdf\""),
        ("/audit?from=1&until=2", 400, "from is \"1\""),
        ("/accounts?id=%00", 400, "no account begins with"),
    ] {
        let page = browser.get(path).await;
        let words = words.replace('"', "&quot;");
        page.assert_shows(status, &words);
    }
    for path in ["/accounts/", "/account/acct", "/console.js", "//accounts"] {
        assert_eq!(browser.get(path).await.status, 404, "{path}");
    }
    world.finish().await;
}
