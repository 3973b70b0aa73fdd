//! Which forms act: those of this console, of whoever may change something.

use usage_client::{
    ForceReport, ListReports, ReportState,
    proto::{KeyRole, RevokeKeyRequest},
};

use super::{Answer, Browser, form_token, keys, pages::reject};
use crate::{
    operations::access::{access, client, create, first_admin, limited_key, new_key},
    support::world::{Server, World, hours_ago, on_sqlite, poll},
};

on_sqlite!(
    forms_of_other_sites_and_without_a_token_do_nothing,
    readers_and_writers_see_no_form_and_are_refused,
    the_form_of_an_ended_session_leads_to_signing_in,
    a_limited_key_acts_where_its_calls_may,
    without_a_key_pages_only_read_unless_they_may_write,
    a_form_that_is_too_large_is_not_read,
);

const CORRECT: &str = "/correct?account=acct";
/// All that a correction needs.
const FIELDS: [(&str, &str); 5] = [
    ("meter", "api_calls"),
    ("quantity", "7"),
    ("reason", "a gift"),
    ("key", "once"),
    ("step", "do"),
];

fn with_token(token: &str) -> Vec<(&str, &str)> {
    let mut fields = FIELDS.to_vec();
    fields.push(("token", token));
    fields
}

async fn corrections(world: &World) -> i64 {
    world
        .count_rows("usage_reports WHERE kind = 'correction'")
        .await
}

async fn forms_of_other_sites_and_without_a_token_do_nothing(world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    let token = form_token(&browser.get("/runs").await);
    let fields = with_token(&token);
    for headers in [
        [("origin", "https://evil.example"), ("accept", "*/*")],
        [("origin", "null"), ("accept", "*/*")],
        [
            ("sec-fetch-site", "cross-site"),
            ("origin", world.http_url()),
        ],
        [("sec-fetch-site", "same-site"), ("accept", "*/*")],
    ] {
        for path in [CORRECT, "/force", "/resolve?account=acct&id=x"] {
            let refused = browser.post_with(path, &fields, &headers).await;
            refused.assert_shows(403, "FOREIGN_FORM");
        }
    }
    let other = Browser::new(world.http_url());
    other.sign_in(&admin).await;
    let token_of_another = form_token(&other.get("/runs").await);
    for wrong in ["", "0", &token_of_another] {
        let refused = browser.post(CORRECT, &with_token(wrong)).await;
        refused.assert_shows(403, "FOREIGN_FORM");
    }
    assert_eq!(browser.post(CORRECT, &FIELDS).await.status, 403);
    // No form at all.
    let json = browser
        .client
        .post(format!("{}{CORRECT}", world.http_url()));
    let json = json.body(format!("{{\"token\": \"{token}\"}}"));
    assert_eq!(browser.send(json, &[]).await.status, 400);
    // No link acts.
    let link =
        format!("{CORRECT}&meter=api_calls&quantity=7&reason=x&key=once&step=do&token={token}");
    assert_eq!(browser.get(&link).await.status, 200);
    assert_eq!(corrections(&world).await, 0);
    // The form itself does.
    assert_eq!(browser.post(CORRECT, &fields).await.status, 303);
    assert_eq!(corrections(&world).await, 1);
    world.finish().await;
}

async fn readers_and_writers_see_no_form_and_are_refused(world: World) {
    reject(&world).await;
    let [admin, reader, writer] = keys(&world).await;
    let admins = client(world.endpoint(), &admin).await;
    let listed = admins.list_reports(ListReports::new().account("acct"));
    let report = listed.await.unwrap().reports.remove(0);
    let window = report.window.start.format("%Y-%m-%dT%H:%M:%SZ");
    let of = |page: &str| format!("/{page}?account=acct&id={}&window={window}", report.id);
    for key in [&reader, &writer] {
        let browser = Browser::new(world.http_url());
        browser.sign_in(key).await;
        let page = browser.get("/runs").await;
        let token = form_token(&page);
        for path in ["/account?id=acct", "/runs", &of("report")] {
            let page = browser.get(path).await;
            for form in ["resolve-form", "/correct", "/force"] {
                assert!(!page.text.contains(form), "{path}: {form}");
            }
        }
        for path in [CORRECT, "/force", &of("resolve"), "/run?id=0"] {
            assert_eq!(browser.get(path).await.status, 403, "{path}");
        }
        for path in [CORRECT, "/force", &of("resolve")] {
            let mut fields = with_token(&token);
            fields.extend([("action", "write_off"), ("scope", "all"), ("etag", "x")]);
            let refused = browser.post(path, &fields).await;
            refused.assert_shows(403, "PERMISSION_DENIED");
        }
    }
    let listed = admins.list_reports(ListReports::new().account("acct"));
    let report = listed.await.unwrap().reports.remove(0);
    assert_eq!(report.state, ReportState::Rejected);
    assert_eq!(corrections(&world).await, 0);
    // As refused calls are, these are in the audit.
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    let audit = browser.get("/audit").await;
    for action in ["ResolveReport", "Correct", "ForceReport"] {
        audit.assert_shows(200, &format!("{action} – failed"));
    }
    world.finish().await;
}

async fn the_form_of_an_ended_session_leads_to_signing_in(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut admins = access(&world, Some(&admin)).await;
    let own = create(&mut admins, new_key("own", KeyRole::Admin)).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&own.text).await;
    let token = form_token(&browser.get("/runs").await);
    let id = own.key.unwrap().id;
    admins.revoke_key(RevokeKeyRequest { id }).await.unwrap();
    let refused: Answer = poll("the end of the session", async || {
        // It names no account, so nothing is done while the key is still valid.
        let page = browser.post("/correct", &with_token(&token)).await;
        (page.status == 401).then_some(page)
    })
    .await;
    refused.assert_shows(401, "Sign in");
    let refused = browser.post(CORRECT, &with_token(&token)).await;
    assert!(
        refused
            .text
            .contains("name=\"next\" value=\"/correct?account=acct\""),
        "{}",
        refused.text
    );
    assert_eq!(corrections(&world).await, 0);
    world.finish().await;
}

async fn a_limited_key_acts_where_its_calls_may(world: World) {
    world.link_to_new_customer("own", "cus_own").await;
    world.count("own", 5, hours_ago(2)).await;
    let (_, admin) = first_admin(&world).await;
    let mut admins = access(&world, Some(&admin)).await;
    let limited = limited_key("limited", KeyRole::Admin, &["own"], &[]);
    let limited = create(&mut admins, limited).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&limited.text).await;
    let token = form_token(&browser.get("/account?id=own").await);
    let refused = browser.post(CORRECT, &with_token(&token)).await;
    refused.assert_shows(403, "the key is limited to other accounts");
    let done = browser
        .post("/correct?account=own", &with_token(&token))
        .await;
    assert_eq!(done.status, 303, "{}", done.words());
    let force = |scope| {
        let key = uuid::Uuid::now_v7().to_string();
        [
            ("token", token.clone()),
            ("scope", scope),
            ("accounts", "own".to_owned()),
            ("reason", "now".to_owned()),
            ("key", key),
            ("step", "do".to_owned()),
        ]
    };
    let all = force("all".to_owned());
    let all = all.each_ref().map(|(name, value)| (*name, value.as_str()));
    browser
        .post("/force", &all)
        .await
        .assert_shows(403, "use a key without limits");
    let some = force("accounts".to_owned());
    let some = some.each_ref().map(|(name, value)| (*name, value.as_str()));
    let begun = browser.post("/force", &some).await;
    assert_eq!(begun.status, 303, "{}", begun.words());
    // It may watch its own run, and learns nothing of others.
    let page = browser.get(begun.header("location")).await;
    page.assert_shows(200, "Closed");
    let root = client(world.endpoint(), &admin).await;
    let run = root.force_report(ForceReport::accounts(["other"])).await;
    let other = run.unwrap().run_id().unwrap().to_owned();
    for id in [other, uuid::Uuid::now_v7().to_string()] {
        let refused = browser.get(&format!("/run?id={id}")).await;
        refused.assert_shows(403, "PERMISSION_DENIED");
        refused.assert_shows(403, "use a key without limits");
    }
    world.finish().await;
}

async fn without_a_key_pages_only_read_unless_they_may_write(mut world: World) {
    world.count("acct", 5, hours_ago(2)).await;
    let browser = Browser::new(world.http_url());
    let page = browser.get("/account?id=acct").await;
    assert!(!page.text.contains("/correct"), "{}", page.text);
    browser
        .get(CORRECT)
        .await
        .assert_shows(403, "CONSOLE_READ_ONLY");
    let refused = browser.post(CORRECT, &FIELDS).await;
    refused.assert_shows(403, "CONSOLE_READ_ONLY");
    assert_eq!(corrections(&world).await, 0);
    world.stop().await;
    let mut config = world.config();
    config.console_writes_without_key = true;
    let server = Server::start(config, world.clock.clone()).await;
    let browser = Browser::new(server.http_url());
    browser
        .get(CORRECT)
        .await
        .assert_shows(200, "Correct usage of acct");
    // There is no session whose token a form could have, so the browser has to say where it comes from.
    let unsaid = browser.post_with(CORRECT, &FIELDS, &[]).await;
    unsaid.assert_shows(403, "FOREIGN_FORM");
    let evil = [("origin", "https://evil.example")];
    let foreign = browser.post_with(CORRECT, &FIELDS, &evil).await;
    foreign.assert_shows(403, "FOREIGN_FORM");
    let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
    let foreign = browser.post_with(CORRECT, &FIELDS, &rebound).await;
    foreign.assert_shows(421, "HOST_NOT_LOCAL");
    assert_eq!(corrections(&world).await, 0);
    let done = browser.post(CORRECT, &FIELDS).await;
    assert_eq!(done.status, 303, "{}", done.words());
    assert_eq!(corrections(&world).await, 1);
    server.stop().await.unwrap();
    world.finish().await;
}

async fn a_form_that_is_too_large_is_not_read(world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    let token = form_token(&browser.get("/runs").await);
    for (path, limit) in [(CORRECT, 65_536), ("/force", 524_288)] {
        let large = "x".repeat(limit + 1);
        let mut fields = with_token(&token);
        fields.push(("more", &large));
        let refused = browser.post(path, &fields).await;
        refused.assert_shows(400, &format!("it may have {limit} bytes"));
    }
    assert_eq!(corrections(&world).await, 0);
    world.finish().await;
}
