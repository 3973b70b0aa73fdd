//! `grpc.health.v1.Health`: the same answer as readiness over HTTP, for the server and for each of its services.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health,
};

use crate::readiness::Readiness;

/// The names that callers may ask for; the empty one is the server.
const SERVICES: [&str; 5] = [
    "",
    "usage.v1.UsageService",
    "usage.v1.AccountService",
    "usage.v1.AccessService",
    "usage.v1.OperationsService",
];
/// How often a watched status is checked.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Serves `grpc.health.v1.Health`.
#[derive(Clone, Debug)]
pub(crate) struct HealthRpc {
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) shutdown: CancellationToken,
}

impl HealthRpc {
    async fn status(&self) -> ServingStatus {
        if self.shutdown.is_cancelled() || self.readiness.check().await.is_err() {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        }
    }

    /// The next status that differs from the last one; absent after the shutdown.
    async fn next_status(&self, last: Option<ServingStatus>) -> Option<ServingStatus> {
        loop {
            if last.is_some() {
                let wait = tokio::time::sleep(WATCH_INTERVAL);
                self.shutdown.run_until_cancelled(wait).await?;
            }
            let status = self.status().await;
            if last != Some(status) {
                return Some(status);
            }
        }
    }
}

#[tonic::async_trait]
impl Health for HealthRpc {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("this server has no such service"));
        }
        Ok(Response::new(response(self.status().await)))
    }

    /// Sends the status now and after each change. The status of an unknown service is always unknown.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = SERVICES.contains(&request.get_ref().service.as_str());
        let health = self.clone();
        let statuses = stream::unfold(None, move |last| {
            let health = health.clone();
            async move {
                if !is_known {
                    if last.is_some() {
                        health.shutdown.cancelled().await;
                        return None;
                    }
                    let unknown = ServingStatus::ServiceUnknown;
                    return Some((Ok(response(unknown)), Some(unknown)));
                }
                let status = health.next_status(last).await?;
                Some((Ok(response(status)), Some(status)))
            }
        });
        Ok(Response::new(Box::pin(statuses)))
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
