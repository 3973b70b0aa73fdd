//! Each path of HTTP has a role, and each kind of key is answered as its role demands.

use usage_client::proto::KeyRole;
use usage_server::domain::{
    access::{Requirement, Role},
    http_paths::{HttpPath, HttpSocket},
};

use super::{access, create, first_admin, limited_key, new_key};
use crate::support::world::{Server, World, http::http_get_with_key, on_both_engines};

on_both_engines!(
    each_kind_of_key_is_answered_as_the_table_of_paths_says,
    metrics_on_their_own_socket_need_no_key,
    a_socket_of_webhooks_has_nothing_else_and_looks_no_key_up,
    a_reader_of_metrics_has_the_limit_of_requests,
);

#[test]
fn all_that_is_not_named_here_is_nowhere() {
    use HttpSocket::{All, Metrics, Webhooks, WithoutWebhooks};
    let nothing = Some(Requirement::Nothing);
    let reader = Some(Requirement::Role(Role::Reader));
    let admin = Some(Requirement::Role(Role::Admin));
    let any = Some(Requirement::AnyRole);
    for (path, on) in [
        (HttpPath::Live, [nothing, nothing, nothing, None]),
        (HttpPath::Ready, [nothing, nothing, nothing, None]),
        (HttpPath::Metrics, [reader, reader, nothing, None]),
        (HttpPath::OpenApi, [any, any, None, None]),
        (HttpPath::StripeWebhooks, [nothing, None, None, nothing]),
        (HttpPath::ConsoleOverview, [reader, reader, None, None]),
        (HttpPath::ConsoleUsage, [reader, reader, None, None]),
        (HttpPath::ConsoleAccounts, [reader, reader, None, None]),
        (HttpPath::ConsoleAccount, [reader, reader, None, None]),
        (HttpPath::ConsoleReports, [reader, reader, None, None]),
        (HttpPath::ConsoleReport, [reader, reader, None, None]),
        (HttpPath::ConsoleInvoice, [reader, reader, None, None]),
        (HttpPath::ConsoleFind, [reader, reader, None, None]),
        (HttpPath::ConsoleRuns, [reader, reader, None, None]),
        (HttpPath::ConsoleVerification, [reader, reader, None, None]),
        (HttpPath::ConsoleShadow, [reader, reader, None, None]),
        (HttpPath::ConsoleSignOff, [reader, reader, None, None]),
        (HttpPath::ConsoleAudit, [admin, admin, None, None]),
        (HttpPath::ConsoleKeys, [admin, admin, None, None]),
        (HttpPath::ConsoleSetUp, [reader, reader, None, None]),
        (HttpPath::ConsoleResolve, [admin, admin, None, None]),
        (HttpPath::ConsoleCorrect, [admin, admin, None, None]),
        (HttpPath::ConsoleForce, [admin, admin, None, None]),
        (HttpPath::ConsoleRun, [admin, admin, None, None]),
        (HttpPath::ConsoleSignIn, [nothing, nothing, None, None]),
        (HttpPath::ConsoleSignOut, [nothing, nothing, None, None]),
        (HttpPath::ConsoleStyle, [nothing, nothing, None, None]),
    ] {
        let found = [All, WithoutWebhooks, Metrics, Webhooks];
        assert_eq!(found.map(|socket| path.requirement(socket)), on, "{path:?}");
    }
    assert_eq!(HttpPath::ALL.len(), 27);
}

/// Pages of one thing, which their address names.
const NAMES_ONE: [HttpPath; 3] = [
    HttpPath::ConsoleReport,
    HttpPath::ConsoleResolve,
    HttpPath::ConsoleRun,
];

/// Asks for each path of the table, and for others, with each kind of key.
async fn walk(url: &str, socket: HttpSocket, kinds: &[(Option<&String>, Option<Role>)]) {
    for path in HttpPath::ALL {
        // One of its pages that shows something.
        let query = match path {
            HttpPath::ConsoleAccount => "?id=acct",
            _ => "",
        };
        let url = format!("{url}{}{query}", path.name());
        for (key, role) in kinds {
            let (status, text) = http_get_with_key(&url, key.map(String::as_str)).await;
            let expected = match (path.requirement(socket), role) {
                (None, _) => 404,
                // They are only posted.
                (Some(_), _)
                    if [HttpPath::StripeWebhooks, HttpPath::ConsoleSignOut].contains(&path) =>
                {
                    405
                }
                (Some(Requirement::Nothing), _) => 200,
                (Some(_), None) => 401,
                // It names none.
                (Some(needed), Some(role))
                    if NAMES_ONE.contains(&path) && needed.is_met_by(*role) =>
                {
                    400
                }
                (Some(needed), Some(role)) if needed.is_met_by(*role) => 200,
                (Some(_), Some(_)) => 403,
            };
            assert_eq!(status, expected, "{socket:?} {path:?} {role:?}: {text}");
        }
    }
    for elsewhere in [
        "/elsewhere",
        "/accounts/",
        "/health",
        "/metrics/",
        "//metrics",
        "/health/live/x",
    ] {
        let url = format!("{url}{elsewhere}");
        for (key, _) in kinds {
            let answer = http_get_with_key(&url, key.map(String::as_str)).await;
            assert_eq!(answer, (404, "not found\n".to_owned()), "{url}");
        }
    }
}

async fn each_kind_of_key_is_answered_as_the_table_of_paths_says(mut world: World) {
    // Before there is a key, everything is open.
    assert_eq!(world.http_get("/metrics").await.0, 200);
    let (_, admin) = first_admin(&world).await;
    let mut keys = access(&world, Some(&admin)).await;
    let writer = create(&mut keys, new_key("writer", KeyRole::Writer))
        .await
        .text;
    let reader = create(&mut keys, new_key("reader", KeyRole::Reader))
        .await
        .text;
    let limited = limited_key("limited", KeyRole::Reader, &["acct"], &[]);
    let limited = create(&mut keys, limited).await.text;
    let wrong = format!("{}{}", &admin[..20], &writer[20..]);
    let kinds = [
        (None, None),
        (Some(&wrong), None),
        (Some(&writer), Some(Role::Writer)),
        (Some(&reader), Some(Role::Reader)),
        (Some(&admin), Some(Role::Admin)),
    ];
    walk(world.http_url(), HttpSocket::All, &kinds).await;
    // The metrics are about all accounts.
    let metrics = format!("{}/metrics", world.http_url());
    assert_eq!(http_get_with_key(&metrics, Some(&limited)).await.0, 403);
    world.stop().await;
    let mut config = world.config();
    let any = Some("127.0.0.1:0".parse().unwrap());
    config.addresses.metrics_listen = any;
    config.addresses.webhook_listen = any;
    let server = Server::start(config, world.clock.clone()).await;
    walk(server.http_url(), HttpSocket::WithoutWebhooks, &kinds).await;
    walk(server.metrics_url(), HttpSocket::Metrics, &kinds).await;
    walk(server.webhook_url(), HttpSocket::Webhooks, &kinds).await;
    server.stop().await.unwrap();
    world.finish().await;
}

async fn a_reader_of_metrics_has_the_limit_of_requests(mut world: World) {
    const PER_SEC: usize = 3;
    world.reconfigure(&["--requests-per-sec=3"]).await;
    let (_, admin) = first_admin(&world).await;
    let mut keys = access(&world, Some(&admin)).await;
    let reader = create(&mut keys, new_key("reader", KeyRole::Reader)).await;
    let url = format!("{}/metrics", world.http_url());
    let started = std::time::Instant::now();
    let calls = (0..30).map(|_| http_get_with_key(&url, Some(&reader.text)));
    let answers = futures_util::future::join_all(calls).await;
    let seconds = usize::try_from(started.elapsed().as_secs()).unwrap() + 1;
    let shown = answers.iter().filter(|(status, _)| *status == 200).count();
    assert!(
        (PER_SEC..=PER_SEC * (1 + seconds)).contains(&shown),
        "{shown}"
    );
    let refused = answers.iter().filter(|(status, _)| *status != 200);
    for (status, text) in refused {
        assert_eq!(*status, 429, "{text}");
        assert!(text.contains("more than 3 requests a second"), "{text}");
    }
    // Health is not limited.
    let live = format!("{}/health/live", world.http_url());
    for _ in 0..20 {
        assert_eq!(http_get_with_key(&live, Some(&reader.text)).await.0, 200);
    }
    world.finish().await;
}

async fn metrics_on_their_own_socket_need_no_key(mut world: World) {
    let (_, _) = first_admin(&world).await;
    world.stop().await;
    let mut config = world.config();
    config.addresses.metrics_listen = Some("127.0.0.1:0".parse().unwrap());
    let server = Server::start(config, world.clock.clone()).await;
    for path in ["/metrics", "/health/live", "/health/ready"] {
        let url = format!("{}{path}", server.metrics_url());
        let (status, text) = http_get_with_key(&url, None).await;
        assert_eq!(status, 200, "{path}: {text}");
    }
    let webhooks = format!("{}/webhooks/stripe", server.metrics_url());
    assert_eq!(http_get_with_key(&webhooks, None).await.0, 404);
    server.stop().await.unwrap();
    world.finish().await;
}

async fn a_socket_of_webhooks_has_nothing_else_and_looks_no_key_up(mut world: World) {
    let (_, admin) = first_admin(&world).await;
    world.stop().await;
    let mut config = world.config();
    config.addresses.webhook_listen = Some("127.0.0.1:0".parse().unwrap());
    let server = Server::start(config, world.clock.clone()).await;
    let webhooks = format!("{}/webhooks/stripe", server.webhook_url());
    assert_eq!(http_get_with_key(&webhooks, None).await.0, 405);
    // A look-up would fail.
    world
        .execute_sql("ALTER TABLE api_keys RENAME TO api_keys_away")
        .await;
    for path in HttpPath::ALL {
        let url = format!("{}{}", server.webhook_url(), path.name());
        for key in [None, Some(admin.as_str())] {
            let (status, text) = http_get_with_key(&url, key).await;
            let expected = if path == HttpPath::StripeWebhooks {
                405
            } else {
                404
            };
            assert_eq!(status, expected, "{path:?}: {text}");
        }
    }
    world
        .execute_sql("ALTER TABLE api_keys_away RENAME TO api_keys")
        .await;
    server.stop().await.unwrap();
    world.finish().await;
}
