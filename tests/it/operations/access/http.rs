//! Each path of HTTP has a role, and each kind of key is answered as its role demands.

use usage_client::proto::KeyRole;
use usage_server::domain::{
    access::{Requirement, Role},
    method_roles::HTTP_PATHS,
};

use super::{access, create, first_admin, limited_key, new_key};
use crate::support::world::{Server, World, http::http_get_with_key, on_both_engines};

on_both_engines!(
    each_kind_of_key_is_answered_as_the_table_of_paths_says,
    metrics_on_their_own_socket_need_no_key,
    a_socket_of_webhooks_has_nothing_else_and_looks_no_key_up,
);

async fn each_kind_of_key_is_answered_as_the_table_of_paths_says(world: World) {
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
    assert!(
        HTTP_PATHS
            .iter()
            .any(|(_, needed)| *needed != Requirement::Nothing)
    );
    for (path, needed) in HTTP_PATHS {
        let url = format!("{}{path}", world.http_url());
        for (key, role) in kinds {
            let (status, text) = http_get_with_key(&url, key.map(String::as_str)).await;
            let expected: &[u16] = match (needed, role) {
                // The webhooks are only posted.
                (Requirement::Nothing, _) => &[200, 405],
                (_, None) => &[401],
                (needed, Some(role)) if needed.is_met_by(role) => &[200],
                _ => &[403],
            };
            assert!(
                expected.contains(&status),
                "{path} {role:?}: {status} {text}"
            );
        }
    }
    // The metrics are about all accounts.
    let metrics = format!("{}/metrics", world.http_url());
    assert_eq!(http_get_with_key(&metrics, Some(&limited)).await.0, 403);
    // What is in no table is nowhere.
    let elsewhere = format!("{}/elsewhere", world.http_url());
    assert_eq!(http_get_with_key(&elsewhere, Some(&admin)).await.0, 404);
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
    for (path, _) in HTTP_PATHS {
        let url = format!("{}{path}", server.webhook_url());
        for key in [None, Some(admin.as_str())] {
            let (status, text) = http_get_with_key(&url, key).await;
            let expected = if path == "/webhooks/stripe" { 405 } else { 404 };
            assert_eq!(status, expected, "{path}: {text}");
        }
    }
    world
        .execute_sql("ALTER TABLE api_keys_away RENAME TO api_keys")
        .await;
    server.stop().await.unwrap();
    world.finish().await;
}
