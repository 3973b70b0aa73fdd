//! Deletions of accounts that do not end.

use chrono::TimeDelta;
use usage_client::{DeleteAccount, Increment, PutAccount};

use super::{
    history::History,
    service::{Service, now},
};
use crate::process::wait_until;

const UNFINISHED: &str = "usage_unfinished_deletions";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_fails_in_between() {
    let service = Service::start(&[]).await;
    let client = service.process.client();
    client.put_account(PutAccount::free("acct")).await.unwrap();
    let counted = Increment::new("acct").timestamp(now() - TimeDelta::hours(2));
    client.increment(counted).await.unwrap();
    service.report().await;
    wait_until("an account that may be deleted", || async {
        let preview = DeleteAccount::new("acct").dry_run();
        let preview = client.delete_account(preview).await.unwrap();
        preview.obstacles.is_empty()
    })
    .await;
    let before = service.scrape_fresh().await;
    assert_eq!(before.get(UNFINISHED), 0.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let fail = "CREATE TRIGGER stop BEFORE UPDATE ON deleted_accounts BEGIN SELECT RAISE(ABORT, 'stopped'); END";
    service.sql(fail).await;
    let refused = client.delete_account(DeleteAccount::new("acct")).await;
    refused.unwrap_err();
    let during = service
        .scrape_when("a deletion that has begun", |scrape| {
            scrape.get(UNFINISHED) == 1.0
        })
        .await;
    history.phase(
        120,
        &[("a", Some(&during))],
        &["UsageDeletionUnfinished", "UsageErrors"],
    );
    service.sql("DROP TRIGGER stop").await;
    let deleted = client.delete_account(DeleteAccount::new("acct")).await;
    assert!(deleted.unwrap().token.is_some());
    let after = service
        .scrape_when("the end of the deletion", |scrape| {
            scrape.get(UNFINISHED) == 0.0
        })
        .await;
    history.catch_up(&[("a", Some(&after))]);
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}
