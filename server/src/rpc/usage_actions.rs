//! What admins do with usage: corrections, decisions, acknowledgements and runs. Each is recorded in the audit table.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use usage_proto::v1;
use uuid::Uuid;

use super::{
    actor::{actor, caller},
    audit_json,
    auditor::Changed,
    caller_stream::CallerStream,
    counting::check_usage,
    report_stream::{ForceReportStream, response, scope},
    to_its_end,
    usage_service::UsageRpc,
    wire, wire_reconciliation,
};
use crate::{
    domain::{
        access::Caller,
        account_id::AccountId,
        audit::Actor,
        correction::{Correction, check_optional_reason, check_reason, check_requested_by},
        invoice_comparison::PeriodComparison,
        run::{Run, Scope as RunScope},
        violation::{Violation, quoted},
    },
    error::{Error, Result},
    store::{
        corrections::Entered,
        decisions::{NewDecision, Resolved},
    },
    workers::reporter::ForcedRun,
};

impl UsageRpc {
    pub(super) async fn correct_usage(
        &self,
        request: Request<v1::CorrectRequest>,
    ) -> std::result::Result<Response<v1::CorrectResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::correct(actor.clone(), &request);
        let (slots, now, is_dry_run) = (self.slots, self.clock.now(), request.dry_run);
        let checked = || {
            check_usage(&self.meters, &caller, &request.account_id, &request.meter)?;
            let raw = wire::raw_correction(request)?;
            Ok(Correction::parse(raw, &self.meters, now)?)
        };
        let mut correction = self.auditor.checked(&action, checked()).await?;
        correction.requested_by = actor.requester(&correction.requested_by);
        let (store, auditor) = (self.store.clone(), self.auditor.clone());
        let quantity = correction.quantity;
        let entered =
            Box::pin(async move { store.correct(&correction, slots, now, is_dry_run).await });
        // A correction is a new report. One that was entered before stays as it was.
        let changed = |entered: &Entered| {
            let report = audit_json::report(&entered.report);
            let (before, after) = if entered.is_duplicate {
                (Some(report), None)
            } else {
                (None, Some(report))
            };
            Changed {
                before,
                after,
                failed_after: None,
            }
        };
        let entered = if is_dry_run {
            to_its_end(entered).await?
        } else {
            let entered = to_its_end(auditor.record(action, entered, changed)).await?;
            self.reporter.send_now();
            entered
        };
        let totals = entered.totals.into_iter();
        let totals = totals.map(|(period, before)| wire::corrected_total(period, before, quantity));
        Ok(Response::new(v1::CorrectResponse {
            report: self.with_decisions(vec![entered.report]).await?.pop(),
            duplicate: entered.is_duplicate,
            totals: totals.collect(),
        }))
    }

    pub(super) async fn resolve(
        &self,
        request: Request<v1::ResolveReportRequest>,
    ) -> std::result::Result<Response<v1::ResolveReportResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::resolve(actor.clone(), &request);
        let checked = || {
            caller.check_account(&request.account_id)?;
            new_decision(request, &actor)
        };
        let decision = self.auditor.checked(&action, checked()).await?;
        let is_dry_run = decision.is_dry_run;
        let (store, auditor, now) = (self.store.clone(), self.auditor.clone(), self.clock.now());
        let resolved = Box::pin(async move { store.resolve(&decision, now).await });
        let changed = |resolved: &Resolved| Changed {
            before: Some(audit_json::report(&resolved.before)),
            after: resolved.after.as_ref().map(audit_json::report),
            failed_after: None,
        };
        let resolved = if is_dry_run {
            to_its_end(resolved).await?
        } else {
            let resolved = to_its_end(auditor.record(action, resolved, changed)).await?;
            self.reporter.send_now();
            resolved
        };
        let duplicate = resolved.after.is_none();
        let report = resolved.after.unwrap_or(resolved.before);
        Ok(Response::new(v1::ResolveReportResponse {
            report: self.with_decisions(vec![report]).await?.pop(),
            duplicate,
            etag: resolved.etag,
        }))
    }

    pub(super) async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeDifferenceRequest>,
    ) -> std::result::Result<Response<v1::AcknowledgeDifferenceResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::acknowledge(actor.clone(), &request);
        let checked = || {
            caller.check_account(&request.account_id)?;
            wire_reconciliation::new_acknowledgement(request, &actor)
        };
        let new = self.auditor.checked(&action, checked()).await?;
        let (store, auditor, now) = (self.store.clone(), self.auditor.clone(), self.clock.now());
        let acknowledged = Box::pin(async move { store.acknowledge(&new, now).await });
        let changed = |(difference, duplicate): &(PeriodComparison, bool)| {
            let after = audit_json::difference(difference);
            if *duplicate {
                return Changed {
                    before: Some(after),
                    ..Changed::default()
                };
            }
            // Its transaction changed nothing but this, of a row that it had locked.
            let unacknowledged = PeriodComparison {
                acknowledged: None,
                ..difference.clone()
            };
            Changed {
                before: Some(audit_json::difference(&unacknowledged)),
                after: Some(after),
                failed_after: None,
            }
        };
        let acknowledged = auditor.record(action, acknowledged, changed);
        let (difference, duplicate) = to_its_end(acknowledged).await?;
        Ok(Response::new(v1::AcknowledgeDifferenceResponse {
            difference: Some(wire_reconciliation::comparison(difference)),
            duplicate,
        }))
    }

    pub(super) async fn begin_run(
        &self,
        request: Request<v1::ForceReportRequest>,
    ) -> std::result::Result<Response<ForceReportStream>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::force_report(actor.clone(), &request);
        let is_preview = request.dry_run;
        let asked = allowed_scope(&caller, &request);
        let events = match self.auditor.checked(&action, asked).await? {
            None => {
                let run = self.watched_run(&caller, &request.run_id).await;
                self.reporter
                    .watch(self.auditor.checked(&action, run).await?, None)
            }
            Some(scope) if is_preview => self.reporter.preview(scope),
            Some(scope) => {
                let (reporter, auditor) = (Arc::clone(&self.reporter), self.auditor.clone());
                let id = self.auditor.checked(&action, new_run_id(&request)).await?;
                let begun = Box::pin(async move {
                    let requester = actor.requester("");
                    reporter.report(requester, scope, id).await
                });
                // A run that was begun before goes on as it was.
                let changed = |begun: &ForcedRun| Changed {
                    before: (!begun.is_new).then(|| audit_json::run(&begun.run)),
                    after: begun.is_new.then(|| audit_json::run(&begun.run)),
                    failed_after: begun
                        .not_retried
                        .as_ref()
                        .map(|error| format!("reports that wait for a retry still wait: {error}")),
                };
                let begun = to_its_end(auditor.record(action, begun, changed)).await?;
                let not_retried = begun.not_retried.map(|error| error.to_string());
                self.reporter.watch(begun.run, not_retried)
            }
        };
        let authenticator = self.authenticator.clone();
        Ok(Response::new(CallerStream::new(
            events,
            response,
            authenticator,
            caller,
        )))
    }

    /// A run that a caller may watch: one of accounts that it may report. A caller that is limited gets the same answer
    /// whether another one exists or not.
    async fn watched_run(&self, caller: &Caller, id: &str) -> Result<Run> {
        let run = match run_id(id) {
            Ok(id) => self.reporter.find_run(id).await?,
            Err(_) => None,
        };
        if let Err(denied) = caller.check_everything() {
            let is_allowed = |account: &AccountId| caller.check_account(account.as_str()).is_ok();
            let is_own = |run: &Run| match &run.scope {
                RunScope::Accounts(accounts) => {
                    !accounts.is_empty() && accounts.iter().all(is_allowed)
                }
                RunScope::All => false,
            };
            return run.filter(is_own).ok_or_else(|| denied.into());
        }
        run.ok_or_else(|| Error::RunNotFound(id.to_owned()))
    }
}

/// The scope of a run, if the caller may report it; none to watch a run.
fn allowed_scope(caller: &Caller, request: &v1::ForceReportRequest) -> Result<Option<RunScope>> {
    // Of a run that is watched, its accounts are checked.
    if request.account_ids.is_empty() && request.run_id.is_empty() {
        caller.check_everything()?;
    }
    for account in &request.account_ids {
        caller.check_account(account)?;
    }
    check_optional_reason(&request.reason)?;
    Ok(scope(request)?)
}

/// The id that a run gets, if its caller chose one.
fn new_run_id(request: &v1::ForceReportRequest) -> Result<Option<Uuid>> {
    let key = &request.idempotency_key;
    if key.is_empty() {
        return Ok(None);
    }
    let id = Uuid::parse_str(key).ok().filter(|id| !id.is_nil());
    let wrong = || {
        let message = format!("idempotency_key is {}; it must be a UUID", quoted(key));
        Violation::invalid("idempotency_key", message)
    };
    Ok(Some(id.ok_or_else(wrong)?))
}

fn new_decision(request: v1::ResolveReportRequest, actor: &Actor) -> Result<NewDecision> {
    let account_id = AccountId::parse(&request.account_id)?;
    let report_id = Uuid::parse_str(&request.report_id)
        .map_err(|_| Error::ReportNotFound(request.report_id.clone()))?;
    let action = wire::action(request.action)?;
    check_reason(&request.reason)?;
    check_requested_by(&request.requested_by)?;
    Ok(NewDecision {
        account_id,
        report_id,
        action,
        reason: request.reason,
        requested_by: actor.requester(&request.requested_by),
        etag: (!request.etag.is_empty()).then_some(request.etag),
        is_dry_run: request.dry_run,
    })
}

fn run_id(text: &str) -> Result<Uuid> {
    Uuid::parse_str(text).map_err(|_| Error::RunNotFound(text.to_owned()))
}
