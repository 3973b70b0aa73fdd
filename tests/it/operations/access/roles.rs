//! Each method of every service has a role, and each kind of key is answered as its role demands.

use std::collections::{BTreeMap, BTreeSet};

use http::uri::PathAndQuery;
use prost::Message as _;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};
use tonic::{Code, Request, client::Grpc, transport::Channel};
use usage_client::proto::{FILE_DESCRIPTOR_SET, KeyRole, RevokeKeyRequest};
use usage_server::domain::{
    access::{Requirement, Role},
    method_roles::{METHODS, requirement},
};

use super::{access, authorization, create, first_admin, limited_key, new_key, timestamp};
use crate::{
    operations::tls::Secure,
    support::{
        raw_messages::Raw,
        world::{World, on_both_engines, within},
    },
};

on_both_engines!(
    each_kind_of_key_is_answered_as_the_role_table_says,
    each_certificate_is_answered_as_the_role_table_says,
    a_health_check_is_short,
    an_unknown_method_is_not_told_to_strangers,
    a_denial_does_not_say_what_exists,
);

/// The paths of all methods that the server can have, each with the fields of its request that are texts, by name.
pub(super) fn methods() -> BTreeMap<String, BTreeMap<String, i32>> {
    let sets = [
        FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = BTreeMap::new();
    for set in sets {
        let files = FileDescriptorSet::decode(set).unwrap().file;
        for file in &files {
            let package = file.package().to_owned();
            let texts_of = |message: &str| {
                // A file may have the requests of another one's service.
                let path = message.trim_start_matches('.');
                let name = path.strip_prefix(&format!("{package}.")).unwrap();
                let same = files.iter().filter(|other| other.package() == package);
                let mut messages = same.flat_map(|other| &other.message_type);
                let message = messages.find(|one| one.name() == name);
                let fields = message.unwrap().field.iter();
                let texts = fields.filter(|field| field.r#type() == Type::String);
                texts
                    .map(|field| (field.name().to_owned(), field.number()))
                    .collect()
            };
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{package}.{}/{}", service.name(), method.name());
                    methods.insert(path, texts_of(method.input_type()));
                }
            }
        }
    }
    methods
}

#[test]
fn every_method_has_a_role_and_every_role_a_method() {
    let methods: BTreeSet<String> = methods().into_keys().collect();
    let with_role: BTreeSet<String> = METHODS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(methods, with_role);
    assert_eq!(METHODS.len(), with_role.len(), "a method has two roles");
}

#[test]
fn all_that_is_not_named_here_is_for_admins() {
    let with = |role: Requirement| -> Vec<&str> {
        let methods = METHODS.iter().filter(|(_, needed)| *needed == role);
        methods.map(|(path, _)| *path).collect()
    };
    assert_eq!(
        with(Requirement::Role(Role::Writer)),
        [
            "/usage.v1.UsageService/Increment",
            "/usage.v1.UsageService/IncrementBatch",
        ]
    );
    assert_eq!(
        with(Requirement::Role(Role::Reader)),
        [
            "/usage.v1.UsageService/Get",
            "/usage.v1.UsageService/ListUsage",
            "/usage.v1.UsageService/GetSummary",
            "/usage.v1.UsageService/ListReports",
            "/usage.v1.UsageService/Reconcile",
            "/usage.v1.UsageService/FindIncrement",
            "/usage.v1.UsageService/ExplainInvoice",
            "/usage.v1.AccountService/GetAccount",
            "/usage.v1.AccountService/ListAccounts",
            "/usage.v1.OperationsService/Doctor",
            "/usage.v1.OperationsService/ListRuns",
            "/usage.v1.OperationsService/CompareShadow",
            "/usage.v1.OperationsService/GetSignOff",
            "/usage.v1.OperationsService/ExportSignOff",
        ]
    );
    let is_general = |path: &&str| path.starts_with("/grpc.");
    assert!(
        with(Requirement::Nothing)
            .iter()
            .all(|path| path.starts_with("/grpc.health."))
    );
    let is_for_all = |path: &&str| is_general(path) || *path == "/usage.v1.UsageService/ListMeters";
    assert!(with(Requirement::AnyRole).iter().all(is_for_all));
}

/// A message with a text in one field.
pub(super) fn message(field: i32, text: &str) -> Vec<u8> {
    let mut bytes = vec![
        u8::try_from(field << 3 | 2).unwrap(),
        u8::try_from(text.len()).unwrap(),
    ];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Makes a call as a stream of one message, and returns the code of its first answer, with the text.
pub(super) async fn call(
    channel: &Channel,
    path: &str,
    key: Option<&str>,
    message: Vec<u8>,
) -> (Code, String) {
    let mut grpc = Grpc::new(channel.clone());
    let mut request = Request::new(message);
    if let Some(key) = key {
        request
            .metadata_mut()
            .insert("authorization", authorization(key));
    }
    let answer = within(path, async {
        grpc.ready().await.unwrap();
        let path: PathAndQuery = path.parse().unwrap();
        let mut answers = grpc
            .server_streaming(request, path, Raw)
            .await?
            .into_inner();
        answers.message().await
    });
    match answer.await {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

/// The code with which a caller of a role is refused; none if it is not. No role means that the caller is not known.
fn refusal(needed: Requirement, role: Option<Role>) -> Option<Code> {
    match (needed, role) {
        (Requirement::Nothing, _) => None,
        (_, None) => Some(Code::Unauthenticated),
        (_, Some(role)) if needed.is_met_by(role) => None,
        (_, Some(_)) => Some(Code::PermissionDenied),
    }
}

/// A key of each kind: its name, its text, and the role of one that is valid.
pub(crate) async fn kinds_of_keys(
    world: &mut World,
) -> Vec<(&'static str, Option<String>, Option<Role>)> {
    let clock = world.set_time("2026-03-10T12:00:00Z").await;
    let (_, admin) = first_admin(world).await;
    let mut with_key = access(world, Some(&admin)).await;
    let mut expires = new_key("expires", KeyRole::Admin);
    expires.expires_at = Some(timestamp(clock.now() + 1_000));
    let past = create(&mut with_key, expires).await.text;
    let revoked = create(&mut with_key, new_key("revoked", KeyRole::Admin)).await;
    let id = revoked.key.unwrap().id;
    with_key.revoke_key(RevokeKeyRequest { id }).await.unwrap();
    let writer = create(&mut with_key, new_key("writer", KeyRole::Writer))
        .await
        .text;
    let reader = create(&mut with_key, new_key("reader", KeyRole::Reader))
        .await
        .text;
    clock.advance(2_000);
    // The right id, and the secret of another key.
    let wrong = format!("{}{}", &admin[..20], &writer[20..]);
    vec![
        ("no key", None, None),
        ("no text of a key", Some("s3cret".to_owned()), None),
        (
            "an unknown key",
            Some(format!("ub_{:016x}_{}", 7, &admin[20..])),
            None,
        ),
        ("a wrong secret", Some(wrong), None),
        ("an expired key", Some(past), None),
        ("a revoked key", Some(revoked.text), None),
        ("a writer", Some(writer), Some(Role::Writer)),
        ("a reader", Some(reader), Some(Role::Reader)),
        ("an admin", Some(admin), Some(Role::Admin)),
    ]
}

async fn each_kind_of_key_is_answered_as_the_role_table_says(mut world: World) {
    let keys = kinds_of_keys(&mut world).await;
    let channel = world.grpc_channel().await;
    for path in methods().into_keys() {
        let needed = requirement(&path).unwrap();
        for (kind, key, role) in &keys {
            let (code, text) = call(&channel, &path, key.as_deref(), Vec::new()).await;
            let expected = refusal(needed, *role);
            let is_refused = [Code::Unauthenticated, Code::PermissionDenied].contains(&code);
            assert_eq!(
                is_refused.then_some(code),
                expected,
                "{kind}: {path}: {code:?} {text}"
            );
            // What is sent is not valid in most methods, but nothing is broken.
            assert_ne!(code, Code::Internal, "{kind}: {path}: {text}");
        }
    }
    world.finish().await;
}

async fn each_certificate_is_answered_as_the_role_table_says(mut world: World) {
    let roles = [
        "DNS:backend=writer",
        "CN:dash=reader",
        "email:ops@example.com=admin",
    ];
    let secure = Secure::start_with_roles(&mut world, &roles).await;
    let authority = secure.clients.as_ref().unwrap();
    let sign = |common_name, dns, email| {
        authority.sign_subjects(common_name, dns, "spiffe://example.com/any", email)
    };
    for (own, role) in [
        (
            sign("any", "backend", "any@example.com"),
            Some(Role::Writer),
        ),
        (sign("dash", "any", "any@example.com"), Some(Role::Reader)),
        (sign("any", "any", "ops@example.com"), Some(Role::Admin)),
        // A name of another kind is another name.
        (sign("ops@example.com", "dash", "backend@example.com"), None),
        // It is not clear which one is meant.
        (sign("dash", "backend", "any@example.com"), None),
    ] {
        let channel = secure.channel(&own).await;
        for path in methods().into_keys() {
            let needed = requirement(&path).unwrap();
            let (code, text) = call(&channel, &path, None, Vec::new()).await;
            let is_refused = [Code::Unauthenticated, Code::PermissionDenied].contains(&code);
            let expected = refusal(needed, role);
            assert_eq!(
                is_refused.then_some(code),
                expected,
                "{role:?}: {path}: {text}"
            );
        }
    }
    secure.stop(world).await;
}

async fn an_unknown_method_is_not_told_to_strangers(world: World) {
    let channel = world.grpc_channel().await;
    let path = "/usage.v1.UsageService/Nothing";
    let (code, open) = call(&channel, path, None, Vec::new()).await;
    assert_eq!(code, Code::Unimplemented);
    let (_, admin) = first_admin(&world).await;
    let (code, _) = call(&channel, path, None, Vec::new()).await;
    assert_eq!(code, Code::Unauthenticated);
    let told = call(&channel, path, Some(&admin), Vec::new()).await;
    assert_eq!(told, (Code::Unimplemented, open));
    world.finish().await;
}

async fn a_health_check_is_short(world: World) {
    let channel = world.grpc_channel().await;
    let check = "/grpc.health.v1.Health/Check";
    for (bytes, expected) in [(1_000, Code::NotFound), (1_100, Code::ResourceExhausted)] {
        // A field of text, whose length takes two bytes.
        let length = u8::try_from(bytes & 0x7f).unwrap();
        let mut message = vec![0x0a, length | 0x80, u8::try_from(bytes >> 7).unwrap()];
        message.extend(std::iter::repeat_n(b'x', bytes));
        let (code, text) = call(&channel, check, None, message).await;
        assert_eq!(code, expected, "{bytes}: {text}");
    }
    world.finish().await;
}

async fn a_denial_does_not_say_what_exists(world: World) {
    world.link_to_new_customer("theirs", "cus_theirs").await;
    let (_, admin) = first_admin(&world).await;
    let mut with_key = access(&world, Some(&admin)).await;
    let limited = limited_key("limited", KeyRole::Admin, &["own"], &[]);
    let limited = create(&mut with_key, limited).await.text;
    let channel = world.grpc_channel().await;
    let mut seen = 0;
    for (path, texts) in methods() {
        let Some(field) = texts.get("account_id").copied() else {
            continue;
        };
        // An admin's list of what admins did needs a key without limits, whatever it names.
        let existing = call(&channel, &path, Some(&limited), message(field, "theirs")).await;
        let missing = call(&channel, &path, Some(&limited), message(field, "missing")).await;
        assert_eq!(existing.0, Code::PermissionDenied, "{path}: {existing:?}");
        assert_eq!(existing, missing, "{path}");
        let own = call(&channel, &path, Some(&limited), message(field, "own")).await;
        let is_everything = path.ends_with("ListAuditEntries");
        assert_eq!(
            own.0 == Code::PermissionDenied,
            is_everything,
            "{path}: {own:?}"
        );
        seen += 1;
    }
    assert!(seen >= 12, "{seen}");
    world.finish().await;
}
