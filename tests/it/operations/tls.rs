//! TLS of the service: who may connect, files that change, and clients that speak the other thing.

mod commands;
mod console;
mod http;
mod wrong_protocol;

use std::sync::Arc;

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tonic::transport::{Channel, ClientTlsConfig};
use usage_client::{Error, ErrorKind, UsageClient};
use usage_server::config::TlsConfig;

use crate::support::{
    certificates::{Authority, Files, Identity},
    world::{Server, World, on_sqlite, within},
};

on_sqlite!(
    calls_are_counted_over_tls,
    a_server_that_is_not_trusted_is_not_called,
    clients_need_a_certificate_of_the_authority,
    revoked_clients_are_refused_also_on_open_connections,
    new_files_are_used_and_open_connections_stay,
    new_files_that_cannot_be_used_leave_the_old_ones,
    wrong_settings_of_tls_end_the_start,
);

/// HTTP/2's preface with empty settings; a ping, and the end of its answer.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8; 17] = b"\0\0\x08\x06\0\0\0\0\0are here";
const PONG: &[u8; 17] = b"\0\0\x08\x06\x01\0\0\0\0are here";

/// A server with TLS, and what its clients need.
pub(super) struct Secure {
    pub(super) server: Server,
    files: Files,
    pub(super) authority: Authority,
    /// The authority of the clients, if they need a certificate.
    pub(super) clients: Option<Authority>,
    _folder: TempDir,
}

impl Secure {
    /// Replaces the server of a world.
    pub(super) async fn start(world: &mut World, is_mutual: bool) -> Self {
        Self::start_with(world, is_mutual, &[]).await
    }

    /// Replaces the server of a world by one that gives client certificates roles.
    pub(super) async fn start_with_roles(world: &mut World, roles: &[&str]) -> Self {
        let mut secure = Self::start(world, true).await;
        secure.server.stop().await.unwrap();
        let clients = secure.clients.as_ref().unwrap();
        let mut tls = secure.files.mutual_config(clients);
        tls.tls_client_roles = roles.iter().map(|role| role.parse().unwrap()).collect();
        secure.server = start(world, tls).await;
        secure
    }

    async fn start_with(world: &mut World, is_mutual: bool, flags: &[&str]) -> Self {
        if is_mutual && flags.is_empty() {
            // Stripe has no client certificate.
            world.reconfigure(&["--stripe-webhook-secrets"]).await;
        } else {
            world.reconfigure(flags).await;
        }
        world.stop().await;
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let files = Files::new(folder.path(), &authority.sign("127.0.0.1"));
        let clients = is_mutual.then(Authority::new);
        let tls = match &clients {
            None => files.config(),
            Some(clients) => files.mutual_config(clients),
        };
        Self {
            server: start(world, tls).await,
            files,
            authority,
            clients,
            _folder: folder,
        }
    }

    /// A client that trusts the server's authority.
    pub(super) fn client(&self, own: Option<&Identity>) -> UsageClient {
        client(&self.server, &self.authority, own)
    }

    /// A channel with a client certificate.
    pub(super) async fn channel(&self, own: &Identity) -> Channel {
        let own =
            tonic::transport::Identity::from_pem(own.certificate.pem(), own.key.serialize_pem());
        let trusted = tonic::transport::Certificate::from_pem(&self.authority.pem);
        let tls = ClientTlsConfig::new().ca_certificate(trusted).identity(own);
        let endpoint = Channel::from_shared(self.server.endpoint().to_owned()).unwrap();
        let connecting = endpoint.tls_config(tls).unwrap();
        within("connecting", connecting.connect()).await.unwrap()
    }

    /// Finishes the handshake and returns the connection.
    pub(super) async fn handshake(
        &self,
        own: Option<&Identity>,
        alpn: &[u8],
    ) -> TlsStream<TcpStream> {
        let config = self.authority.client_config(own, alpn);
        handshake(self.server.endpoint(), config).await.unwrap()
    }

    /// The same with the socket of HTTP.
    pub(super) async fn http_handshake(
        &self,
        own: Option<&Identity>,
        alpn: &[u8],
    ) -> TlsStream<TcpStream> {
        let config = self.authority.client_config(own, alpn);
        handshake(self.server.http_url(), config).await.unwrap()
    }

    pub(super) async fn stop(self, world: World) {
        self.server.stop().await.unwrap();
        world.finish().await;
    }
}

async fn start(world: &World, tls: TlsConfig) -> Server {
    let mut config = world.config();
    config.tls = tls;
    Server::start(config, world.clock.clone()).await
}

fn client(server: &Server, trusted: &Authority, own: Option<&Identity>) -> UsageClient {
    // A call that waits for the connection may only see that it was closed; the next attempt is told why.
    let mut builder = UsageClient::builder(server.endpoint()).ca_certificate(&trusted.pem);
    if let Some(own) = own {
        builder = builder.client_certificate(own.certificate.pem(), own.key.serialize_pem());
    }
    builder.connect_lazy().unwrap()
}

fn address_of(url: &str) -> &str {
    url.trim_start_matches("https://")
        .trim_start_matches("http://")
}

async fn handshake(url: &str, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address_of(url)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    within("a handshake", connecting).await
}

/// Waits until the server serves.
async fn first_call(client: &UsageClient) {
    within("a call", async {
        client.increment("acct").await.unwrap();
    })
    .await;
}

#[track_caller]
fn assert_tls(error: &Error, words: &str) {
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

async fn calls_are_counted_over_tls(mut world: World) {
    let secure = Secure::start(&mut world, false).await;
    let client = secure.client(None);
    first_call(&client).await;
    assert!(client.increment("acct").key("k").await.is_ok());
    assert!(client.increment("acct").key("k").await.unwrap().duplicate);
    let stream = secure.handshake(None, b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    secure.stop(world).await;
}

async fn a_server_that_is_not_trusted_is_not_called(mut world: World) {
    let secure = Secure::start(&mut world, false).await;
    first_call(&secure.client(None)).await;
    let others = client(&secure.server, &Authority::new(), None);
    let refused = others.increment("acct").await.unwrap_err();
    assert_tls(&refused, "the server's certificate is not trusted");
    let system = UsageClient::builder(secure.server.endpoint());
    let refused = system.connect().await.unwrap_err();
    assert_tls(&refused, "the server's certificate is not trusted");
    for (own, words) in [
        (secure.authority.sign_expired("127.0.0.1"), "expired"),
        (secure.authority.sign("other.example"), "not valid for name"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path(), &own);
        let mut config = world.config();
        let file = folder.path().join("usage.db");
        config.database.database_url = Some(format!("sqlite://{}", file.display()).into());
        config.tls = files.config();
        let server = Server::start(config, world.clock.clone()).await;
        let caller = client(&server, &secure.authority, None);
        let refused = caller.increment("acct").await.unwrap_err();
        assert_tls(&refused, words);
        server.stop().await.unwrap();
    }
    secure.stop(world).await;
}

async fn clients_need_a_certificate_of_the_authority(mut world: World) {
    let secure = Secure::start(&mut world, true).await;
    let clients = secure.clients.as_ref().unwrap();
    let known = clients.sign_subjects("cn", "backend", "spiffe://prod/backend", "ops@example.com");
    first_call(&secure.client(Some(&known))).await;
    for (own, words) in [
        (None, "the server needs a client certificate"),
        (
            Some(Authority::new().sign("backend")),
            "refuses the client's certificate",
        ),
        // The authority of servers is not one of clients.
        (
            Some(secure.authority.sign("backend")),
            "refuses the client's certificate",
        ),
        (
            Some(clients.sign_expired("backend")),
            "refuses the client's certificate",
        ),
    ] {
        let refused = secure.client(own.as_ref()).increment("acct").await;
        assert_tls(&refused.unwrap_err(), words);
    }
    let counted = secure.client(Some(&known)).increment("acct").await;
    assert!(counted.is_ok());
    secure.stop(world).await;
}

async fn revoked_clients_are_refused_also_on_open_connections(mut world: World) {
    world.reconfigure(&["--stripe-webhook-secrets"]).await;
    world.stop().await;
    let folder = tempfile::tempdir().unwrap();
    let (authority, clients) = (Authority::new(), Authority::new());
    let files = Files::new(folder.path(), &authority.sign("127.0.0.1"));
    let [kept, revoked, later] = ["kept", "revoked", "later"].map(|name| clients.sign(name));
    files.write("revoked.pem", &clients.revoke(&[&revoked]));
    let tls = TlsConfig {
        tls_client_crl_file: Some(files.path("revoked.pem")),
        ..files.mutual_config(&clients)
    };
    let server = start(&world, tls).await;
    let call = async |own: &Identity| {
        let caller = client(&server, &authority, Some(own));
        caller.increment("acct").await
    };
    first_call(&client(&server, &authority, Some(&kept))).await;
    assert_tls(
        &call(&revoked).await.unwrap_err(),
        "refuses the client's certificate",
    );
    let open = async |own: &Identity| {
        let config = authority.client_config(Some(own), b"h2");
        let mut stream = handshake(server.endpoint(), config).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        let mut settings = [0; 9];
        stream.read_exact(&mut settings).await.unwrap();
        stream
    };
    let (mut kept_open, mut later_open) = (open(&kept).await, open(&later).await);
    files.write("revoked.pem", &clients.revoke(&[&revoked, &later]));
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = within("the end", later_open.read_to_end(&mut rest)).await;
    assert_tls(
        &call(&later).await.unwrap_err(),
        "refuses the client's certificate",
    );
    // The other one was checked at the same time, and answers a ping.
    kept_open.write_all(PING).await.unwrap();
    within("a pong", async {
        let mut last = [0; 17];
        while last != *PONG {
            last.copy_within(1.., 0);
            last[16] = kept_open.read_u8().await.unwrap();
        }
    })
    .await;
    server.stop().await.unwrap();
    world.finish().await;
}

async fn new_files_are_used_and_open_connections_stay(mut world: World) {
    let secure = Secure::start(&mut world, false).await;
    let open = secure.client(None);
    first_call(&open).await;
    // The open client does not trust it: it could not connect again.
    let next = Authority::new();
    secure.files.put(&next.sign("127.0.0.1"));
    let new = client(&secure.server, &next, None);
    world
        .wait_until("the new certificate", async || {
            new.increment("acct").await.is_ok()
        })
        .await;
    open.increment("acct").await.unwrap();
    let refused = secure.client(None).increment("acct").await.unwrap_err();
    assert_tls(&refused, "the server's certificate is not trusted");
    open.increment("acct").await.unwrap();
    secure.stop(world).await;
}

async fn new_files_that_cannot_be_used_leave_the_old_ones(mut world: World) {
    let secure = Secure::start(&mut world, true).await;
    let clients = secure.clients.as_ref().unwrap();
    let own = clients.sign("backend");
    first_call(&secure.client(Some(&own))).await;
    let failures = async || {
        let (_, metrics) = secure.get("/metrics", Some(&own)).await;
        let name = "usage_tls_reload_failures_total ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.expect("the metric").parse::<u64>().unwrap()
    };
    let other = Authority::new().sign("127.0.0.1");
    for (name, contents) in [
        ("cert.pem", "no certificate"),
        // Not that of the key.
        ("cert.pem", &other.certificate.pem()),
        (
            "cert.pem",
            &secure.authority.sign_expired("127.0.0.1").certificate.pem(),
        ),
        ("key.pem", "no key"),
        ("clients.pem", ""),
    ] {
        let old = std::fs::read_to_string(secure.files.path(name)).unwrap();
        let before = failures().await;
        secure.files.write(name, contents);
        world
            .wait_until("a failed attempt", async || failures().await > before)
            .await;
        let counted = secure.client(Some(&own)).increment("acct").await;
        assert!(counted.is_ok(), "{name}: {counted:?}");
        secure.files.write(name, &old);
    }
    secure.stop(world).await;
}

async fn wrong_settings_of_tls_end_the_start(mut world: World) {
    world.reconfigure(&["--stripe-webhook-secrets"]).await;
    world.stop().await;
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = Files::new(folder.path(), &authority.sign("127.0.0.1"));
    files.write(
        "other.pem",
        &authority.sign("127.0.0.1").key.serialize_pem(),
    );
    files.write("empty.pem", "");
    let path = |name: &str| Some(files.path(name));
    let whole = files.config();
    for (tls, words) in [
        (
            TlsConfig {
                tls_key_file: path("other.pem"),
                ..whole.clone()
            },
            "TLS_KEY_FILE is not the key of the certificate in TLS_CERT_FILE",
        ),
        (
            TlsConfig {
                tls_key_file: path("missing.pem"),
                ..whole.clone()
            },
            "missing.pem: No such file",
        ),
        (
            TlsConfig {
                tls_key_file: path("cert.pem"),
                ..whole.clone()
            },
            "TLS_KEY_FILE: the file has no private key",
        ),
        (
            TlsConfig {
                tls_cert_file: path("empty.pem"),
                ..whole.clone()
            },
            "TLS_CERT_FILE: the file has no certificate",
        ),
        (
            TlsConfig {
                tls_client_ca_file: path("empty.pem"),
                ..whole.clone()
            },
            "TLS_CLIENT_CA_FILE: the file has no certificate",
        ),
        (
            TlsConfig {
                tls_key_file: None,
                ..whole.clone()
            },
            "TLS_KEY_FILE is not",
        ),
    ] {
        let refused = start(&world, tls)
            .await
            .ended()
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains(words), "{refused}");
        assert!(!refused.contains("BEGIN"), "{refused}");
    }
    world.finish().await;
}
