//! Deletions and exports of accounts. Both are recorded in the audit table.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use usage_proto::v1;

use super::{
    account_service::AccountRpc,
    actor::{actor, caller},
    audit_json,
    auditor::Changed,
    to_its_end, wire,
};
use crate::{
    domain::{
        Millis,
        account_deletion::{Obstacle, ObstacleKind, SALT_BYTES, TOKEN_BYTES, is_token, token},
        account_id::AccountId,
        correction::check_requested_by,
        violation::Violation,
    },
    error::{Error, Result},
    store::{Store, account_deletion::Deletion, account_export::ExportPlace},
};

/// Exports that run at once. Each reads the whole table of idempotency keys.
pub(crate) const MAX_EXPORTS: usize = 4;
/// From this size in bytes on, lines are sent in another message.
const MESSAGE_BYTES: usize = 64 * 1024;

/// A deletion with the token of the rows, if they got one now.
type Done = (Deletion, Option<AccountId>);

impl AccountRpc {
    pub(super) async fn delete(
        &self,
        request: Request<v1::DeleteAccountRequest>,
    ) -> std::result::Result<Response<v1::DeleteAccountResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::delete_account(actor, &request);
        let (store, now, is_preview) = (self.store.clone(), self.clock.now(), request.dry_run);
        let id = request.account_id.clone();
        let deleting = Box::pin(async move {
            caller.check_account(&request.account_id)?;
            let account_id = AccountId::parse(&request.account_id)?;
            if is_token(&account_id) {
                let message = "account_id is the token of an account that was deleted before";
                return Err(Violation::invalid("account_id", message).into());
            }
            check_requested_by(&request.requested_by)?;
            if is_preview {
                return Ok((store.preview_deletion(&account_id, now).await?, None));
            }
            delete(&store, &account_id, now).await
        });
        let changed = |(deletion, _): &Done| Changed {
            before: None,
            after: Some(audit_json::deletion(deletion)),
            failed_after: None,
        };
        let renamed = move |(_, token): &Done| Some((id, token.as_ref()?.to_string()));
        let auditor = self.auditor.clone();
        let (deletion, token) = to_its_end(async move {
            if is_preview {
                return deleting.await;
            }
            auditor
                .record_renaming(action, deleting, changed, renamed)
                .await
        })
        .await?;
        if token.is_some() {
            tracing::info!(
                rows = ?deletion.rows,
                "an account was deleted; its rows have another id"
            );
        }
        Ok(Response::new(response(deletion, token)))
    }

    pub(super) async fn export(
        &self,
        request: Request<v1::ExportAccountRequest>,
    ) -> std::result::Result<Response<ExportStream>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let account = request.into_inner().account_id;
        let action = audit_json::export_account(actor, &account);
        let (store, exports) = (self.store.clone(), Arc::clone(&self.exports));
        let checked = Box::pin(async move {
            caller.check_account(&account)?;
            let account_id = AccountId::parse(&account)?;
            let permit = exports.try_acquire_owned();
            let permit = permit.map_err(|_| Error::TooManyChanges { limit: MAX_EXPORTS })?;
            store.check_is_stored(&account_id).await?;
            Ok((account_id, permit))
        });
        let changed = |_: &(AccountId, OwnedSemaphorePermit)| Changed {
            before: None,
            after: None,
            failed_after: None,
        };
        let recorded = self.auditor.clone().record(action, checked, changed);
        let (account_id, permit) = to_its_end(recorded).await?;
        let (sender, receiver) = mpsc::channel(1);
        let store = self.store.clone();
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let sent = tokio::select! {
                () = shutdown.cancelled() => Err(Error::ShuttingDown),
                sent = send_all(&store, &account_id, &sender) => sent,
            };
            if let Err(error) = sent {
                // The caller may be gone.
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(Response::new(ExportStream(receiver)))
    }
}

/// Deletes an account, from wherever an earlier call ended.
async fn delete(store: &Store, account_id: &AccountId, now: Millis) -> Result<Done> {
    let begun = store
        .begin_deletion(account_id, random::<SALT_BYTES>()?, now)
        .await?;
    if begun.was_done {
        return Ok((begun, None));
    }
    let token = token(random::<TOKEN_BYTES>()?)?;
    let done = store.anonymise(account_id, &token, begun, now).await?;
    let token = (!done.was_done).then_some(token);
    Ok((done, token))
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES]> {
    let mut random = [0; BYTES];
    getrandom::fill(&mut random).map_err(|error| Error::Internal(error.to_string().into()))?;
    Ok(random)
}

fn response(deletion: Deletion, token: Option<AccountId>) -> v1::DeleteAccountResponse {
    let refused_until = deletion.refused_until().map(wire::timestamp);
    let row = |(table, rows)| v1::DeletedRows { table, rows };
    v1::DeleteAccountResponse {
        token: token.map(String::from).unwrap_or_default(),
        duplicate: deletion.was_done,
        deleted_at: deletion.deleted_at.map(wire::timestamp),
        refused_until,
        obstacles: deletion.obstacles.into_iter().map(obstacle).collect(),
        rows: deletion.rows.into_iter().map(row).collect(),
        stripe_customers: deletion.customers,
    }
}

fn obstacle(obstacle: Obstacle) -> v1::DeletionObstacle {
    use v1::DeletionObstacleKind as Kind;
    let kind = match obstacle.kind {
        ObstacleKind::Report => Kind::Report,
        ObstacleKind::BillingPeriod => Kind::BillingPeriod,
        ObstacleKind::Subscription => Kind::Subscription,
        ObstacleKind::Change => Kind::Change,
        ObstacleKind::Archive => Kind::Archive,
        ObstacleKind::Restore => Kind::Restore,
    };
    v1::DeletionObstacle {
        kind: kind.into(),
        id: obstacle.id,
        message: obstacle.message,
    }
}

/// The answers of `ExportAccount`. Dropping it ends the export.
#[derive(Debug)]
pub(crate) struct ExportStream(mpsc::Receiver<Result<v1::ExportAccountResponse>>);

impl Stream for ExportStream {
    type Item = std::result::Result<v1::ExportAccountResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.0.poll_recv(cx);
        next.map(|answer| answer.map(|answer| answer.map_err(Status::from)))
    }
}

/// Sends an account's lines. One page is in memory at a time, and waits until the one before was taken.
async fn send_all(
    store: &Store,
    account_id: &AccountId,
    sender: &mpsc::Sender<Result<v1::ExportAccountResponse>>,
) -> Result<()> {
    let mut place = Some(ExportPlace::first());
    while let Some(next) = place.take() {
        if sender.is_closed() {
            return Ok(());
        }
        let (lines, after) = store.export_page(account_id, next).await?;
        place = after;
        let (mut some, mut bytes) = (Vec::new(), 0_usize);
        for line in lines {
            bytes = bytes.saturating_add(line.len());
            some.push(line);
            if bytes >= MESSAGE_BYTES {
                let lines = std::mem::take(&mut some);
                bytes = 0;
                if sender
                    .send(Ok(v1::ExportAccountResponse { lines }))
                    .await
                    .is_err()
                {
                    return Ok(());
                }
            }
        }
        if !some.is_empty() {
            let lines = v1::ExportAccountResponse { lines: some };
            if sender.send(Ok(lines)).await.is_err() {
                return Ok(());
            }
        }
    }
    // Then rows that were not read yet have another id. What is not complete must not be taken for an export.
    if store.was_anonymised(account_id).await? {
        return Err(Error::AccountDeleted);
    }
    Ok(())
}
