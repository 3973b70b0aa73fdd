//! The proxy loses exactly what a test chooses.

use super::*;
use crate::support::postgres::{cluster, execute};

/// A proxy, and the URLs of a database with an empty table, direct and through the proxy.
fn with_proxy(test: impl FnOnce(&PostgresProxy, &str, &str)) {
    let cluster = match cluster() {
        Ok(cluster) => cluster,
        Err(unavailable) => return eprintln!("skipped: {unavailable}"),
    };
    let direct = cluster.create_database().unwrap();
    execute(&direct, "CREATE TABLE t (i int)").unwrap();
    let proxy = PostgresProxy::start(cluster.address()).unwrap();
    let proxied = proxy.url(&direct);
    test(&proxy, &direct, &proxied);
}

const INSERT: &str = "BEGIN; INSERT INTO t VALUES (1); COMMIT";

fn expect_rows(rows: u32) -> String {
    format!("DO $$ BEGIN ASSERT (SELECT count(*) FROM t) = {rows}; END $$")
}

#[test]
fn a_lost_response_leaves_the_commit_done() {
    with_proxy(|proxy, direct, proxied| {
        proxy.lose_next_commit_answer();
        execute(proxied, "SELECT 1").unwrap();
        assert_eq!(proxy.commits_lost(), 0);
        execute(proxied, INSERT).unwrap_err();
        assert_eq!(proxy.commits_lost(), 1);
        execute(direct, &expect_rows(1)).unwrap();
        execute(proxied, INSERT).unwrap();
        execute(direct, &expect_rows(2)).unwrap();
    });
}

#[test]
fn a_dropped_commit_leaves_nothing_done() {
    with_proxy(|proxy, direct, proxied| {
        proxy.drop_next_commit();
        execute(proxied, INSERT).unwrap_err();
        assert_eq!(proxy.commits_lost(), 1);
        execute(direct, &expect_rows(0)).unwrap();
        execute(proxied, INSERT).unwrap();
        execute(direct, &expect_rows(1)).unwrap();
    });
}

#[test]
fn a_closed_proxy_refuses_connections() {
    with_proxy(|proxy, _, proxied| {
        proxy.close_connections();
        execute(proxied, "SELECT 1").unwrap();
        let other = PostgresProxy::start(proxy.address).unwrap();
        let twice_proxied = other.url(proxied);
        execute(&twice_proxied, "SELECT 1").unwrap();
        drop(other);
        execute(&twice_proxied, "SELECT 1").unwrap_err();
    });
}

#[test]
fn a_commit_is_recognized_in_every_form() {
    let mut commits = HashSet::new();
    let mut seen = |message: &[u8]| commits_now(message, &mut commits);
    assert!(seen(b"Q\0\0\0\x0bcommit\0"));
    assert!(seen(b"Q\0\0\0\0BEGIN; SELECT 1;\n COMMIT\0"));
    assert!(!seen(b"Q\0\0\0\0CREATE TABLE t () ON COMMIT DROP\0"));
    assert!(!seen(b"P\0\0\0\0s1\0COMMIT\0\0\0"));
    assert!(seen(b"B\0\0\0\0\0s1\0\0\0\0\0\0\0"));
    assert!(!seen(b"B\0\0\0\0\0s2\0\0\0\0\0\0\0"));
    assert!(!seen(b"P\0\0\0\0s1\0SELECT 1\0\0\0"));
    assert!(!seen(b"B\0\0\0\0\0s1\0\0\0\0\0\0\0"));
    assert!(!seen(b""));
}

#[test]
fn a_rewritten_url_changes_only_its_address() {
    let place = SocketAddr::from((Ipv4Addr::LOCALHOST, 7));
    for (url, rewritten) in [
        (
            "postgres://u:p@db:5432/n?a=b",
            "postgres://u:p@127.0.0.1:7/n?a=b",
        ),
        ("postgres://db/n", "postgres://127.0.0.1:7/n"),
        ("postgresql://u@db", "postgresql://u@127.0.0.1:7"),
    ] {
        assert_eq!(rewrite(url, place), rewritten);
    }
}
