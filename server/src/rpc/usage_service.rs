//! `UsageService`: counting, showing and reporting usage.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};
use usage_proto::v1::{self, usage_service_server::UsageService};
use uuid::Uuid;

use super::{
    actor::{actor, caller},
    audit_json,
    auditor::{Auditor, Changed},
    page_token,
    report_stream::{ReportStream, scope},
    to_its_end, wire, wire_reconciliation,
};
use crate::{
    clock::Clock,
    domain::{
        access::{Caller, Denial},
        account_id::AccountId,
        audit::Actor,
        correction::{Correction, check_reason, check_requested_by},
        hex::hex,
        increment::{Batch, BatchKey, Increment, MAX_BATCH, Outcome, check_key},
        invoice_comparison::PeriodComparison,
        meter::Meters,
        report::Report,
        run::{Run, Scope as RunScope},
        violation::{Violation, quoted},
        window::Slots,
    },
    error::{Error, Result},
    ingest::WriteBatcher,
    reconciliation::Reconciler,
    store::{
        Store,
        decisions::{NewDecision, Resolved},
        report_list::ReportFilter,
        report_place::ReportPlace,
    },
    usage_query,
    workers::reporter::Reporter,
};

/// Serves `usage.v1.UsageService`.
#[derive(Debug)]
pub(crate) struct UsageRpc {
    pub(crate) store: Store,
    pub(crate) batcher: Arc<WriteBatcher>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) slots: Slots,
    pub(crate) clock: Clock,
    pub(crate) auditor: Auditor,
}

impl UsageRpc {
    fn parse(
        &self,
        request: v1::IncrementRequest,
    ) -> std::result::Result<Increment, Vec<Violation>> {
        let raw = wire::raw_increment(request).map_err(|violation| vec![violation])?;
        Increment::parse(raw, &self.meters, self.clock.now())
    }

    /// The denial of each item, in the caller's order; none for a caller without limits.
    fn denials(&self, caller: &Caller, items: &[v1::IncrementRequest]) -> Vec<Option<Violation>> {
        if caller.scope.is_unlimited() {
            return Vec::new();
        }
        let denial = |item: &v1::IncrementRequest| {
            let checked = check_usage(&self.meters, caller, &item.account_id, &item.meter);
            checked.err().map(Denial::violation)
        };
        items.iter().map(denial).collect()
    }

    fn parse_batch(
        &self,
        request: v1::IncrementBatchRequest,
        denials: &[Option<Violation>],
    ) -> Result<Batch> {
        let count = request.increments.len();
        if !(1..=MAX_BATCH).contains(&count) {
            return Err(Violation::invalid(
                "increments",
                format!("increments has {count} items; give 1 to {MAX_BATCH}"),
            )
            .into());
        }
        check_key(&request.idempotency_key)?;
        let key = (!request.idempotency_key.is_empty()).then(|| BatchKey {
            key: request.idempotency_key.as_str().into(),
            fingerprint: fingerprint(&request.increments),
        });
        let first = |mut violations: Vec<Violation>| {
            if violations.is_empty() {
                Violation::invalid("increments", "not valid")
            } else {
                violations.swap_remove(0)
            }
        };
        let items = request.increments.into_iter().enumerate();
        let items = items.map(|(nth, item)| match denials.get(nth) {
            Some(Some(denial)) => Err(denial.clone()),
            _ => self.parse(item).map_err(first),
        });
        Ok(Batch {
            key,
            items: items.collect(),
        })
    }

    async fn with_decisions(&self, reports: Vec<Report>) -> Result<Vec<v1::UsageReport>> {
        let mut decisions = self.store.decisions_on(&reports).await?;
        Ok(reports
            .into_iter()
            .map(|report| {
                let own = decisions.remove(&report.id).unwrap_or_default();
                wire::decided_report(report, own)
            })
            .collect())
    }
}

/// A digest of a batch's contents that does not depend on the wire encoding.
fn fingerprint(increments: &[v1::IncrementRequest]) -> String {
    let mut digest = Sha256::new();
    let number = |digest: &mut Sha256, number: Option<i64>| {
        digest.update([u8::from(number.is_some())]);
        digest.update(number.unwrap_or_default().to_be_bytes());
    };
    // Each text is prefixed with its length, so that different batches have different inputs.
    let text = |digest: &mut Sha256, text: &str| {
        digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(text);
    };
    for item in increments {
        text(&mut digest, &item.account_id);
        text(&mut digest, &item.meter);
        text(&mut digest, &item.idempotency_key);
        number(&mut digest, item.quantity);
        number(&mut digest, item.timestamp.as_ref().map(|at| at.seconds));
        number(
            &mut digest,
            item.timestamp
                .as_ref()
                .map(|at| i64::from(at.nanos / 1_000_000)),
        );
        let mut dimensions: Vec<_> = item.dimensions.iter().collect();
        dimensions.sort();
        number(&mut digest, i64::try_from(dimensions.len()).ok());
        for (name, value) in dimensions {
            text(&mut digest, name);
            text(&mut digest, value);
        }
    }
    hex(&digest.finalize())
}

fn increment_result(outcome: Outcome) -> v1::IncrementResult {
    let (outcome, error) = match outcome {
        Outcome::Counted => (v1::IncrementOutcome::Counted, None),
        Outcome::Duplicate => (v1::IncrementOutcome::Duplicate, None),
        Outcome::Refused(violation) => (
            v1::IncrementOutcome::Refused,
            Some(v1::IncrementError {
                reason: wire::reason(violation.reason).into(),
                field: violation.field,
                message: violation.message,
            }),
        ),
    };
    v1::IncrementResult {
        outcome: outcome.into(),
        error,
    }
}

#[tonic::async_trait]
impl UsageService for UsageRpc {
    async fn increment(
        &self,
        request: Request<v1::IncrementRequest>,
    ) -> std::result::Result<Response<v1::IncrementResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        check_usage(&self.meters, &caller, &request.account_id, &request.meter)
            .map_err(Error::from)?;
        let increment = self.parse(request).map_err(Error::from)?;
        match self.batcher.count(increment).await? {
            Outcome::Counted => Ok(Response::new(v1::IncrementResponse { duplicate: false })),
            Outcome::Duplicate => Ok(Response::new(v1::IncrementResponse { duplicate: true })),
            Outcome::Refused(violation) => Err(Error::from(violation).into()),
        }
    }

    async fn increment_batch(
        &self,
        request: Request<v1::IncrementBatchRequest>,
    ) -> std::result::Result<Response<v1::IncrementBatchResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let is_dry_run = request.dry_run;
        let denials = self.denials(&caller, &request.increments);
        let batch = self.parse_batch(request, &denials)?;
        let (duplicate, mut outcomes) = if is_dry_run {
            (false, self.store.dry_run(batch).await?)
        } else {
            self.batcher.count_batch(batch).await?
        };
        // The results of a repeated batch are those of the caller who sent it first.
        for (outcome, denial) in outcomes.iter_mut().zip(denials) {
            if let Some(denial) = denial {
                *outcome = Outcome::Refused(denial);
            }
        }
        let results = outcomes.into_iter().map(increment_result).collect();
        Ok(Response::new(v1::IncrementBatchResponse {
            results,
            duplicate,
        }))
    }

    async fn list_meters(
        &self,
        request: Request<v1::ListMetersRequest>,
    ) -> std::result::Result<Response<v1::ListMetersResponse>, Status> {
        let caller = caller(&request)?;
        let meters = self.meters.all().iter();
        let meters = meters.filter(|meter| caller.sees_meter(&meter.name));
        let meters = meters.map(|meter| v1::Meter {
            name: meter.name.to_string(),
            unit: meter.unit.to_string(),
            stripe_event_name: meter.event_name.to_string(),
            is_default: self.meters.is_default(meter),
        });
        Ok(Response::new(v1::ListMetersResponse {
            meters: meters.collect(),
        }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> std::result::Result<Response<v1::GetResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        if request.meter.is_empty() {
            caller.check_account(&request.account_id)
        } else {
            caller.check_usage(&request.account_id, &request.meter)
        }
        .map_err(Error::from)?;
        let (granularity, wire_granularity) =
            wire::granularity(request.granularity).map_err(Error::from)?;
        let period = request
            .period
            .as_ref()
            .map(|period| wire::interval("period", period))
            .transpose()
            .map_err(Error::from)?;
        let query = usage_query::UsageQuery {
            account_id: request.account_id,
            meter: request.meter,
            period,
            granularity,
            zone: request.time_zone,
            round_outward: request.round_outward,
        };
        let summary = usage_query::query(
            &self.store,
            &self.meters,
            self.slots,
            query,
            self.clock.now(),
        )
        .await?;
        Ok(Response::new(v1::GetResponse {
            account_id: summary.account_id,
            period: Some(wire::period(summary.period)),
            granularity: wire_granularity.into(),
            time_zone: summary.zone.name().to_owned(),
            as_of: Some(wire::timestamp(summary.as_of)),
            meters: summary.meters.into_iter().map(meter_usage).collect(),
        }))
    }

    async fn list_reports(
        &self,
        request: Request<v1::ListReportsRequest>,
    ) -> std::result::Result<Response<v1::ListReportsResponse>, Status> {
        let caller = caller(&request)?;
        check_filter(&caller, &request.get_ref().account_id)?;
        let request = request.into_inner();
        let limit = page_token::page_size(request.page_size).map_err(Error::from)?;
        let filter = report_filter(&request)?;
        let name = format!("reports {filter:?}");
        let after: Option<ReportPlace> = page_token::decode(&name, &request.page_token)
            .map_err(Error::from)?
            .and_then(|position| position.parse().ok());
        let mut reports = self
            .store
            .list_reports(&filter, after.as_ref(), limit.saturating_add(1))
            .await?;
        let has_more = u64::try_from(reports.len()).is_ok_and(|len| len > limit);
        if has_more {
            reports.pop();
        }
        let next_page_token = match reports.last() {
            Some(last) if has_more => page_token::encode(&name, &last.place.to_string()),
            _ => String::new(),
        };
        let reports = reports.into_iter().map(|one| one.report).collect();
        let reports = self.with_decisions(reports).await?;
        let archives = match (&filter.account_id, filter.folded_states()) {
            (Some(account), Some(states)) if !has_more => {
                self.store.archives_of(account, &states).await?
            }
            _ => Vec::new(),
        };
        Ok(Response::new(v1::ListReportsResponse {
            reports,
            next_page_token,
            archives: archives.into_iter().map(wire::archive).collect(),
        }))
    }

    async fn correct(
        &self,
        request: Request<v1::CorrectRequest>,
    ) -> std::result::Result<Response<v1::CorrectResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::correct(actor.clone(), &request);
        let (store, meters, auditor) = (
            self.store.clone(),
            Arc::clone(&self.meters),
            self.auditor.clone(),
        );
        let (slots, now) = (self.slots, self.clock.now());
        let entered = Box::pin(async move {
            check_usage(&meters, &caller, &request.account_id, &request.meter)?;
            let mut correction = Correction::parse(wire::raw_correction(request)?, &meters, now)?;
            correction.requested_by = actor.requester(&correction.requested_by);
            store.correct(&correction, slots, now).await
        });
        let changed = |(report, duplicate): &(Report, bool)| Changed {
            before: None,
            after: (!duplicate).then(|| audit_json::report(report)),
        };
        let (report, duplicate) = to_its_end(auditor.record(action, entered, changed)).await?;
        self.reporter.send_now();
        Ok(Response::new(v1::CorrectResponse {
            report: self.with_decisions(vec![report]).await?.pop(),
            duplicate,
        }))
    }

    async fn resolve_report(
        &self,
        request: Request<v1::ResolveReportRequest>,
    ) -> std::result::Result<Response<v1::ResolveReportResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::resolve(actor.clone(), &request);
        let (store, auditor, now) = (self.store.clone(), self.auditor.clone(), self.clock.now());
        let resolved = Box::pin(async move {
            caller.check_account(&request.account_id)?;
            store.resolve(&new_decision(request, &actor)?, now).await
        });
        let changed = |resolved: &Resolved| Changed {
            before: Some(audit_json::report(&resolved.before)),
            after: resolved.after.as_ref().map(audit_json::report),
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

    async fn acknowledge_difference(
        &self,
        request: Request<v1::AcknowledgeDifferenceRequest>,
    ) -> std::result::Result<Response<v1::AcknowledgeDifferenceResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::acknowledge(actor.clone(), &request);
        let (store, auditor, now) = (self.store.clone(), self.auditor.clone(), self.clock.now());
        let acknowledged = Box::pin(async move {
            caller.check_account(&request.account_id)?;
            let new = wire_reconciliation::new_acknowledgement(request, &actor)?;
            store.acknowledge(&new, now).await
        });
        let changed = |(difference, duplicate): &(PeriodComparison, bool)| Changed {
            before: None,
            after: (!duplicate).then(|| audit_json::difference(difference)),
        };
        let acknowledged = auditor.record(action, acknowledged, changed);
        let (difference, duplicate) = to_its_end(acknowledged).await?;
        Ok(Response::new(v1::AcknowledgeDifferenceResponse {
            difference: Some(wire_reconciliation::comparison(difference)),
            duplicate,
        }))
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> std::result::Result<Response<v1::ReconcileResponse>, Status> {
        let caller = caller(&request)?;
        check_filter(&caller, &request.get_ref().account_id)?;
        let request = request.into_inner();
        let query = wire_reconciliation::query(&request)?;
        let limit = wire_reconciliation::page_size(request.page_size).map_err(Error::from)?;
        let name = format!("reconcile {query:?}");
        let after = page_token::decode(&name, &request.page_token)
            .map_err(Error::from)?
            .unwrap_or_default();
        let (rows, next) = self
            .reconciler
            .page(&query, &after, limit, self.clock.now())
            .await?;
        Ok(Response::new(v1::ReconcileResponse {
            rows: rows.into_iter().map(wire_reconciliation::row).collect(),
            next_page_token: next
                .map(|last| page_token::encode(&name, &last))
                .unwrap_or_default(),
        }))
    }

    type ForceReportStream = ReportStream;

    async fn force_report(
        &self,
        request: Request<v1::ForceReportRequest>,
    ) -> std::result::Result<Response<Self::ForceReportStream>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::force_report(actor.clone(), &request);
        let is_preview = request.dry_run;
        let scope = allowed_scope(&caller, &request);
        let events = match scope {
            Ok(None) => self
                .reporter
                .watch(self.reporter.run(run_id(&request.run_id)?).await?),
            Ok(Some(scope)) if is_preview => self.reporter.preview(scope),
            scope => {
                let (reporter, auditor) = (Arc::clone(&self.reporter), self.auditor.clone());
                let begun = Box::pin(async move {
                    let scope = scope?.ok_or_else(|| Error::Internal("no scope".into()))?;
                    reporter.report(actor.requester(""), scope).await
                });
                let changed = |run: &Run| Changed {
                    before: None,
                    after: Some(audit_json::run(run)),
                };
                let run = to_its_end(auditor.record(action, begun, changed)).await?;
                self.reporter.watch(run)
            }
        };
        Ok(Response::new(ReportStream::new(events)))
    }
}

/// Whether a caller may count or correct what a request is about. An empty meter is the default one.
fn check_usage(
    meters: &Meters,
    caller: &Caller,
    account: &str,
    meter: &str,
) -> std::result::Result<(), Denial> {
    if caller.scope.is_unlimited() {
        return Ok(());
    }
    // An invalid meter is denied, too, before it is told which ones there are.
    let resolved = meters.resolve(meter);
    let meter = resolved.as_ref().map_or(meter, |known| &known.name);
    caller.check_usage(account, meter)
}

/// Whether a caller may list what is about an account; an empty one means all.
fn check_filter(caller: &Caller, account: &str) -> Result<()> {
    Ok(if account.is_empty() {
        caller.check_everything()
    } else {
        caller.check_account(account)
    }?)
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

fn report_filter(request: &v1::ListReportsRequest) -> Result<ReportFilter> {
    let account_id = (!request.account_id.is_empty())
        .then(|| AccountId::parse(&request.account_id))
        .transpose()?;
    let run_id = (!request.run_id.is_empty())
        .then(|| Uuid::parse_str(&request.run_id))
        .transpose()
        .map_err(|_| {
            let given = quoted(&request.run_id);
            Violation::invalid("run_id", format!("run_id {given} is not a UUID"))
        })?;
    let mut states = request
        .states
        .iter()
        .map(|state| wire::state(*state))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    states.sort_unstable();
    states.dedup();
    Ok(ReportFilter {
        account_id,
        states,
        run_id,
        kind: wire::kind(request.kind)?,
    })
}

fn meter_usage(meter: usage_query::MeterUsage) -> v1::MeterUsage {
    v1::MeterUsage {
        meter: meter.meter.to_string(),
        unit: meter.unit.to_string(),
        quantities: Some(quantities(meter.quantities)),
        points: meter
            .points
            .into_iter()
            .map(|(interval, sums)| v1::UsagePoint {
                period: Some(wire::period(interval)),
                quantities: Some(quantities(sums)),
            })
            .collect(),
    }
}

fn quantities(sums: usage_query::Quantities) -> v1::Quantities {
    v1::Quantities {
        total: sums.total(),
        reported: sums.reported(),
        not_yet_reported: sums.not_yet_reported(),
        not_billable: sums.not_billable(),
    }
}
