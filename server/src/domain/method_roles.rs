//! The role that each method of gRPC demands. What is not in this table is never called. `http_paths` has those of HTTP.
//!
//! Which accounts and meters a key may reach is checked where a request is read.

use super::access::{
    Requirement::{self, AnyRole, Nothing},
    Role,
};

const WRITER: Requirement = Requirement::Role(Role::Writer);
const READER: Requirement = Requirement::Role(Role::Reader);
const ADMIN: Requirement = Requirement::Role(Role::Admin);

/// Every method of every service, by its path. The most frequent ones are first.
pub const METHODS: [(&str, Requirement); 36] = [
    ("/usage.v1.UsageService/Increment", WRITER),
    ("/usage.v1.UsageService/IncrementBatch", WRITER),
    ("/usage.v1.UsageService/Get", READER),
    ("/usage.v1.UsageService/ListUsage", READER),
    ("/usage.v1.UsageService/GetSummary", READER),
    ("/usage.v1.UsageService/ListReports", READER),
    ("/usage.v1.UsageService/Reconcile", READER),
    ("/usage.v1.UsageService/FindIncrement", READER),
    ("/usage.v1.UsageService/ExplainInvoice", READER),
    ("/usage.v1.UsageService/ForceReport", ADMIN),
    ("/usage.v1.UsageService/Correct", ADMIN),
    ("/usage.v1.UsageService/ResolveReport", ADMIN),
    ("/usage.v1.UsageService/AcknowledgeDifference", ADMIN),
    ("/usage.v1.AccountService/GetAccount", READER),
    ("/usage.v1.AccountService/ListAccounts", READER),
    ("/usage.v1.AccountService/PutAccount", ADMIN),
    ("/usage.v1.AccountService/ChangePlan", ADMIN),
    ("/usage.v1.AccountService/CancelSubscription", ADMIN),
    ("/usage.v1.AccountService/AbortSubscriptionChange", ADMIN),
    ("/usage.v1.AccountService/ExportAccount", ADMIN),
    ("/usage.v1.AccountService/DeleteAccount", ADMIN),
    ("/usage.v1.AccessService/CreateKey", ADMIN),
    ("/usage.v1.AccessService/ListKeys", ADMIN),
    ("/usage.v1.AccessService/RevokeKey", ADMIN),
    ("/usage.v1.AccessService/ListAuditEntries", ADMIN),
    ("/usage.v1.OperationsService/Doctor", READER),
    ("/usage.v1.OperationsService/ListRuns", READER),
    ("/usage.v1.OperationsService/CompareShadow", READER),
    ("/usage.v1.OperationsService/GetSignOff", READER),
    ("/usage.v1.OperationsService/ExportSignOff", READER),
    ("/usage.v1.OperationsService/SwitchBilling", ADMIN),
    // The names that callers need.
    ("/usage.v1.UsageService/ListMeters", AnyRole),
    // Load balancers have no key, and learn one word.
    ("/grpc.health.v1.Health/Check", Nothing),
    ("/grpc.health.v1.Health/Watch", Nothing),
    // It describes the contract, and shows nothing that is stored.
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        AnyRole,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        AnyRole,
    ),
];

/// The path of a method as the log names it: one that is not known can be any text.
pub fn method_name(path: &str) -> &'static str {
    let method = METHODS.iter().find(|(known, _)| *known == path);
    method.map_or("unknown", |(known, _)| known)
}

/// What a method demands of its caller; absent if there is no such method.
pub fn requirement(path: &str) -> Option<Requirement> {
    METHODS
        .iter()
        .find(|(known, _)| *known == path)
        .map(|(_, requirement)| *requirement)
}
