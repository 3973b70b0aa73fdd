//! What admins do with usage: corrections, decisions, acknowledgements and runs. Each is recorded in the audit table.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use usage_proto::v1;
use uuid::Uuid;

use super::{
    actor::{actor, caller},
    audit_json,
    auditor::Changed,
    counting::check_usage,
    report_stream::{ReportStream, scope},
    to_its_end,
    usage_service::UsageRpc,
    wire, wire_reconciliation,
};
use crate::{
    domain::{
        access::Caller,
        account_id::AccountId,
        audit::Actor,
        correction::{Correction, check_reason, check_requested_by},
        invoice_comparison::PeriodComparison,
        report::Report,
        run::{Run, Scope as RunScope},
    },
    error::{Error, Result},
    store::decisions::{NewDecision, Resolved},
};

impl UsageRpc {
    pub(super) async fn correct_usage(
        &self,
        request: Request<v1::CorrectRequest>,
    ) -> std::result::Result<Response<v1::CorrectResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::correct(actor.clone(), &request);
        let (slots, now) = (self.slots, self.clock.now());
        let checked = || {
            check_usage(&self.meters, &caller, &request.account_id, &request.meter)?;
            let raw = wire::raw_correction(request)?;
            Ok(Correction::parse(raw, &self.meters, now)?)
        };
        let mut correction = self.auditor.checked(&action, checked()).await?;
        correction.requested_by = actor.requester(&correction.requested_by);
        let (store, auditor) = (self.store.clone(), self.auditor.clone());
        let entered = Box::pin(async move { store.correct(&correction, slots, now).await });
        // A correction is a new report. One that was entered before stays as it was.
        let changed = |(report, duplicate): &(Report, bool)| Changed {
            before: duplicate.then(|| audit_json::report(report)),
            after: (!duplicate).then(|| audit_json::report(report)),
            failed_after: None,
        };
        let (report, duplicate) = to_its_end(auditor.record(action, entered, changed)).await?;
        self.reporter.send_now();
        Ok(Response::new(v1::CorrectResponse {
            report: self.with_decisions(vec![report]).await?.pop(),
            duplicate,
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
        let (store, auditor, now) = (self.store.clone(), self.auditor.clone(), self.clock.now());
        let resolved = Box::pin(async move { store.resolve(&decision, now).await });
        let changed = |resolved: &Resolved| Changed {
            before: Some(audit_json::report(&resolved.before)),
            after: resolved.after.as_ref().map(audit_json::report),
            failed_after: None,
        };
        let resolved = to_its_end(auditor.record(action, resolved, changed)).await?;
        self.reporter.send_now();
        let duplicate = resolved.after.is_none();
        let report = resolved.after.unwrap_or(resolved.before);
        Ok(Response::new(v1::ResolveReportResponse {
            report: self.with_decisions(vec![report]).await?.pop(),
            duplicate,
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
    ) -> std::result::Result<Response<ReportStream>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::force_report(actor.clone(), &request);
        let is_preview = request.dry_run;
        let scope = allowed_scope(&caller, &request);
        let events = match self.auditor.checked(&action, scope).await? {
            None => self
                .reporter
                .watch(self.reporter.run(run_id(&request.run_id)?).await?),
            Some(scope) if is_preview => self.reporter.preview(scope),
            Some(scope) => {
                let (reporter, auditor) = (Arc::clone(&self.reporter), self.auditor.clone());
                let begun =
                    Box::pin(async move { reporter.report(actor.requester(""), scope).await });
                let changed = |run: &Run| Changed {
                    after: Some(audit_json::run(run)),
                    ..Changed::default()
                };
                let run = to_its_end(auditor.record(action, begun, changed)).await?;
                self.reporter.watch(run)
            }
        };
        let authenticator = self.authenticator.clone();
        Ok(Response::new(ReportStream::new(
            events,
            authenticator,
            caller,
        )))
    }
}

/// The scope of a run, if the caller may report it; none to watch a run.
fn allowed_scope(caller: &Caller, request: &v1::ForceReportRequest) -> Result<Option<RunScope>> {
    if request.account_ids.is_empty() {
        caller.check_everything()?;
    }
    for account in &request.account_ids {
        caller.check_account(account)?;
    }
    Ok(scope(request)?)
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
    })
}

fn run_id(text: &str) -> Result<Uuid> {
    Uuid::parse_str(text).map_err(|_| Error::RunNotFound(text.to_owned()))
}
