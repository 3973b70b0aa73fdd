//! Exports and deletions of accounts.

use crate::{
    Error, proto,
    wire::{non_empty, optional_time},
};
use chrono::{DateTime, Utc};
use std::collections::VecDeque;
use tonic::Streaming;

/// Deletes an account: its rows stay, for invoices and totals, and get a random token in the place of its id.
///
/// ```
/// use usage_client::DeleteAccount;
///
/// let what_refuses_it = DeleteAccount::new("acct_42").dry_run();
/// let deletion = DeleteAccount::new("acct_42").requested_by("ada");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is deleted until it is sent"]
pub struct DeleteAccount(proto::DeleteAccountRequest);

impl DeleteAccount {
    /// This account.
    pub fn new(account_id: impl Into<String>) -> Self {
        Self(proto::DeleteAccountRequest {
            account_id: account_id.into(),
            ..Default::default()
        })
    }

    /// Only returns what would be done and what refuses it.
    pub fn dry_run(mut self) -> Self {
        self.0.dry_run = true;
        self
    }

    /// Who requests it, kept for the record.
    pub fn requested_by(mut self, name: impl Into<String>) -> Self {
        self.0.requested_by = name.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::DeleteAccountRequest {
        self.0
    }
}

/// What a deletion did, or what it would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeletedAccount {
    /// The id that the account's rows have now. Returned once; none in a dry run, and if the account had been deleted before.
    pub token: Option<String>,
    /// Whether the account had been deleted before: nothing was changed.
    pub duplicate: bool,
    /// When usage under the id was refused first; none in a dry run for an account that was not deleted.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Until when it is refused.
    pub refused_until: Option<DateTime<Utc>>,
    /// In a dry run, what refuses the deletion now.
    pub obstacles: Vec<DeletionObstacle>,
    /// The tables with the number of rows that got another id or were deleted, or would.
    pub rows: Vec<(String, i64)>,
    /// The Stripe customers that the account was linked to. They stay at Stripe as they are.
    pub stripe_customers: Vec<String>,
}

/// Something that refuses the deletion of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeletionObstacle {
    /// What it is.
    pub kind: DeletionObstacleKind,
    /// The id of the report, subscription item, subscription or change, if it has one.
    pub id: Option<String>,
    /// What it is, and what to do.
    pub message: String,
}

/// The kinds of what refuses the deletion of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeletionObstacleKind {
    /// A report is not invoiced, written off or not billable.
    Report,
    /// A billing period has not ended, or its invoice is not final.
    BillingPeriod,
    /// A subscription of the linked customer goes on.
    Subscription,
    /// A change of the subscription is in progress.
    Change,
    /// Reports of the account are in archives, which are never changed.
    Archive,
    /// The database was restored or copied, and was not compared with Stripe since.
    Restore,
    /// A kind that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl DeletedAccount {
    pub(crate) fn from_wire(response: proto::DeleteAccountResponse) -> Result<Self, Error> {
        let obstacles = response.obstacles.into_iter();
        let rows = response.rows.into_iter();
        Ok(Self {
            token: non_empty(response.token),
            duplicate: response.duplicate,
            deleted_at: optional_time(response.deleted_at, "deleted_at")?,
            refused_until: optional_time(response.refused_until, "refused_until")?,
            obstacles: obstacles.map(DeletionObstacle::from).collect(),
            rows: rows.map(|row| (row.table, row.rows)).collect(),
            stripe_customers: response.stripe_customers,
        })
    }
}

impl From<proto::DeletionObstacle> for DeletionObstacle {
    fn from(obstacle: proto::DeletionObstacle) -> Self {
        use proto::DeletionObstacleKind as Wire;
        let kind = match obstacle.kind() {
            Wire::Report => DeletionObstacleKind::Report,
            Wire::BillingPeriod => DeletionObstacleKind::BillingPeriod,
            Wire::Subscription => DeletionObstacleKind::Subscription,
            Wire::Change => DeletionObstacleKind::Change,
            Wire::Archive => DeletionObstacleKind::Archive,
            Wire::Restore => DeletionObstacleKind::Restore,
            Wire::Unspecified => DeletionObstacleKind::Unrecognised(obstacle.kind),
        };
        Self {
            kind,
            id: non_empty(obstacle.id),
            message: obstacle.message,
        }
    }
}

/// Everything that is stored of an account, line by line. Each line is a JSON object with the name of a table and a row.
///
/// Dropping it ends the export. There is no deadline between two lines; keep-alive detects a lost server.
#[derive(Debug)]
#[must_use = "read the lines, or nothing is exported"]
pub struct AccountExport {
    stream: Streaming<proto::ExportAccountResponse>,
    lines: VecDeque<String>,
}

impl AccountExport {
    pub(crate) fn open(stream: Streaming<proto::ExportAccountResponse>) -> Self {
        Self {
            stream,
            lines: VecDeque::new(),
        }
    }

    /// The next line; none after the last one.
    ///
    /// # Errors
    /// The server fails, or is lost: the export is not complete.
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            match self.stream.message().await? {
                Some(more) => self.lines.extend(more.lines),
                None => return Ok(None),
            }
        }
    }
}
