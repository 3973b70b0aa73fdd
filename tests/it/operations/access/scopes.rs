//! What each method is about, and how it answers keys that are limited to accounts or to meters.

use std::collections::BTreeMap;

use tonic::{Code, transport::Channel};
use usage_client::proto::KeyRole;
use usage_server::domain::method_roles::METHODS;

use super::{
    access, create, first_admin, limited_key,
    roles::{call, message, methods},
};
use crate::support::world::{World, on_both_engines};

on_both_engines!(each_method_answers_limited_keys_as_its_class_says);

/// What a method is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// One meter of an account. Without a meter it is about the default one, or about all.
    Meter,
    /// An account with all its meters.
    Account,
    /// The accounts of this field with all their meters, or all accounts if it is empty.
    Accounts(&'static str),
    /// One meter, or all if it names none, of the accounts with a prefix, or of all.
    Prefix,
    /// All accounts, whatever it names.
    Everything,
    /// Nothing that is limited, or each item of a batch by itself.
    Nothing,
}

/// Every method, in one class.
const CLASSES: [(&str, Class); 36] = [
    ("/usage.v1.UsageService/Increment", Class::Meter),
    ("/usage.v1.UsageService/IncrementBatch", Class::Nothing),
    ("/usage.v1.UsageService/Get", Class::Meter),
    ("/usage.v1.UsageService/ListUsage", Class::Prefix),
    ("/usage.v1.UsageService/GetSummary", Class::Prefix),
    (
        "/usage.v1.UsageService/ListReports",
        Class::Accounts("account_id"),
    ),
    (
        "/usage.v1.UsageService/Reconcile",
        Class::Accounts("account_id"),
    ),
    ("/usage.v1.UsageService/FindIncrement", Class::Meter),
    (
        "/usage.v1.UsageService/ExplainInvoice",
        Class::Accounts("account_id"),
    ),
    (
        "/usage.v1.UsageService/ForceReport",
        Class::Accounts("account_ids"),
    ),
    ("/usage.v1.UsageService/Correct", Class::Meter),
    ("/usage.v1.UsageService/ResolveReport", Class::Account),
    (
        "/usage.v1.UsageService/AcknowledgeDifference",
        Class::Account,
    ),
    ("/usage.v1.UsageService/ListMeters", Class::Nothing),
    ("/usage.v1.AccountService/GetAccount", Class::Account),
    ("/usage.v1.AccountService/ListAccounts", Class::Everything),
    ("/usage.v1.AccountService/PutAccount", Class::Account),
    ("/usage.v1.AccountService/ChangePlan", Class::Account),
    (
        "/usage.v1.AccountService/CancelSubscription",
        Class::Account,
    ),
    (
        "/usage.v1.AccountService/AbortSubscriptionChange",
        Class::Account,
    ),
    ("/usage.v1.AccountService/ExportAccount", Class::Account),
    ("/usage.v1.AccountService/DeleteAccount", Class::Account),
    ("/usage.v1.AccessService/CreateKey", Class::Everything),
    ("/usage.v1.AccessService/ListKeys", Class::Everything),
    ("/usage.v1.AccessService/RevokeKey", Class::Everything),
    (
        "/usage.v1.AccessService/ListAuditEntries",
        Class::Everything,
    ),
    ("/usage.v1.OperationsService/Doctor", Class::Everything),
    ("/usage.v1.OperationsService/ListRuns", Class::Everything),
    (
        "/usage.v1.OperationsService/CompareShadow",
        Class::Everything,
    ),
    ("/usage.v1.OperationsService/GetSignOff", Class::Everything),
    (
        "/usage.v1.OperationsService/ExportSignOff",
        Class::Everything,
    ),
    (
        "/usage.v1.OperationsService/SwitchBilling",
        Class::Everything,
    ),
    ("/grpc.health.v1.Health/Check", Class::Nothing),
    ("/grpc.health.v1.Health/Watch", Class::Nothing),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Class::Nothing,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Class::Nothing,
    ),
];

/// The fields of a request that say what it is about.
const FIELDS: [&str; 4] = ["account_id", "account_ids", "account_prefix", "meter"];

/// A key's limit, and a request with the fields that it names: whether it is denied.
struct Case {
    is_of_accounts: bool,
    texts: &'static [(&'static str, &'static str)],
    is_denied: bool,
}

const fn of_account(texts: &'static [(&'static str, &'static str)], is_denied: bool) -> Case {
    Case {
        is_of_accounts: true,
        texts,
        is_denied,
    }
}

const fn of_meter(texts: &'static [(&'static str, &'static str)], is_denied: bool) -> Case {
    Case {
        is_of_accounts: false,
        texts,
        is_denied,
    }
}

/// One key is limited to the account `own`, the other one to the meter `tokens`, which is not the default one.
const OF_METER: [Case; 8] = [
    of_account(&[("account_id", "own"), ("meter", "tokens")], false),
    of_account(&[("account_id", "own")], false),
    of_account(&[("account_id", "other"), ("meter", "tokens")], true),
    of_account(&[("meter", "tokens")], true),
    of_meter(&[("account_id", "own"), ("meter", "tokens")], false),
    of_meter(&[("account_id", "other"), ("meter", "tokens")], false),
    of_meter(&[("account_id", "own"), ("meter", "api_calls")], true),
    of_meter(&[("account_id", "own")], true),
];
const OF_ACCOUNT: [Case; 5] = [
    of_account(&[("account_id", "own")], false),
    of_account(&[("account_id", "other")], true),
    of_account(&[], true),
    of_meter(&[("account_id", "own")], true),
    of_meter(&[], true),
];
/// The key of an account names no prefix, so no prefix is within its limit.
const OF_PREFIX: [Case; 6] = [
    of_account(&[("account_prefix", "own"), ("meter", "tokens")], true),
    of_account(&[("meter", "tokens")], true),
    of_meter(&[("account_prefix", "own"), ("meter", "tokens")], false),
    of_meter(&[("meter", "tokens")], false),
    of_meter(&[("meter", "api_calls")], true),
    of_meter(&[], true),
];
const EVERYTHING: [Case; 4] = [
    of_account(&[], true),
    of_account(&[("account_id", "own")], true),
    of_meter(&[], true),
    of_meter(&[("account_id", "own"), ("meter", "tokens")], true),
];
const NOTHING: [Case; 2] = [of_account(&[], false), of_meter(&[], false)];

#[test]
fn every_method_is_in_one_class_that_fits_its_request() {
    let classes: BTreeMap<&str, Class> = CLASSES.into_iter().collect();
    assert_eq!(classes.len(), CLASSES.len(), "a method is in two classes");
    for (path, _) in METHODS {
        assert!(classes.contains_key(path), "{path} is in no class");
    }
    assert_eq!(classes.len(), METHODS.len());
    for (path, texts) in methods() {
        let has = |name: &str| texts.contains_key(name);
        let fits = match classes[&*path] {
            Class::Meter => has("account_id") && has("meter"),
            Class::Account => has("account_id") && !has("meter"),
            Class::Accounts(field) => has(field),
            Class::Prefix => has("account_prefix") && has("meter"),
            Class::Everything => !has("meter"),
            Class::Nothing => !FIELDS.iter().any(|field| has(field)),
        };
        assert!(fits, "{path}: {texts:?}");
    }
}

/// Makes a call with the fields that its request has.
async fn answer(
    channel: &Channel,
    (path, fields): (&str, &BTreeMap<String, i32>),
    key: &str,
    class: Class,
    texts: &[(&str, &str)],
) -> (Code, String) {
    let mut bytes = Vec::new();
    for (name, text) in texts {
        let name = match class {
            Class::Accounts(field) if *name == "account_id" => field,
            _ => *name,
        };
        if let Some(field) = fields.get(name) {
            bytes.extend(message(*field, text));
        }
    }
    call(channel, path, Some(key), bytes).await
}

async fn each_method_answers_limited_keys_as_its_class_says(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut with_key = access(&world, Some(&admin)).await;
    let of_accounts = limited_key("of accounts", KeyRole::Admin, &["own"], &[]);
    let of_accounts = create(&mut with_key, of_accounts).await.text;
    let of_meters = limited_key("of meters", KeyRole::Admin, &[], &["tokens"]);
    let of_meters = create(&mut with_key, of_meters).await.text;
    let channel = world.grpc_channel().await;
    let methods = methods();
    for (path, class) in CLASSES {
        let cases = match class {
            Class::Meter => &OF_METER[..],
            Class::Account | Class::Accounts(_) => &OF_ACCOUNT,
            Class::Prefix => &OF_PREFIX,
            Class::Everything => &EVERYTHING,
            Class::Nothing => &NOTHING,
        };
        for case in cases {
            let key = if case.is_of_accounts {
                &of_accounts
            } else {
                &of_meters
            };
            let method = (path, &methods[path]);
            let (code, text) = answer(&channel, method, key, class, case.texts).await;
            let limit = if case.is_of_accounts {
                "accounts"
            } else {
                "meters"
            };
            assert_eq!(
                code == Code::PermissionDenied,
                case.is_denied,
                "{path} of {:?} with a key of {limit}: {code:?} {text}",
                case.texts
            );
            assert_ne!(code, Code::Unauthenticated, "{path}: {text}");
        }
    }
    world.finish().await;
}
