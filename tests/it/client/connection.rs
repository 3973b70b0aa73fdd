//! Connections of the client: mutual TLS, several servers, and restarts.

use std::{sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig, crypto::ring, pki_types::PrivateKeyDer,
    server::WebPkiClientVerifier,
};
use usage_client::{ErrorKind, Retry, UsageClient};

use crate::support::{
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

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: tokio_rustls::rustls::pki_types::CertificateDer<'static>,
}

/// A certificate and its key.
struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        Identity {
            certificate: params.signed_by(&key, &self.issuer).unwrap(),
            key,
        }
    }

    /// The TLS settings of a server that accepts clients of this authority.
    fn server_config(&self, own: &Identity) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let callers = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(callers.build().unwrap())
            .with_single_cert(vec![own.certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

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
        assert_eq!(refused.kind(), ErrorKind::Transport, "{refused:?}");
    }
    // Authorities of the system are not trusted either.
    let system = UsageClient::builder(front.endpoint()).retry(Retry::never());
    let refused = system.connect().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Transport, "{refused:?}");
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
