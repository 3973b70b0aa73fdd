//! What a caller cannot do to the audit table: fill it, or hide what others did.

use serde_json::Value;
use tonic::Code;
use usage_client::{
    Correct, ErrorKind, ForceReport, PutAccount, ResolveAction, ResolveReport, UsageClient,
    proto::{AuditEntry, AuditOutcome, KeyRole, ListAuditEntriesRequest, ListKeysRequest},
};

use super::{access, client, create, entries, first_admin, limited_key, new_key};
use crate::support::world::{Engine, World, on_both_engines};

on_both_engines!(
    a_request_that_is_refused_never_begins,
    refusals_of_one_caller_are_few_and_hide_no_other,
    a_run_of_many_accounts_keeps_what_was_asked,
    a_page_of_long_entries_ends_early,
    a_denied_dry_run_or_watch_is_no_run,
);

fn all() -> ListAuditEntriesRequest {
    ListAuditEntriesRequest {
        page_size: 1_000,
        ..ListAuditEntriesRequest::default()
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// An admin's key that is limited to one account.
async fn limited_admin(world: &World, root: &str, name: &str) -> UsageClient {
    let mut root = access(world, Some(root)).await;
    let key = limited_key(name, KeyRole::Admin, &["own"], &[]);
    client(world.endpoint(), &create(&mut root, key).await.text).await
}

async fn a_request_that_is_refused_never_begins(world: World) {
    let (_, root) = first_admin(&world).await;
    let mut audit = access(&world, Some(&root)).await;
    let admin = client(world.endpoint(), &root).await;
    let report = ResolveReport::new("acct", "no id", ResolveAction::Retry, "a reason");
    let refused = [
        admin
            .put_account(PutAccount::free("no account!"))
            .await
            .err(),
        admin.correct(Correct::new("acct", 7, " ")).await.err(),
        admin
            .correct(Correct::new("acct", 0, "nothing"))
            .await
            .err(),
        admin.resolve_report(report).await.err(),
    ];
    assert!(refused.iter().all(Option::is_some), "{refused:?}");
    let listed = entries(&mut audit, all()).await;
    let outcomes: Vec<_> = listed.iter().map(AuditEntry::outcome).collect();
    assert_eq!(outcomes[0], AuditOutcome::Done, "the first key");
    assert_eq!(outcomes[1..], [AuditOutcome::Failed; 4]);
    assert_eq!(listed[2].account_id, "acct");
    world.finish().await;
}

async fn refusals_of_one_caller_are_few_and_hide_no_other(world: World) {
    const CALLS: usize = 300;
    let (_, root) = first_admin(&world).await;
    let noisy = limited_admin(&world, &root, "noisy").await;
    let mut root_access = access(&world, Some(&root)).await;
    let reader = create(&mut root_access, new_key("reader", KeyRole::Reader)).await;
    let reader = client(world.endpoint(), &reader.text).await;
    let started = std::time::Instant::now();
    for _ in 0..CALLS {
        let denied = noisy.put_account(PutAccount::free("other")).await;
        assert_eq!(denied.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    let seconds = i64::try_from(started.elapsed().as_secs()).unwrap();
    reader
        .put_account(PutAccount::free("other"))
        .await
        .unwrap_err();
    let of = |name: &str| format!("audit_entries WHERE key_name = '{name}'");
    let written = world.count_rows(&of("noisy")).await;
    assert!(
        (20..=21 + seconds).contains(&written),
        "{written} in {seconds} s"
    );
    assert_eq!(world.count_rows(&of("reader")).await, 1);
    world.finish().await;
}

async fn a_run_of_many_accounts_keeps_what_was_asked(world: World) {
    let (_, root) = first_admin(&world).await;
    let mut audit = access(&world, Some(&root)).await;
    let admin = client(world.endpoint(), &root).await;
    let accounts = (0..1_000).map(|number| format!("{number:0>100}"));
    let accounts: Vec<String> = accounts.collect();
    let _ = admin
        .force_report(ForceReport::accounts(accounts.clone()))
        .await
        .unwrap();
    let listed = entries(&mut audit, all()).await;
    let [_, begun, done] = &listed[..] else {
        panic!("{listed:?}")
    };
    // A run names a few of its accounts, so that the rest is kept.
    for entry in [begun, done] {
        let kept = json(&entry.request);
        assert_eq!(kept["account_count"], 1_000);
        assert_eq!(kept["account_ids"].as_array().unwrap().len(), 20);
        assert_eq!(kept["account_ids"][0], accounts[0].as_str());
        assert_eq!(kept["dry_run"], false);
    }
    assert!(json(&done.after)["run_id"].is_string());
    world.finish().await;
}

async fn a_page_of_long_entries_ends_early(world: World) {
    const ROWS: usize = 150;
    let (_, root) = first_admin(&world).await;
    let mut audit = access(&world, Some(&root)).await;
    let text = format!("\"{}\"", "x".repeat(8_000));
    let rows: Vec<String> = (0..ROWS)
        .map(|at| {
            let id = uuid::Uuid::from_u128(u128::try_from(at).unwrap());
            let id = match world.engine {
                Engine::Sqlite => format!("x'{}'", id.simple()),
                Engine::Postgres => format!("'{id}'"),
            };
            format!(
                "({id}, {at}, 'command', 'command', '', {id}, '', 'A', '{text}', '{text}', 'done')"
            )
        })
        .collect();
    for rows in rows.chunks(50) {
        let rows = rows.join(", ");
        world
            .execute_sql(&format!(
                "INSERT INTO audit_entries (id, at, actor, key_name, address, action_id, request_id, action, request, \
                 after, outcome) VALUES {rows}"
            ))
            .await;
    }
    let (mut seen, mut pages, mut page_token) = (0, 0, String::new());
    loop {
        let request = ListAuditEntriesRequest {
            page_token,
            ..all()
        };
        let page = audit
            .list_audit_entries(request)
            .await
            .unwrap()
            .into_inner();
        let bytes = page
            .entries
            .iter()
            .map(|entry| entry.request.len() + entry.after.len());
        assert!(bytes.sum::<usize>() <= 1024 * 1024);
        seen += page.entries.len();
        pages += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((seen, pages), (ROWS + 1, 3));
    world.finish().await;
}

async fn a_denied_dry_run_or_watch_is_no_run(world: World) {
    let (_, root) = first_admin(&world).await;
    let limited = limited_admin(&world, &root, "limited").await;
    let mut audit = access(&world, Some(&root)).await;
    let run_id = uuid::Uuid::now_v7().to_string();
    for denied in [
        ForceReport::accounts(["other"]).dry_run(),
        ForceReport::watch(&run_id),
        ForceReport::all(),
    ] {
        let denied = limited.force_report(denied).await.map(drop);
        assert_eq!(denied.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    let put = PutAccount::free("other").validate_only();
    limited.put_account(put).await.unwrap_err();
    let mut key = limited_access(&world, &root).await;
    let refused = key.list_keys(ListKeysRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let listed = entries(&mut audit, all()).await;
    let [.., dry_run, watch, run, preview, _, list] = &listed[..] else {
        panic!("{listed:?}")
    };
    for entry in [dry_run, watch, run, preview, list] {
        assert_eq!(entry.outcome(), AuditOutcome::Failed);
        assert!(entry.message.starts_with("PERMISSION_DENIED"));
    }
    assert_eq!(json(&dry_run.request)["dry_run"], true);
    assert_eq!(json(&watch.request)["run_id"], run_id.as_str());
    assert_eq!(json(&watch.request)["dry_run"], false);
    assert_eq!(json(&run.request)["all"], true);
    assert_eq!(json(&preview.request)["validate_only"], true);
    assert_eq!(list.action, "ListKeys");
    world.finish().await;
}

async fn limited_access(world: &World, root: &str) -> super::Access {
    let mut root = access(world, Some(root)).await;
    let key = limited_key("another", KeyRole::Admin, &["own"], &[]);
    let key = create(&mut root, key).await.text;
    access(world, Some(&key)).await
}
