//! What audit entries say of actions and of what they changed, as JSON.

use serde_json::{Value, json};
use usage_proto::v1;

use super::{
    auditor::{Action, Changed},
    wire,
};
use crate::domain::{
    account::Account,
    account_id::AccountId,
    audit::Actor,
    billing_start::BillingStart,
    difference_id::DifferenceId,
    invoice_comparison::PeriodComparison,
    period::rfc3339,
    report::{Report, identifier},
    run::Run,
    subscription_change::SubscriptionChange,
};
use crate::store::{account_deletion::Deletion, deleted_accounts::DELETE_ACCOUNT};
use crate::workers::subscription_change::change::{ChangeDone, SubscriptionState};

/// An entry names at most this many accounts of a run, so that the rest of its request always fits.
const MAX_NAMED_ACCOUNTS: usize = 20;

/// An action about an account. One whose id is not valid is only in the request.
fn action(actor: Actor, name: &'static str, account_id: &str, request: Value) -> Action {
    let account_id = AccountId::parse(account_id).ok().map(String::from);
    Action {
        actor,
        name,
        account_id,
        request,
        done: None,
    }
}

impl Action {
    /// The same, with what the log says once it is done.
    fn logged_as(self, done: &'static str) -> Self {
        Self {
            done: Some(done),
            ..self
        }
    }
}

pub(super) fn put_account(actor: Actor, request: &v1::PutAccountRequest) -> Action {
    let billing = match &request.billing {
        Some(v1::put_account_request::Billing::Stripe(stripe)) => json!({
            "customer": stripe.customer,
            "subscription": stripe.subscription,
            "bill_from": time(stripe.bill_from.as_ref()),
            "current_period": stripe.current_period.as_ref().map(|period| json!({
                "start": time(period.start.as_ref()),
                "end": time(period.end.as_ref()),
            })),
        }),
        Some(v1::put_account_request::Billing::Free(_)) => json!("free"),
        None => Value::Null,
    };
    let details = json!({
        "account_id": request.account_id,
        "billing": billing,
        "etag": request.etag,
        "validate_only": request.validate_only,
    });
    action(actor, "PutAccount", &request.account_id, details)
        .logged_as("what an account is billed to was changed")
}

pub(super) fn change_plan(actor: Actor, request: &v1::ChangePlanRequest) -> Action {
    let details = json!({
        "account_id": request.account_id,
        "prices": request.prices,
        "requested_by": request.requested_by,
    });
    action(actor, "ChangePlan", &request.account_id, details)
}

pub(super) fn cancel(actor: Actor, request: &v1::CancelSubscriptionRequest) -> Action {
    use v1::cancel_subscription_request::When;
    let when = match &request.when {
        Some(When::Now(now)) => json!({ "invoice_now": now.invoice_now, "prorate": now.prorate }),
        Some(When::AtPeriodEnd(_)) => json!("at_period_end"),
        None => Value::Null,
    };
    let details = json!({
        "account_id": request.account_id,
        "when": when,
        "requested_by": request.requested_by,
    });
    action(actor, "CancelSubscription", &request.account_id, details)
}

pub(super) fn abort(actor: Actor, request: &v1::AbortSubscriptionChangeRequest) -> Action {
    let details = json!({ "account_id": request.account_id, "requested_by": request.requested_by });
    action(
        actor,
        "AbortSubscriptionChange",
        &request.account_id,
        details,
    )
    .logged_as("a change of a subscription was aborted; the subscription is as before")
}

pub(super) fn correct(actor: Actor, request: &v1::CorrectRequest) -> Action {
    let details = json!({
        "account_id": request.account_id,
        "meter": request.meter,
        "quantity": request.quantity,
        "reason": request.reason,
        "timestamp": time(request.timestamp.as_ref()),
        "requested_by": request.requested_by,
        "idempotency_key": request.idempotency_key,
        "dry_run": request.dry_run,
    });
    action(actor, "Correct", &request.account_id, details).logged_as("usage was corrected")
}

pub(super) fn resolve(actor: Actor, request: &v1::ResolveReportRequest) -> Action {
    let details = json!({
        "account_id": request.account_id,
        "report_id": request.report_id,
        "action": request.action().as_str_name(),
        "reason": request.reason,
        "requested_by": request.requested_by,
        "dry_run": request.dry_run,
        "etag": request.etag,
    });
    action(actor, "ResolveReport", &request.account_id, details)
        .logged_as("a usage report was decided")
}

pub(super) fn acknowledge(actor: Actor, request: &v1::AcknowledgeDifferenceRequest) -> Action {
    let details = json!({
        "account_id": request.account_id,
        "difference_id": request.difference_id,
        "reason": request.reason,
        "requested_by": request.requested_by,
    });
    action(actor, "AcknowledgeDifference", &request.account_id, details)
        .logged_as("a difference with invoices was acknowledged")
}

pub(super) fn force_report(actor: Actor, request: &v1::ForceReportRequest) -> Action {
    let only = match &request.account_ids[..] {
        [only] => only.as_str(),
        _ => "",
    };
    let named: Vec<&String> = request
        .account_ids
        .iter()
        .take(MAX_NAMED_ACCOUNTS)
        .collect();
    let details = json!({
        "account_count": request.account_ids.len(),
        "account_ids": named,
        "all": request.all,
        "dry_run": request.dry_run,
        "run_id": request.run_id,
        "reason": request.reason,
        "idempotency_key": request.idempotency_key,
    });
    action(actor, "ForceReport", only, details)
}

pub(super) fn delete_account(actor: Actor, request: &v1::DeleteAccountRequest) -> Action {
    let details = json!({ "account_id": request.account_id, "requested_by": request.requested_by });
    action(actor, DELETE_ACCOUNT, &request.account_id, details)
}

pub(super) fn export_account(actor: Actor, account_id: &str) -> Action {
    let details = json!({ "account_id": account_id });
    action(actor, "ExportAccount", account_id, details)
}

pub(super) fn switch_billing(actor: Actor, request: &v1::SwitchBillingRequest) -> Action {
    let details = json!({
        "bill_from": time(request.bill_from.as_ref()),
        "requested_by": request.requested_by,
    });
    action(actor, "SwitchBilling", "", details)
        .logged_as("the moment from which on this service bills was named")
}

/// From when on this service bills.
pub(super) fn billing_start(start: BillingStart) -> Value {
    let at = match start {
        BillingStart::At(at) => Some(rfc3339(at)),
        BillingStart::Always | BillingStart::NotNamed => None,
    };
    json!({ "bill_from": at })
}

/// A time of a request; null if it is absent or not valid.
fn time(at: Option<&prost_types::Timestamp>) -> Option<String> {
    at.and_then(|at| wire::millis("time", at).ok()).map(rfc3339)
}

/// What an account is billed to.
pub(super) fn account(account: &Account) -> Value {
    let link = &account.link;
    json!({
        "customer": link.billing.customer(),
        "subscription": link.billing.subscription(),
        "valid_from": rfc3339(link.valid_from),
        "etag": account.etag(),
    })
}

pub(super) fn report(report: &Report) -> Value {
    json!({
        "report_id": report.id.to_string(),
        "meter": report.meter,
        "quantity": report.quantity,
        "state": report.state.name(),
        "customer": report.customer,
        "identifier": identifier(report.id, report.generation),
    })
}

pub(super) fn change(change: &SubscriptionChange) -> Value {
    json!({
        "change_id": change.id.to_string(),
        "subscription": change.subscription,
        "step": change.step.name(),
        "boundary": rfc3339(change.boundary_at),
        "finished_at": change.finished_at.map(rfc3339),
    })
}

/// A subscription as Stripe showed it.
pub(super) fn subscription(of: &SubscriptionState) -> Value {
    json!({
        "subscription": of.subscription,
        "status": of.status.name(),
        "prices": of.prices,
        "cancel_at": of.cancel_at.map(rfc3339),
    })
}

/// What a change of a subscription did.
pub(super) fn changed_subscription(done: &ChangeDone) -> Changed {
    let after = done.after.as_ref().map(subscription);
    let after = match (&done.change, after) {
        (None, after) => after,
        (Some(done), after) => Some(json!({ "change": change(done), "subscription": after })),
    };
    Changed {
        before: done.before.as_ref().map(subscription),
        after,
        failed_after: None,
    }
}

pub(super) fn create_key(actor: Actor, request: &v1::CreateKeyRequest) -> Action {
    let scope = request.scope.as_ref().map(|scope| {
        json!({
            "accounts": scope.accounts,
            "account_prefixes": scope.account_prefixes,
            "meters": scope.meters,
        })
    });
    let details = json!({
        "name": request.name,
        "role": request.role().as_str_name(),
        "scope": scope,
        "expires_at": time(request.expires_at.as_ref()),
    });
    action(actor, "CreateKey", "", details)
}

pub(super) fn revoke_key(actor: Actor, request: &v1::RevokeKeyRequest) -> Action {
    action(actor, "RevokeKey", "", json!({ "id": request.id }))
}

pub(super) fn list_keys(actor: Actor) -> Action {
    action(actor, "ListKeys", "", json!({}))
}

pub(super) fn list_audit_entries(actor: Actor, request: &v1::ListAuditEntriesRequest) -> Action {
    let details = json!({ "key_id": request.key_id, "account_id": request.account_id });
    action(actor, "ListAuditEntries", &request.account_id, details)
}

pub(super) fn difference(of: &PeriodComparison) -> Value {
    json!({
        "difference_id": DifferenceId::of(of).to_string(),
        "finding": of.compared.finding.name(),
        "acknowledged_by": of.acknowledged.as_ref().map(|by| &by.by),
    })
}

pub(super) fn deletion(deletion: &Deletion) -> Value {
    let rows: serde_json::Map<String, Value> = deletion
        .rows
        .iter()
        .map(|(table, rows)| (table.clone(), json!(rows)))
        .collect();
    json!({
        "deleted_at": deletion.deleted_at.map(rfc3339),
        "was_done": deletion.was_done,
        "rows": rows,
        "stripe_customers": deletion.customers,
    })
}

pub(super) fn run(run: &Run) -> Value {
    json!({ "run_id": run.id.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::bounded_json;

    #[test]
    fn a_run_of_many_accounts_keeps_its_reason_and_key() {
        let request = v1::ForceReportRequest {
            account_ids: (0..1000).map(|one| format!("{one:0>128}")).collect(),
            reason: "r".repeat(500),
            idempotency_key: "0198c3f0-0000-7000-8000-000000000001".to_owned(),
            ..v1::ForceReportRequest::default()
        };
        let actor = Actor::command(uuid::Uuid::nil()).in_console(true);
        let action = force_report(actor, &request);
        let text = action.request.to_string();
        let kept: Value = serde_json::from_str(&bounded_json(&text)).unwrap();
        assert_eq!(kept["reason"], json!(request.reason));
        assert_eq!(kept["idempotency_key"], json!(request.idempotency_key));
        assert_eq!(kept["account_count"], json!(1000));
        let named = request.account_ids.get(..MAX_NAMED_ACCOUNTS);
        assert_eq!(kept["account_ids"], json!(named));
    }
}
