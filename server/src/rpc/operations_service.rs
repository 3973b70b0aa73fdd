//! `OperationsService`: how the server is, and what it did.

use std::{collections::HashMap, sync::Arc};

use tonic::{Request, Response, Status};
use usage_proto::v1::{self, operations_service_server::OperationsService};
use uuid::Uuid;

use super::{actor::caller, auditor::Auditor, page_token, sign_off::SignOffStream, wire};
use crate::{
    authentication::Authenticator,
    doctor::{Finding, RunningDoctor, Severity, ShownSetting},
    domain::{
        Millis,
        run::{Progress, Run, RunFilter, Scope, Trigger},
        violation::{Violation, quoted},
    },
    error::{Error, Result},
    shadow_comparison::ShadowComparison,
    sign_off::SignOffs,
    store::{Store, heartbeat::ABANDONED_MS, run_list},
    workers::run_summary::Summary,
};

/// Serves `usage.v1.OperationsService`.
#[derive(Debug)]
pub(crate) struct OperationsRpc {
    pub(crate) store: Store,
    pub(crate) doctor: Arc<RunningDoctor>,
    pub(crate) shadow: Arc<ShadowComparison>,
    pub(crate) sign_offs: SignOffs,
    pub(crate) authenticator: Authenticator,
    pub(crate) auditor: Auditor,
}

#[tonic::async_trait]
impl OperationsService for OperationsRpc {
    type ExportSignOffStream = SignOffStream;

    async fn doctor(
        &self,
        request: Request<v1::DoctorRequest>,
    ) -> std::result::Result<Response<v1::DoctorResponse>, Status> {
        caller(&request)?.check_everything().map_err(Error::from)?;
        let diagnosis = self.doctor.examine().await;
        let healthy = diagnosis.is_healthy();
        Ok(Response::new(v1::DoctorResponse {
            findings: diagnosis.findings.into_iter().map(finding).collect(),
            healthy,
            settings: self.doctor.settings().iter().map(setting).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn compare_shadow(
        &self,
        request: Request<v1::CompareShadowRequest>,
    ) -> std::result::Result<Response<v1::CompareShadowResponse>, Status> {
        self.compare(request).await
    }

    async fn switch_billing(
        &self,
        request: Request<v1::SwitchBillingRequest>,
    ) -> std::result::Result<Response<v1::SwitchBillingResponse>, Status> {
        self.switch(request).await
    }

    async fn get_sign_off(
        &self,
        request: Request<v1::GetSignOffRequest>,
    ) -> std::result::Result<Response<v1::GetSignOffResponse>, Status> {
        self.month(request).await
    }

    async fn export_sign_off(
        &self,
        request: Request<v1::ExportSignOffRequest>,
    ) -> std::result::Result<Response<SignOffStream>, Status> {
        self.export_month(request)
    }

    async fn list_runs(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> std::result::Result<Response<v1::ListRunsResponse>, Status> {
        caller(&request)?.check_everything().map_err(Error::from)?;
        let request = request.into_inner();
        let limit = page_token::page_size(request.page_size).map_err(Error::from)?;
        let filter = filter(&request).map_err(Error::from)?;
        let name = format!("runs {filter:?}");
        let after =
            page_token::decode_as(&name, &request.page_token, parse_place).map_err(Error::from)?;
        let now = self.store.shared_now().await?;
        let alive_since = now.saturating_sub(ABANDONED_MS);
        let mut runs = self
            .store
            .list_runs(&filter, alive_since, after, limit.saturating_add(1))
            .await?;
        let has_more = u64::try_from(runs.len()).is_ok_and(|len| len > limit);
        if has_more {
            runs.pop();
        }
        let next_page_token = match runs.last() {
            Some(last) if has_more => {
                page_token::encode(&name, &format!("{} {}", last.started_at, last.id))
            }
            _ => String::new(),
        };
        let mut results = self.results(&runs).await?;
        let runs = runs.into_iter().map(|run| {
            let own = results.remove(&run.id);
            listed(run, alive_since, own)
        });
        Ok(Response::new(v1::ListRunsResponse {
            runs: runs.collect(),
            next_page_token,
        }))
    }
}

impl OperationsRpc {
    /// What became of the reports of these runs; not of those after the number that is counted at once.
    async fn results(&self, runs: &[Run]) -> Result<HashMap<Uuid, Summary>> {
        let counted = run_list::countable(runs);
        let counts = self.store.counts_of_runs(&counted).await?;
        let of = |id: &Uuid| Summary::of(counts.get(id).map_or(&[][..], Vec::as_slice));
        Ok(counted.iter().map(|id| (*id, of(id))).collect())
    }
}

fn finding(finding: Finding) -> v1::DoctorFinding {
    let severity = match finding.severity {
        Severity::Ok => v1::DoctorSeverity::Ok,
        Severity::Warn => v1::DoctorSeverity::Warn,
        Severity::Bad => v1::DoctorSeverity::Bad,
    };
    v1::DoctorFinding {
        check: finding.check.to_owned(),
        severity: severity.into(),
        fact: finding.fact,
        advice: finding.advice.unwrap_or_default(),
    }
}

fn setting(setting: &ShownSetting) -> v1::ServerSetting {
    v1::ServerSetting {
        name: setting.name.to_owned(),
        value: setting.value.clone(),
    }
}

fn filter(request: &v1::ListRunsRequest) -> Result<RunFilter, Violation> {
    let millis = |field: &str, at: &Option<_>| {
        let at = at.as_ref().map(|at| wire::millis(field, at));
        at.transpose()
    };
    let states = request.states.iter().map(|state| progress(*state));
    let mut states = states.collect::<Result<Vec<Progress>, Violation>>()?;
    states.sort_unstable();
    states.dedup();
    Ok(RunFilter {
        from: millis("from", &request.from)?,
        until: millis("until", &request.until)?,
        states,
        id: run_id(&request.run_id)?,
    })
}

/// The run of a filter; none if empty.
fn run_id(text: &str) -> Result<Option<Uuid>, Violation> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = Uuid::parse_str(text).map_err(|_| {
        Violation::invalid(
            "run_id",
            format!("run_id is {}; it must be a UUID", quoted(text)),
        )
    })?;
    Ok(Some(id))
}

fn progress(number: i32) -> Result<Progress, Violation> {
    match v1::ReportRunState::try_from(number) {
        Ok(v1::ReportRunState::Closing) => Ok(Progress::Closing),
        Ok(v1::ReportRunState::Stalled) => Ok(Progress::Stalled),
        Ok(v1::ReportRunState::Closed) => Ok(Progress::Closed),
        Ok(v1::ReportRunState::Unspecified) | Err(_) => Err(Violation::invalid(
            "states",
            format!("states contains {number}, which is no ReportRunState"),
        )),
    }
}

/// The start and the id of a run, as in a page token.
fn parse_place(text: &str) -> Option<(Millis, Uuid)> {
    let (at, id) = text.split_once(' ')?;
    Some((at.parse().ok()?, id.parse().ok()?))
}

fn listed(run: Run, alive_since: Millis, results: Option<Summary>) -> v1::ListedRun {
    let state = match run.progress(alive_since) {
        Progress::Closing => v1::ReportRunState::Closing,
        Progress::Stalled => v1::ReportRunState::Stalled,
        Progress::Closed => v1::ReportRunState::Closed,
    };
    let trigger = match run.trigger {
        Trigger::Schedule => v1::ReportRunTrigger::Schedule,
        Trigger::Force => v1::ReportRunTrigger::Force,
        Trigger::PeriodEnd => v1::ReportRunTrigger::PeriodEnd,
    };
    let accounts = match &run.scope {
        Scope::All => 0,
        Scope::Accounts(accounts) => accounts.len(),
    };
    v1::ListedRun {
        id: run.id.to_string(),
        trigger: trigger.into(),
        requested_by: run.requested_by,
        accounts: i32::try_from(accounts).unwrap_or(i32::MAX),
        state: state.into(),
        started_at: Some(wire::timestamp(run.started_at)),
        closed_at: run.closing_finished_at.map(wire::timestamp),
        closed: Some(v1::ReportCount {
            reports: run.closed_reports,
            quantity: run.closed_quantity,
        }),
        results: results.map(run_results),
    }
}

fn run_results(summary: Summary) -> v1::RunResults {
    let count = |part| Some(wire::count(part));
    v1::RunResults {
        accepted: count(summary.accepted),
        rejected: count(summary.rejected),
        pending: count(summary.pending),
        retried_later: count(summary.retried_later),
        not_billable: count(summary.not_billable),
        no_customer: count(summary.no_customer),
    }
}
