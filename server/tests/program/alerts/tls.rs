//! Certificates and lists of revoked ones near their end, files that cannot be used, and connections that are refused.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    history::History,
    scrape::{Scrape, unix_now},
    service::command,
    spawned::Spawned,
};
use crate::{
    certificates::{Authority, Files, Identity},
    frames::PREFACE,
    process::{POLL_INTERVAL, TIMEOUT, within},
};

const CERTIFICATE: &str = "usage_tls_certificate_expires_timestamp_seconds";
const LISTS: &str = "usage_tls_revocation_list_expires_timestamp_seconds";
const FAILURES: &str = "usage_tls_reload_failures_total";
/// There is no key of Stripe's.
const OTHER: &str = "UsageReportingDisabled";
const DAY: u64 = 86_400;
const HOUR: u64 = 3_600;

/// A service with TLS on each socket, and its authority.
struct Secure {
    authority: Authority,
    files: Files,
    server: Spawned,
}

impl Secure {
    fn start(folder: &TempDir) -> Self {
        let authority = Authority::new();
        let files = Files::new(folder.path(), &authority.sign("127.0.0.1"));
        files.write("clients.pem", &authority.pem);
        files.write("revoked.pem", &authority.revoke(&[]));
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        let mut command = command(&url, None);
        command
            .env("TLS_CERT_FILE", files.path("cert.pem"))
            .env("TLS_KEY_FILE", files.path("key.pem"))
            .env("TLS_CLIENT_CA_FILE", files.path("clients.pem"))
            .env("TLS_CLIENT_CRL_FILE", files.path("revoked.pem"))
            .env("TLS_CLIENT_ROLES", "DNS:reader=reader")
            .env("HTTP_LISTEN", "off")
            .env("METRICS_LISTEN", "127.0.0.1:0");
        let server = Spawned::serve(command);
        Self {
            authority,
            files,
            server,
        }
    }

    /// A handshake with a socket, with the certificate of a client or none. Returns whether it ended well.
    async fn handshake(&self, address: &str, own: Option<&Identity>) -> bool {
        let config = self.authority.client_config(own, b"h2");
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let Ok(mut stream) = connector.connect(name, stream).await else {
            return false;
        };
        // With TLS 1.3 the server decides after the client has ended its part.
        if stream.write_all(PREFACE).await.is_err() {
            return false;
        }
        let mut byte = [0];
        matches!(stream.read(&mut byte).await, Ok(1))
    }

    async fn scrape(&self) -> Scrape {
        let config = self.authority.client_config(None, b"http/1.1");
        let address = self.server.address("serving HTTP").await;
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = b"GET /metrics HTTP/1.0\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        // The server may close it without a farewell.
        let _ = stream.read_to_string(&mut answer).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{head}");
        Scrape::parse(body)
    }

    async fn scrape_when(&self, what: &str, is_so: impl Fn(&Scrape) -> bool) -> Scrape {
        let polling = async {
            loop {
                let scrape = self.scrape().await;
                if is_so(&scrape) {
                    return scrape;
                }
                tokio::time::sleep(POLL_INTERVAL * 10).await;
            }
        };
        let scrape = tokio::time::timeout(TIMEOUT, polling).await;
        scrape.unwrap_or_else(|_| panic!("timed out waiting for {what}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_lists_near_their_end() {
    let folder = TempDir::new().unwrap();
    let secure = Secure::start(&folder);
    let figures = "usage_watch_last_success_timestamp_seconds";
    let before = secure
        .scrape_when("figures", |scrape| scrape.get(figures) > 0.0)
        .await;
    assert!(before.get(CERTIFICATE) > unix_now() + 86_400.0 * 365.0);
    assert_eq!(before.get(LISTS), 4_102_444_800.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[OTHER]);

    let now = unix_now() as u64;
    let expires_at = now + 10 * DAY;
    secure
        .files
        .put(&secure.authority.sign_until("127.0.0.1", expires_at));
    let list = secure.authority.revoke_until(&[], now + HOUR);
    secure.files.write("revoked.pem", &list);
    let near = secure
        .scrape_when("the new files", |scrape| {
            scrape.get(CERTIFICATE) == expires_at as f64 && scrape.get(LISTS) == (now + HOUR) as f64
        })
        .await;
    history.phase(
        120,
        &[("a", Some(&near)), ("b", Some(&before))],
        &[
            "UsageCertificateExpires",
            OTHER,
            "UsageRevocationListExpires",
        ],
    );
    // It is out of date.
    let list = secure.authority.revoke_until(&[], now - HOUR);
    secure.files.write("revoked.pem", &list);
    let past = secure
        .scrape_when("the new list", |scrape| {
            scrape.get(LISTS) == (now - HOUR) as f64
        })
        .await;
    history.phase(
        60,
        &[("a", Some(&past))],
        &[
            "UsageCertificateExpires",
            OTHER,
            "UsageRevocationListExpires",
        ],
    );

    secure.files.put(&secure.authority.sign("127.0.0.1"));
    secure
        .files
        .write("revoked.pem", &secure.authority.revoke(&[]));
    let after = secure
        .scrape_when("good files", |scrape| {
            scrape.get(LISTS) == 4_102_444_800.0
                && scrape.get(CERTIFICATE) == before.get(CERTIFICATE)
        })
        .await;
    history.catch_up(&[("a", Some(&after))]);
    history.phase(60, &[("a", Some(&after))], &[OTHER]);
    history.check();
}

/// A key of another certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used() {
    let folder = TempDir::new().unwrap();
    let secure = Secure::start(&folder);
    let figures = "usage_watch_last_success_timestamp_seconds";
    let before = secure
        .scrape_when("figures", |scrape| scrape.get(figures) > 0.0)
        .await;
    assert_eq!(before.get(FAILURES), 0.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[OTHER]);
    let other = Authority::new().sign("127.0.0.1");
    secure.files.write("key.pem", &other.key.serialize_pem());
    let refused = secure
        .scrape_when("refused files", |scrape| scrape.get(FAILURES) >= 2.0)
        .await;
    assert_eq!(
        refused.get(CERTIFICATE),
        before.get(CERTIFICATE),
        "the old one is in use"
    );
    history.phase(
        60,
        &[("a", Some(&refused))],
        &["UsageCertificateNotReloaded", OTHER],
    );
    let year = unix_now() as u64 + 400 * DAY;
    secure
        .files
        .put(&secure.authority.sign_until("127.0.0.1", year));
    let repaired = secure
        .scrape_when("repaired files", |scrape| {
            scrape.get(CERTIFICATE) == year as f64
        })
        .await;
    history.catch_up(&[("a", Some(&repaired))]);
    history.phase(60, &[("a", Some(&repaired))], &[OTHER]);
    history.check();
}

/// Of clients that show no certificate, one of another authority, and one that is revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_fail() {
    let folder = TempDir::new().unwrap();
    let secure = Secure::start(&folder);
    let grpc = secure.server.address("serving").await;
    let figures = "usage_watch_last_success_timestamp_seconds";
    let reader = secure.authority.sign("reader");
    assert!(within("a handshake", secure.handshake(&grpc, Some(&reader))).await);
    let before = secure
        .scrape_when("figures", |scrape| scrape.get(figures) > 0.0)
        .await;
    let failed = r#"usage_connections_refused_total{reason="handshake_failed"}"#;
    let plain = r#"usage_connections_refused_total{reason="needs_tls"}"#;
    assert_eq!((before.get(failed), before.get(plain)), (0.0, 0.0));
    let mut history = History::new();
    history.phase(30, &[("a", Some(&before))], &[OTHER]);
    let strangers = Authority::new().sign("reader");
    let revoked = secure.authority.sign("reader");
    secure.files.write(
        "revoked.pem",
        &secure.authority.revoke_until(&[&revoked], 4_102_444_801),
    );
    secure
        .scrape_when("the new list", |scrape| {
            scrape.get(LISTS) == 4_102_444_801.0
        })
        .await;
    for own in [None, Some(&strangers), Some(&revoked)] {
        for _ in 0..14 {
            assert!(!within("a handshake", secure.handshake(&grpc, own)).await);
        }
    }
    assert!(within("a handshake", secure.handshake(&grpc, Some(&reader))).await);
    let mut stream = TcpStream::connect(&grpc).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = within("the end", stream.read_to_end(&mut answer)).await;
    let during = secure
        .scrape_when("failures", |scrape| scrape.get(failed) >= 42.0)
        .await;
    assert_eq!((during.get(failed), during.get(plain)), (42.0, 1.0));
    history.phase(25, &[("a", Some(&during))], &["UsageHandshakesFail", OTHER]);
    history.phase(30, &[("a", Some(&during))], &[OTHER]);
    history.check();
}
