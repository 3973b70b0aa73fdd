//! Connections of the client: mutual TLS, several servers, and restarts.

use std::time::Duration;

use usage_client::{ErrorKind, Retry, UsageClient};

use crate::support::{
    certificates::{Authority, Identity},
    flaky_server::FlakyServer,
    reverse_proxy::ReverseProxy,
    world::{World, on_both_engines},
};

on_both_engines!(
    client_and_server_authenticate_each_other_over_tls,
    calls_are_spread_over_all_servers,
    calls_succeed_when_one_of_several_servers_stops,
    a_call_is_retried_across_a_server_restart,
);

async fn client_and_server_authenticate_each_other_over_tls(world: World) {
    let (ours, others) = (Authority::new(), Authority::new());
    let server = ours.sign("127.0.0.1");
    let front = ReverseProxy::start_secure(ours.server_config(&server)).await;
    front.put_before(world.endpoint());
    let client = |trusted: &Authority, own: Option<&Identity>| {
        let mut builder = UsageClient::builder(front.endpoint())
            .ca_certificate(&trusted.pem)
            .retry(Retry::never());
        if let Some(own) = own {
            builder = builder.client_certificate(own.certificate.pem(), own.key.serialize_pem());
        }
        builder.connect_lazy().unwrap()
    };
    let (known, unknown) = (ours.sign("backend"), others.sign("backend"));
    let counted = client(&ours, Some(&known)).increment("acct").await;
    assert!(!counted.unwrap().duplicate);
    for (trusted, own) in [
        (&ours, None),
        (&ours, Some(&unknown)),
        (&others, Some(&known)),
    ] {
        let refused = client(trusted, own).increment("acct").await.unwrap_err();
        // The proxy closes the connection at once, which can destroy its reason.
        assert!(
            matches!(refused.kind(), ErrorKind::Tls | ErrorKind::Transport),
            "{refused:?}"
        );
    }
    // Authorities of the system are not trusted either.
    let system = UsageClient::builder(front.endpoint()).retry(Retry::never());
    let refused = system.connect().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Tls, "{refused:?}");
    assert_eq!(world.usage("acct").await.0, 1);
    world.finish().await;
}

async fn calls_are_spread_over_all_servers(world: World) {
    let before = world.endpoint();
    let (first, second) = (
        FlakyServer::start(before, []).await,
        FlakyServer::start(before, []).await,
    );
    let client = UsageClient::builder(first.endpoint())
        .endpoint(second.endpoint())
        .connect()
        .await
        .unwrap();
    let mut all = 0;
    while first.calls() == 0 || second.calls() == 0 {
        client.increment("acct").await.unwrap();
        all += 1;
        assert!(all < 1_000, "all of them go to one server");
    }
    assert_eq!(world.usage("acct").await.0, all);
    world.finish().await;
}

async fn calls_succeed_when_one_of_several_servers_stops(world: World) {
    let (first, second) = (ReverseProxy::start().await, ReverseProxy::start().await);
    for front in [&first, &second] {
        front.put_before(world.endpoint());
    }
    let client = UsageClient::builder(first.endpoint())
        .endpoint(second.endpoint())
        .connect()
        .await
        .unwrap();
    for _ in 0..20 {
        client.increment("acct").await.unwrap();
    }
    first.break_connections();
    drop(first);
    for _ in 0..20 {
        client.increment("acct").await.unwrap();
    }
    assert_eq!(world.usage("acct").await.0, 40);
    world.finish().await;
}

async fn a_call_is_retried_across_a_server_restart(mut world: World) {
    let front = ReverseProxy::start().await;
    front.put_before(world.endpoint());
    let client = UsageClient::builder(front.endpoint())
        .timeout(Duration::from_mins(1))
        .connect()
        .await
        .unwrap();
    client.increment("acct").await.unwrap();
    world.crash();
    front.break_connections();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.increment("acct").quantity(10).key("once").await }
    });
    world.start_server().await;
    front.put_before(world.endpoint());
    assert!(!call.await.unwrap().unwrap().duplicate);
    let again = client.increment("acct").quantity(10).key("once").await;
    assert!(again.unwrap().duplicate);
    assert_eq!(world.usage("acct").await.0, 11);
    world.finish().await;
}
