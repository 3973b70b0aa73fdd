//! `UsageService`: counting, showing and reporting usage.

use std::sync::Arc;

use prost_types::Timestamp;
use tonic::{Request, Response, Status};
use usage_proto::v1::{self, usage_service_server::UsageService};
use uuid::Uuid;

use super::{
    actor::caller,
    auditor::Auditor,
    counting::{check_usage, increment_result},
    page_token,
    report_stream::ForceReportStream,
    wire, wire_reconciliation,
};
use crate::{
    authentication::Authenticator,
    clock::Clock,
    domain::{
        Millis,
        access::{Caller, meter_name},
        account::check_stripe_id,
        account_id::AccountId,
        caller_id::CallerId,
        increment::Outcome,
        meter::Meters,
        report::Report,
        violation::{Violation, quoted},
        window::{Interval, Slots},
    },
    error::{Error, Result},
    ingest::WriteBatcher,
    read_turns::ReadTurns,
    reconciliation::Reconciler,
    store::{Store, report_filter::ReportFilter, report_place::ReportPlace},
    usage_of_all::UsageOfAll,
    usage_query::{self, in_64_bits},
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
    pub(crate) authenticator: Authenticator,
    pub(crate) usage_of_all: UsageOfAll,
    /// The turns of `ExplainInvoice`.
    pub(crate) explanations: ReadTurns,
    /// The turns of `FindIncrement`, which also reads the usage of the lines that it finds.
    pub(crate) searches: ReadTurns,
}

impl UsageRpc {
    pub(super) async fn with_decisions(
        &self,
        reports: Vec<Report>,
    ) -> Result<Vec<v1::UsageReport>> {
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
        match self
            .batcher
            .count(CallerId::of(&caller).as_ref(), increment)
            .await?
        {
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
        let batch = self.parse_batch(&caller, request, &denials)?;
        let (duplicate, mut outcomes) = if is_dry_run {
            (false, self.store.dry_run(batch).await?)
        } else {
            self.batcher
                .count_batch(CallerId::of(&caller).as_ref(), batch)
                .await?
        };
        // The results of a repeated batch may be those of a key that was allowed more.
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
        let meters = summary.meters.into_iter().map(meter_usage);
        let meters = meters.collect::<Result<_, _>>().map_err(Error::from)?;
        Ok(Response::new(v1::GetResponse {
            account_id: summary.account_id,
            period: Some(wire::period(summary.period)),
            granularity: wire_granularity.into(),
            time_zone: summary.zone.name().to_owned(),
            as_of: Some(wire::timestamp(summary.as_of)),
            meters,
        }))
    }

    async fn list_usage(
        &self,
        request: Request<v1::ListUsageRequest>,
    ) -> std::result::Result<Response<v1::ListUsageResponse>, Status> {
        self.usage_page(request).await
    }

    async fn get_summary(
        &self,
        request: Request<v1::GetSummaryRequest>,
    ) -> std::result::Result<Response<v1::GetSummaryResponse>, Status> {
        self.summary(request).await
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
        let place = |position: &str| position.parse::<ReportPlace>().ok();
        let after =
            page_token::decode_as(&name, &request.page_token, place).map_err(Error::from)?;
        let found = self
            .store
            .list_reports(&filter, after.as_ref(), limit.saturating_add(1))
            .await?;
        let mut reports = found.reports;
        let is_full = u64::try_from(reports.len()).is_ok_and(|len| len > limit);
        if is_full {
            reports.pop();
        }
        let next = match reports.last() {
            Some(last) if is_full => Some(last.place.clone()),
            _ => found.read_to,
        };
        let has_more = next.is_some();
        let next_page_token = next.map_or_else(String::new, |next| {
            page_token::encode(&name, &next.to_string())
        });
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
            archives: archives
                .into_iter()
                .filter(|one| filter.reaches(one.windows))
                .map(wire::archive)
                .collect(),
        }))
    }

    async fn correct(
        &self,
        request: Request<v1::CorrectRequest>,
    ) -> std::result::Result<Response<v1::CorrectResponse>, Status> {
        self.correct_usage(request).await
    }

    async fn resolve_report(
        &self,
        request: Request<v1::ResolveReportRequest>,
    ) -> std::result::Result<Response<v1::ResolveReportResponse>, Status> {
        self.resolve(request).await
    }

    async fn acknowledge_difference(
        &self,
        request: Request<v1::AcknowledgeDifferenceRequest>,
    ) -> std::result::Result<Response<v1::AcknowledgeDifferenceResponse>, Status> {
        self.acknowledge(request).await
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

    async fn find_increment(
        &self,
        request: Request<v1::FindIncrementRequest>,
    ) -> std::result::Result<Response<v1::FindIncrementResponse>, Status> {
        self.find(request).await
    }

    async fn explain_invoice(
        &self,
        request: Request<v1::ExplainInvoiceRequest>,
    ) -> std::result::Result<Response<v1::ExplainInvoiceResponse>, Status> {
        self.explain(request).await
    }

    type ForceReportStream = ForceReportStream;

    async fn force_report(
        &self,
        request: Request<v1::ForceReportRequest>,
    ) -> std::result::Result<Response<Self::ForceReportStream>, Status> {
        self.begin_run(request).await
    }
}

/// Whether a caller may list what is about an account; an empty one means all.
pub(super) fn check_filter(caller: &Caller, account: &str) -> Result<()> {
    Ok(if account.is_empty() {
        caller.check_everything()
    } else {
        caller.check_account(account)
    }?)
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
    let customer = Some(request.stripe_customer.as_str()).filter(|customer| !customer.is_empty());
    if let Some(customer) = customer {
        check_stripe_id("stripe_customer", customer)?;
    }
    let meter = Some(request.meter.as_str()).filter(|meter| !meter.is_empty());
    let millis = |field: &str, at: &Option<Timestamp>| {
        let at = at.as_ref().map(|at| wire::millis(field, at));
        at.transpose()
    };
    Ok(ReportFilter {
        account_id,
        states,
        run_id,
        kind: wire::kind(request.kind)?,
        // Also one that is not counted any more.
        meter: meter.map(|meter| meter_name("meter", meter)).transpose()?,
        customer: customer.map(str::to_owned),
        from: millis("from", &request.from)?,
        until: millis("until", &request.until)?,
        decided: decided(request)?,
    })
}

/// The time of decisions that a request names.
fn decided(request: &v1::ListReportsRequest) -> Result<Option<Interval>, Violation> {
    if request.decided_from.is_none() && request.decided_until.is_none() {
        return Ok(None);
    }
    if request.account_id.is_empty() {
        let field = if request.decided_from.is_some() {
            "decided_from"
        } else {
            "decided_until"
        };
        let message = format!("{field} needs account_id: decisions are listed of one account");
        return Err(Violation::invalid(field, message));
    }
    let millis = |field: &str, at: &Option<Timestamp>, default: Millis| {
        let at = at.as_ref();
        at.map_or(Ok(default), |at| wire::millis(field, at))
    };
    Ok(Some(Interval {
        start: millis("decided_from", &request.decided_from, Millis::MIN)?,
        end: millis("decided_until", &request.decided_until, Millis::MAX)?,
    }))
}

fn meter_usage(meter: usage_query::MeterUsage) -> Result<v1::MeterUsage, Violation> {
    let name = &*meter.meter;
    let points = meter.points.into_iter().map(|(interval, sums)| {
        Ok(v1::UsagePoint {
            period: Some(wire::period(interval)),
            quantities: Some(quantities(name, sums)?),
        })
    });
    Ok(v1::MeterUsage {
        meter: name.to_owned(),
        unit: meter.unit.to_string(),
        quantities: Some(quantities(name, meter.quantities)?),
        points: points.collect::<Result<_, Violation>>()?,
    })
}

/// The sums of a meter.
pub(super) fn quantities(
    meter: &str,
    sums: usage_query::Quantities,
) -> Result<v1::Quantities, Violation> {
    let whole = |sum| in_64_bits(meter, sum);
    Ok(v1::Quantities {
        total: whole(sums.total())?,
        reported: whole(sums.reported())?,
        not_yet_reported: whole(sums.not_yet_reported())?,
        not_billable: whole(sums.not_billable())?,
    })
}
