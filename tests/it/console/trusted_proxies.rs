//! Clients behind a reverse proxy: what one of them does keeps no other out, and the audit tells them apart.

use futures_util::future::join_all;
use tonic::Request;
use usage_client::proto::{KeyRole, ListAuditEntriesRequest};

use super::{Browser, form_token, keys};
use crate::{
    operations::access::{access, new_key},
    support::world::{World, on_both_engines, on_sqlite},
};

on_both_engines!(
    made_up_cookies_keep_no_session_out,
    the_audit_has_the_address_that_a_trusted_proxy_names,
);

on_sqlite!(
    cookies_of_one_client_leave_the_sessions_of_others,
    wrong_keys_of_one_client_leave_the_attempts_of_others,
    without_trusted_proxies_the_header_changes_nothing,
);

const FORWARDED_FOR: &str = "x-forwarded-for";
/// The proxy is on this machine.
const TRUSTED: &str = "--trusted-proxies=127.0.0.1";
const ONE: &str = "203.0.113.1";
const OTHER: &str = "203.0.113.2";

/// The statuses of a page for cookies, fifty at a time.
async fn statuses(
    browser: &Browser,
    client: &str,
    cookies: impl Iterator<Item = String>,
) -> Vec<u16> {
    let cookies: Vec<String> = cookies.collect();
    let mut statuses = Vec::new();
    for some in cookies.chunks(50) {
        let answers = some.iter().map(async |cookie| {
            let cookie = format!("{}={cookie}", browser.cookie_name());
            let headers = [("cookie", cookie.as_str()), (FORWARDED_FOR, client)];
            browser.get_with("/runs", &headers).await.status
        });
        statuses.extend(join_all(answers).await);
    }
    statuses
}

/// The statuses of attempts to sign in with a wrong key.
async fn wrong_keys(world: &World, client: &str, count: usize) -> Vec<u16> {
    let browser = Browser::new(world.http_url());
    let headers = [("origin", world.http_url()), (FORWARDED_FOR, client)];
    let mut statuses = Vec::new();
    for _ in 0..count {
        let fields = [("key", "wrong")];
        let answer = browser.post_with("/sign-in", &fields, &headers).await;
        statuses.push(answer.status);
    }
    statuses
}

async fn made_up_cookies_keep_no_session_out(mut world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    assert_eq!(browser.sign_in(&admin).await.status, 303);
    // The new process has seen no session.
    world.restart().await;
    let made_up = (0..200_u32).map(|number| format!("{number:016x}_{}", "0".repeat(64)));
    let stranger = Browser::new(world.http_url());
    // Not one is a query, so none is told to wait.
    let statuses = statuses(&stranger, ONE, made_up).await;
    assert_eq!(statuses, [401; 200]);
    let browser = browser.at(world.http_url());
    assert_eq!(browser.get("/runs").await.status, 200);
    world.finish().await;
}

async fn cookies_of_one_client_leave_the_sessions_of_others(mut world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    assert_eq!(browser.sign_in(&admin).await.status, 303);
    world.reconfigure(&[TRUSTED]).await;
    // Of someone who knows the id of a key.
    let made_up = (0..200_u32).map(|number| format!("{}_{number:064x}", &admin[3..19]));
    let stranger = Browser::new(world.http_url());
    let statuses = statuses(&stranger, ONE, made_up).await;
    assert!(statuses.contains(&401), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    let browser = browser.at(world.http_url());
    let page = browser.get_with("/runs", &[(FORWARDED_FOR, OTHER)]).await;
    assert_eq!(page.status, 200);
    world.finish().await;
}

async fn wrong_keys_of_one_client_leave_the_attempts_of_others(mut world: World) {
    let [admin, ..] = keys(&world).await;
    world.reconfigure(&[TRUSTED]).await;
    let of_one = wrong_keys(&world, ONE, 30).await;
    assert_eq!(of_one[..10], [401; 10]);
    assert!(of_one.contains(&429), "{of_one:?}");
    // It is the same client, whatever it says itself.
    let made_up = format!("198.51.100.1, unknown, {ONE}");
    let of_one = wrong_keys(&world, &made_up, 10).await;
    assert!(of_one.contains(&429), "{of_one:?}");
    assert_eq!(wrong_keys(&world, OTHER, 10).await, [401; 10]);
    // Those whose header cannot be read have the address of the proxy.
    let unreadable = wrong_keys(&world, "unknown", 30).await;
    assert_eq!(unreadable[..10], [401; 10]);
    assert!(unreadable.contains(&429), "{unreadable:?}");
    let browser = Browser::new(world.http_url());
    let headers = [("origin", world.http_url()), (FORWARDED_FOR, ONE)];
    let fields = [("key", admin.as_str())];
    let signed_in = browser.post_with("/sign-in", &fields, &headers).await;
    assert_eq!(signed_in.status, 303);
    world.finish().await;
}

async fn without_trusted_proxies_the_header_changes_nothing(mut world: World) {
    let [admin, ..] = keys(&world).await;
    for setting in ["--trusted-proxies", "--trusted-proxies=192.0.2.0/24"] {
        world.reconfigure(&[setting]).await;
        assert!(wrong_keys(&world, ONE, 30).await.contains(&429));
        // Another header is no other client.
        let of_other = wrong_keys(&world, OTHER, 10).await;
        assert!(of_other.contains(&429), "{of_other:?}");
    }
    let mut admins = access(&world, Some(&admin)).await;
    let mut create = Request::new(new_key("more", KeyRole::Reader));
    let metadata = create.metadata_mut();
    metadata.insert(FORWARDED_FOR, ONE.parse().unwrap());
    admins.create_key(create).await.unwrap();
    let listed = admins.list_audit_entries(ListAuditEntriesRequest::default());
    let entries = listed.await.unwrap().into_inner().entries;
    assert!(entries.len() >= 4, "{entries:?}");
    for entry in entries {
        assert!(entry.address.starts_with("127.0.0.1:"), "{}", entry.address);
    }
    world.finish().await;
}

async fn the_audit_has_the_address_that_a_trusted_proxy_names(mut world: World) {
    world.reconfigure(&[TRUSTED]).await;
    let [admin, reader, _] = keys(&world).await;
    let mut admins = access(&world, Some(&admin)).await;
    let mut create = Request::new(new_key("more", KeyRole::Reader));
    let metadata = create.metadata_mut();
    metadata.insert(FORWARDED_FOR, "198.51.100.1, 203.0.113.3".parse().unwrap());
    admins.create_key(create).await.unwrap();
    let browser = Browser::new(world.http_url());
    for (key, client, status) in [
        (&reader, "203.0.113.4", 403),
        (&admin, "[2001:db8::5]:80", 200),
    ] {
        let url = format!("{}/usage.v1.AccountService/PutAccount", world.http_url());
        let put = browser.client.post(url).bearer_auth(key);
        let put = put.body(r#"{"accountId":"free","free":{}}"#);
        let headers = [
            ("content-type", "application/json"),
            (FORWARDED_FOR, client),
        ];
        assert_eq!(browser.send(put, &headers).await.status, status);
    }
    assert_eq!(browser.sign_in(&admin).await.status, 303);
    let token = form_token(&browser.get("/runs").await);
    let fields = [
        ("meter", "api_calls"),
        ("quantity", "7"),
        ("reason", "a gift"),
        ("key", "once"),
        ("step", "do"),
        ("token", token.as_str()),
    ];
    let headers = [("origin", world.http_url()), (FORWARDED_FOR, "203.0.113.6")];
    let done = browser
        .post_with("/correct?account=acct", &fields, &headers)
        .await;
    assert_eq!(done.status, 303, "{}", done.words());
    let listed = admins.list_audit_entries(ListAuditEntriesRequest::default());
    let entries = listed.await.unwrap().into_inner().entries;
    for (action, address) in [
        ("CreateKey", "203.0.113.3"),
        ("PutAccount", "203.0.113.4"),
        ("PutAccount", "2001:db8::5"),
        ("Correct", "203.0.113.6"),
    ] {
        let is_one = |entry: &usage_client::proto::AuditEntry| {
            entry.action == action && entry.address == address
        };
        assert!(
            entries.iter().any(is_one),
            "{action} {address}: {entries:?}"
        );
    }
    // Whoever is not behind the proxy has its own address and port.
    let direct = entries
        .iter()
        .filter(|entry| entry.address.starts_with("127.0.0.1:"));
    assert!(direct.count() >= 3, "{entries:?}");
    world.finish().await;
}
