//! gRPC: converts requests to domain types and results to responses, one file a service, `counting` and `usage_actions` for
//! the two sides of `UsageService`, and `account_deletion` for a part of `AccountService`. No rules here.

pub(crate) mod access_service;
pub(crate) mod account_deletion;
pub(crate) mod account_service;
pub(crate) mod actor;
mod audit_json;
pub(crate) mod auditor;
pub(crate) mod caller_stream;
mod counting;
mod explanations;
pub(crate) mod health_service;
pub(crate) mod operations_service;
pub(crate) mod page_token;
mod recent_usage;
mod report_stream;
mod shadow;
mod sign_off;
mod usage_actions;
mod usage_of_all;
pub(crate) mod usage_service;
mod wire;
mod wire_account;
mod wire_explanation;
pub(crate) mod wire_reconciliation;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    request_context::{carried, until_gone},
};

/// Makes a change to its end, also if its caller is gone meanwhile. Otherwise a deadline that passes during a BEGIN or
/// COMMIT would leave the state of a connection unknown, and all connections would be renewed. A transaction that the database
/// undoes is not run again for a caller that is gone.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let gone = CancellationToken::new();
    // Boxed: the compiler limits how deep futures are nested.
    let change: BoxFuture<'static, Result<T>> = Box::pin(change);
    let changing = until_gone(gone.clone(), change);
    // Dropped with this future: at the caller's deadline, or when the connection ends.
    let _gone = gone.drop_guard();
    let ended = tokio::spawn(carried(changing)).await;
    ended.unwrap_or_else(|error| {
        let is_panic = error.is_panic();
        let error = Error::Internal(error.into());
        // A panic is in the log.
        Err(if is_panic { error.logged() } else { error })
    })
}
