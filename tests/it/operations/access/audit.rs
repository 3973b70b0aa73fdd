//! What admins did, tried to do and were refused is in the audit table.

use serde_json::Value;
use tonic::Code;
use usage_client::{
    Correct, ErrorKind, ForceReport, ListReports, PutAccount,
    proto::{
        AuditActor, AuditEntry, AuditOutcome, KeyRole, ListAuditEntriesRequest, PutAccountRequest,
        account_service_client::AccountServiceClient,
    },
};

use super::{
    access, authorization, client, create, entries, first_admin, limited_key, new_key, timestamp,
};
use crate::support::world::{World, on_both_engines};

on_both_engines!(
    each_action_is_recorded_before_and_after_it,
    failed_and_refused_actions_are_recorded,
    an_action_that_cannot_be_recorded_is_not_done,
    entries_are_filtered_and_paged,
    the_record_of_a_change_names_the_key,
    calls_that_change_nothing_are_not_recorded,
);

fn all() -> ListAuditEntriesRequest {
    ListAuditEntriesRequest::default()
}

/// Actions and outcomes of entries.
fn steps(entries: &[AuditEntry]) -> Vec<(&str, AuditOutcome)> {
    entries
        .iter()
        .map(|entry| (entry.action.as_str(), entry.outcome()))
        .collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

async fn each_action_is_recorded_before_and_after_it(world: World) {
    use AuditOutcome::{Begun, Done};
    world.create_customers(&["cus_1"]).await;
    let (root, admin) = first_admin(&world).await;
    let mut own = access(&world, Some(&admin)).await;
    let calls = client(world.endpoint(), &admin).await;
    calls.put_account(PutAccount::free("acct")).await.unwrap();
    calls
        .put_account(PutAccount::stripe("acct", "cus_1"))
        .await
        .unwrap();
    calls
        .correct(Correct::new("acct", 7, "a gift"))
        .await
        .unwrap();
    let run = calls
        .force_report(ForceReport::accounts(["acct"]))
        .await
        .unwrap();
    let run_id = run.run_id().unwrap().to_owned();
    let entries = entries(&mut own, all()).await;
    assert_eq!(
        steps(&entries),
        [
            ("CreateKey", Done),
            ("PutAccount", Begun),
            ("PutAccount", Done),
            ("PutAccount", Begun),
            ("PutAccount", Done),
            ("Correct", Begun),
            ("Correct", Done),
            ("ForceReport", Begun),
            ("ForceReport", Done),
        ]
    );
    assert_eq!(
        (entries[0].key_name.as_str(), entries[0].key_id.as_str()),
        ("", "")
    );
    assert_eq!(entries[0].actor(), AuditActor::Anyone);
    for pair in entries[1..].chunks(2) {
        let [begun, done] = pair else {
            panic!("{pair:?}")
        };
        assert_eq!(begun.action_id, done.action_id);
        assert!(uuid::Uuid::parse_str(&begun.action_id).is_ok());
        assert_eq!(begun.request_id, done.request_id);
        assert!(
            uuid::Uuid::parse_str(&begun.request_id).is_ok(),
            "the client sends none"
        );
        assert_eq!(begun.request, done.request);
        assert!(begun.before.is_empty() && begun.after.is_empty() && begun.message.is_empty());
        for entry in pair {
            assert_eq!((entry.key_name.as_str(), &entry.key_id), ("root", &root.id));
            assert_eq!(entry.actor(), AuditActor::Key);
            assert!(entry.address.starts_with("127.0.0.1:"), "{}", entry.address);
            assert_eq!(entry.account_id, "acct");
        }
    }
    assert_eq!(entries[2].before, "");
    assert!(json(&entries[2].after)["customer"].is_null());
    assert!(json(&entries[4].before)["customer"].is_null());
    assert_eq!(json(&entries[4].after)["customer"], "cus_1");
    assert_eq!(json(&entries[5].request)["reason"], "a gift");
    assert_eq!(json(&entries[6].after)["quantity"], 7);
    assert_eq!(json(&entries[8].after)["run_id"], run_id.as_str());
    world.finish().await;
}

async fn failed_and_refused_actions_are_recorded(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut own = access(&world, Some(&admin)).await;
    let reader = create(&mut own, new_key("dashboard", KeyRole::Reader))
        .await
        .text;
    let limited = limited_key("limited", KeyRole::Admin, &["own"], &[]);
    let limited = create(&mut own, limited).await.text;
    let (reader, limited) = (
        client(world.endpoint(), &reader).await,
        client(world.endpoint(), &limited).await,
    );
    let admin = client(world.endpoint(), &admin).await;
    let put = || PutAccount::free("acct");
    reader.put_account(put()).await.unwrap_err();
    limited.put_account(put()).await.unwrap_err();
    let failed = admin
        .put_account(PutAccount::stripe("acct", "cus_missing"))
        .await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Invalid);
    // Who has no key is not recorded.
    world.client().put_account(put()).await.unwrap_err();
    let entries = entries(&mut own, all()).await;
    let failed: Vec<_> = entries
        .iter()
        .filter(|entry| entry.outcome() == AuditOutcome::Failed)
        .collect();
    let [by_role, by_limit, by_stripe] = &failed[..] else {
        panic!("{failed:?}")
    };
    for (entry, key, reason) in [
        (by_role, "dashboard", "PERMISSION_DENIED"),
        (by_limit, "limited", "PERMISSION_DENIED"),
        (by_stripe, "root", "UNKNOWN_CUSTOMER"),
    ] {
        assert_eq!(
            (entry.action.as_str(), entry.key_name.as_str()),
            ("PutAccount", key)
        );
        assert!(entry.message.starts_with(reason), "{}", entry.message);
    }
    // What is refused before anything is done has no beginning.
    let begun = entries
        .iter()
        .filter(|entry| entry.outcome() == AuditOutcome::Begun);
    let begun: Vec<_> = begun.map(|entry| entry.key_name.as_str()).collect();
    assert_eq!(begun, ["root"]);
    assert_eq!(json(&by_limit.request)["billing"], "free");
    assert_eq!(by_limit.account_id, "acct");
    world.finish().await;
}

async fn an_action_that_cannot_be_recorded_is_not_done(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut own = access(&world, Some(&admin)).await;
    let admin = client(world.endpoint(), &admin).await;
    world
        .execute_sql("ALTER TABLE audit_entries RENAME TO audit_entries_away")
        .await;
    admin
        .put_account(PutAccount::free("acct"))
        .await
        .unwrap_err();
    admin
        .correct(Correct::new("acct", 7, "a gift"))
        .await
        .unwrap_err();
    let refused = own
        .create_key(new_key("w", KeyRole::Writer))
        .await
        .unwrap_err();
    assert_ne!(refused.code(), Code::Ok);
    world
        .execute_sql("ALTER TABLE audit_entries_away RENAME TO audit_entries")
        .await;
    assert_eq!(
        admin.get_account("acct").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        admin.get("acct").await.unwrap().meters[0].quantities.total,
        0
    );
    assert_eq!(world.count_rows("api_keys").await, 1);
    world.finish().await;
}

async fn entries_are_filtered_and_paged(mut world: World) {
    let clock = world.set_time("2026-03-10T12:00:00Z").await;
    let (root, admin) = first_admin(&world).await;
    let mut own = access(&world, Some(&admin)).await;
    let other = create(&mut own, new_key("other", KeyRole::Admin)).await;
    clock.advance(60_000);
    let from = timestamp(clock.now());
    let calls = client(world.endpoint(), &other.text).await;
    for account in ["a", "b", "c"] {
        calls.put_account(PutAccount::free(account)).await.unwrap();
    }
    let listed = entries(&mut own, all()).await;
    assert_eq!(listed.len(), 8);
    let mut paged = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAuditEntriesRequest {
            page_size: 3,
            page_token,
            ..all()
        };
        let page = own.list_audit_entries(request).await.unwrap().into_inner();
        paged.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    paged.reverse();
    assert_eq!(paged, listed);
    let of_key = |key_id: &str| ListAuditEntriesRequest {
        key_id: key_id.to_owned(),
        ..all()
    };
    assert_eq!(entries(&mut own, of_key(&root.id)).await.len(), 1);
    assert_eq!(
        entries(&mut own, of_key(&other.key.unwrap().id))
            .await
            .len(),
        6
    );
    let of_account = ListAuditEntriesRequest {
        account_id: "b".to_owned(),
        ..all()
    };
    assert_eq!(entries(&mut own, of_account).await.len(), 2);
    let later = ListAuditEntriesRequest {
        from: Some(from),
        ..all()
    };
    assert_eq!(entries(&mut own, later).await.len(), 6);
    let earlier = ListAuditEntriesRequest {
        until: Some(from),
        ..all()
    };
    assert_eq!(entries(&mut own, earlier).await.len(), 2);
    let wrong = own.list_audit_entries(of_key("nothing")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    world.finish().await;
}

async fn the_record_of_a_change_names_the_key(world: World) {
    world.link_to_new_customer("acct", "cus_1").await;
    let (_, key) = first_admin(&world).await;
    let admin = client(world.endpoint(), &key).await;
    let stated = Correct::new("acct", 7, "a gift").requested_by("ann");
    let corrected = admin.correct(stated).await.unwrap().report;
    assert_eq!(corrected.entered_by.as_deref(), Some("ann (key root)"));
    let unstated = admin
        .correct(Correct::new("acct", 8, "another"))
        .await
        .unwrap()
        .report;
    assert_eq!(unstated.entered_by.as_deref(), Some("key root"));
    // The longest name that a request may state.
    let longest = Correct::new("acct", 9, "a third").requested_by("x".repeat(128));
    admin.correct(longest).await.unwrap();
    let mut own = access(&world, Some(&key)).await;
    let mut accounts = AccountServiceClient::new(world.grpc_channel().await);
    let mut put = async |request_id: &str| {
        let mut request = tonic::Request::new(PutAccountRequest::default());
        let metadata = request.metadata_mut();
        metadata.insert("authorization", authorization(&key));
        metadata.insert("x-request-id", request_id.parse().unwrap());
        accounts.put_account(request).await.unwrap_err();
        let entry = entries(&mut own, all()).await.pop().unwrap();
        (entry.request_id, entry.action_id)
    };
    // A caller may repeat its own id, and names no other call by it.
    let first = put("their-id-7").await;
    let second = put("their-id-7").await;
    assert_eq!((&*first.0, &*second.0), ("their-id-7", "their-id-7"));
    assert_ne!(first.1, second.1);
    // One that is too long is replaced.
    let third = put(&"x".repeat(129)).await;
    assert!(uuid::Uuid::parse_str(&third.0).is_ok(), "{third:?}");
    world.finish().await;
}

async fn calls_that_change_nothing_are_not_recorded(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut own = access(&world, Some(&admin)).await;
    let calls = client(world.endpoint(), &admin).await;
    calls.increment("acct").await.unwrap();
    calls.get("acct").await.unwrap();
    calls
        .put_account(PutAccount::free("acct").validate_only())
        .await
        .unwrap();
    calls.list_reports(ListReports::new()).await.unwrap();
    let preview = calls
        .force_report(ForceReport::all().dry_run())
        .await
        .unwrap();
    preview.summary().await.unwrap();
    assert_eq!(
        steps(&entries(&mut own, all()).await),
        [("CreateKey", AuditOutcome::Done)]
    );
    world.finish().await;
}
