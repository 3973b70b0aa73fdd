//! Roles by the subject of a client certificate, beside keys.

use usage_client::{
    Correct, ErrorKind, PutAccount, UsageClient,
    proto::{AuditActor, ListAuditEntriesRequest, access_service_client::AccessServiceClient},
};

use crate::{
    operations::tls::Secure,
    support::world::{World, on_both_engines},
};

on_both_engines!(
    a_certificate_has_the_role_of_its_subject,
    the_record_of_a_change_names_the_certificate,
);

/// What a caller is refused: counting, showing and changing accounts.
async fn refusals(client: &UsageClient) -> [Option<ErrorKind>; 3] {
    let kind = |error: usage_client::Error| error.kind();
    [
        client.increment("acct").await.err().map(kind),
        client.get("acct").await.err().map(kind),
        client
            .put_account(PutAccount::free("acct"))
            .await
            .err()
            .map(kind),
    ]
}

async fn a_certificate_has_the_role_of_its_subject(mut world: World) {
    let roles = ["DNS:backend=writer", "DNS:dash=reader", "DNS:ops=admin"];
    let secure = Secure::start_with_roles(&mut world, &roles).await;
    let authority = secure.clients.as_ref().unwrap();
    let client = |name: &str| secure.client(Some(&authority.sign(name)));
    let denied = Some(ErrorKind::PermissionDenied);
    let unknown = Some(ErrorKind::Unauthenticated);
    // A new client's first call may meet a server that is still starting.
    crate::support::world::poll("the server", async || {
        client("ops").increment("acct").await.ok().map(drop)
    })
    .await;
    assert_eq!(refusals(&client("backend")).await, [None, denied, denied]);
    assert_eq!(refusals(&client("dash")).await, [denied, None, denied]);
    assert_eq!(refusals(&client("ops")).await, [None, None, None]);
    // Of the authority, and without a role.
    assert_eq!(refusals(&client("other")).await, [unknown; 3]);
    secure.stop(world).await;
}

async fn the_record_of_a_change_names_the_certificate(mut world: World) {
    let roles = ["DNS:command=admin"];
    let secure = Secure::start_with_roles(&mut world, &roles).await;
    let authority = secure.clients.as_ref().unwrap();
    let own = authority.sign("command");
    let admin = secure.client(Some(&own));
    // A new client's first call may meet a server that is still starting.
    let correct = || {
        Correct::new("acct", 7, "a gift")
            .key("once")
            .requested_by("ann")
    };
    let corrected =
        crate::support::world::poll("the server", async || admin.correct(correct()).await.ok());
    let by = corrected.await.report.entered_by.unwrap();
    assert_eq!(by, "ann (certificate DNS:command)");
    let mut access = AccessServiceClient::new(secure.channel(&own).await);
    let listed = access.list_audit_entries(ListAuditEntriesRequest::default());
    let entry = listed.await.unwrap().into_inner().entries.remove(0);
    assert_eq!(entry.actor(), AuditActor::Certificate, "not a command");
    assert_eq!((&*entry.key_name, &*entry.key_id), ("DNS:command", ""));
    secure.stop(world).await;
}
