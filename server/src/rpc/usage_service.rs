//! `UsageService`: counting, showing and reporting usage.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};
use usage_proto::v1::{self, usage_service_server::UsageService};
use uuid::Uuid;

use super::{
    page_token,
    report_stream::{ReportStream, scope},
    to_its_end, wire, wire_reconciliation,
};
use crate::{
    clock::Clock,
    domain::{
        account_id::AccountId,
        correction::{Correction, check_reason, check_requested_by},
        hex::hex,
        increment::{Batch, BatchKey, Increment, MAX_BATCH, Outcome, check_key},
        meter::Meters,
        report::Report,
        violation::{Violation, quoted},
        window::Slots,
    },
    error::{Error, Result},
    ingest::WriteBatcher,
    reconciliation::Reconciler,
    store::{Store, decisions::NewDecision, report_list::ReportFilter, report_place::ReportPlace},
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
}

impl UsageRpc {
    fn parse(
        &self,
        request: v1::IncrementRequest,
    ) -> std::result::Result<Increment, Vec<Violation>> {
        let raw = wire::raw_increment(request).map_err(|violation| vec![violation])?;
        Increment::parse(raw, &self.meters, self.clock.now())
    }

    fn parse_batch(&self, request: v1::IncrementBatchRequest) -> Result<Batch> {
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
        let items = request
            .increments
            .into_iter()
            .map(|item| self.parse(item).map_err(first))
            .collect();
        Ok(Batch { key, items })
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
        let increment = self.parse(request.into_inner()).map_err(Error::from)?;
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
        let request = request.into_inner();
        let is_dry_run = request.dry_run;
        let batch = self.parse_batch(request)?;
        let (duplicate, outcomes) = if is_dry_run {
            (false, self.store.dry_run(batch).await?)
        } else {
            self.batcher.count_batch(batch).await?
        };
        let results = outcomes.into_iter().map(increment_result).collect();
        Ok(Response::new(v1::IncrementBatchResponse {
            results,
            duplicate,
        }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> std::result::Result<Response<v1::GetResponse>, Status> {
        let request = request.into_inner();
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
        let address = address(&request);
        let raw = wire::raw_correction(request.into_inner(), address).map_err(Error::from)?;
        let now = self.clock.now();
        let correction = Correction::parse(raw, &self.meters, now).map_err(Error::from)?;
        let (store, slots) = (self.store.clone(), self.slots);
        let entered = async move { store.correct(&correction, slots, now).await };
        let (report, duplicate) = to_its_end(entered).await?;
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
        let address = address(&request);
        let new = new_decision(request.into_inner(), address)?;
        let (store, now) = (self.store.clone(), self.clock.now());
        let resolved = async move { store.resolve(&new, now).await };
        let (report, duplicate) = to_its_end(resolved).await?;
        self.reporter.send_now();
        Ok(Response::new(v1::ResolveReportResponse {
            report: self.with_decisions(vec![report]).await?.pop(),
            duplicate,
        }))
    }

    async fn acknowledge_difference(
        &self,
        request: Request<v1::AcknowledgeDifferenceRequest>,
    ) -> std::result::Result<Response<v1::AcknowledgeDifferenceResponse>, Status> {
        let address = address(&request);
        let new = wire_reconciliation::new_acknowledgement(request.into_inner(), address)?;
        let (store, now) = (self.store.clone(), self.clock.now());
        let acknowledged = async move { store.acknowledge(&new, now).await };
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
        let requested_by = address(&request);
        let request = request.into_inner();
        let events = match scope(&request).map_err(Error::from)? {
            None => self
                .reporter
                .watch(self.reporter.run(run_id(&request.run_id)?).await?),
            Some(scope) if request.dry_run => self.reporter.preview(scope),
            Some(scope) => self
                .reporter
                .watch(self.reporter.report(requested_by, scope).await?),
        };
        Ok(Response::new(ReportStream::new(events)))
    }
}

/// The caller's network address.
fn address<T>(request: &Request<T>) -> String {
    request
        .remote_addr()
        .map(|addr| addr.to_string())
        .unwrap_or_default()
}

fn new_decision(request: v1::ResolveReportRequest, address: String) -> Result<NewDecision> {
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
        requested_by: wire::requester(request.requested_by, address),
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
