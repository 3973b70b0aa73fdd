//! Queries of the row that says whether reports are sent, and of what a restore changes at once: the pause, the reports
//! that were open, and the reports that were not sent.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, FromQueryResult, QueryFilter as _,
    QuerySelect as _, Statement, sea_query::Expr,
};
use uuid::Uuid;

use super::{
    Store,
    close::open_after,
    close_reports::{Closing, close_reports},
    connection::Transaction,
    of_shard::lock_rows,
    report_rules::needs_look_up,
    report_states::{at_once, is_due, state_in},
    send_queue::AccountRange,
};
use crate::{
    domain::{
        Millis, account_id::AccountId, billing_start::BillingStart, pause::PauseReason,
        report::State, sender_mark::OwnMarks, stripe_account::StripeAccount,
    },
    entity::{
        commit, console_session, lease, open_report,
        sending::{self, Column, SendingPausedWhy},
        usage_report::{self, UsageReportState},
    },
    error::Result,
};

/// The number of open reports that one transaction closes.
const REPORTS_PER_PAGE: u64 = 200;

/// Whether reports are sent, and what is known of the last restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sending {
    /// Why nothing is sent, if so.
    pub(crate) paused: Option<PauseReason>,
    /// The last moment that the restored backup contains.
    pub(crate) backup_at: Option<Millis>,
    /// When the backup was restored.
    pub(crate) restored_at: Option<Millis>,
    /// The database's id, which a copy of it has too.
    pub(crate) database_id: Uuid,
    /// The Stripe account that usage is reported to; absent before the first report.
    pub(crate) account: Option<StripeAccount>,
    /// What was sent or accepted before this went to another Stripe account.
    pub(crate) adopted_at: Option<Millis>,
    /// What it knows of its marks at Stripe.
    pub(crate) marks: OwnMarks,
    /// When Stripe last accepted a meter event, within some seconds; absent before the first one.
    pub(crate) last_accepted_at: Option<Millis>,
    /// From when on this service bills.
    pub(crate) billing_start: BillingStart,
}

impl Sending {
    /// Whether a restore was begun and not finished.
    pub(crate) fn is_restoring(&self) -> bool {
        self.paused == Some(PauseReason::Restoring)
    }
}

/// A customer that was billed, and an account that it belonged to.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub(crate) struct BilledCustomer {
    /// The Stripe customer.
    pub(crate) customer: String,
    /// The account.
    pub(crate) account_id: AccountId,
}

impl Store {
    /// Whether reports are sent.
    pub(crate) async fn sending(&self) -> Result<Sending> {
        Ok(read_sending(&self.reader).await?)
    }

    /// Pauses sending, unless it is paused already.
    pub(crate) async fn pause_sending(&self, why: PauseReason, now: Millis) -> Result<()> {
        sending::Entity::update_many()
            .col_expr(Column::PausedAt, Expr::value(now))
            .col_expr(Column::PausedWhy, Expr::value(SendingPausedWhy::from(why)))
            .filter(Column::Id.eq(1))
            .filter(Column::PausedAt.is_null())
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Notes that Stripe accepted a meter event, for the metrics of every replica.
    pub(crate) async fn note_accepted(&self, now: Millis) -> Result<()> {
        sending::Entity::update_many()
            .col_expr(Column::LastAcceptedAt, Expr::value(now))
            .filter(Column::Id.eq(1))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Gives the reason of a pause to the reports that wait for its end, so that a run does not wait for them.
    pub(crate) async fn explain_pause(&self, why: &str) -> Result<()> {
        let unexplained = format!(
            "{} AND customer IS NOT NULL AND last_error IS NULL",
            state_in(&State::DUE)
        );
        // Usually there are none. To find out reads every report that waits, so counting must not wait meanwhile.
        let first = format!("SELECT 1 AS one FROM usage_reports WHERE {unexplained} LIMIT 1");
        let first = Statement::from_string(self.backend(), first);
        if self.reader.query_one_raw(first).await?.is_none() {
            return Ok(());
        }
        let mut range = AccountRange::default();
        while self.next_due_accounts(&mut range).await? {
            usage_report::Entity::update_many()
                .col_expr(usage_report::Column::LastError, Expr::value(why))
                .filter(Expr::cust(unexplained.clone()))
                .filter(range.condition())
                .exec(&self.writer)
                .await?;
        }
        Ok(())
    }

    /// The last moment at which this database was written, as far as its rows show.
    pub(crate) async fn last_activity(&self) -> Result<Option<Millis>> {
        type Latest = (
            Option<Millis>,
            Option<Millis>,
            Option<Millis>,
            Option<Millis>,
        );
        use usage_report::Column as R;
        let committed: Option<Option<Millis>> = commit::Entity::find()
            .select_only()
            .column_as(commit::Column::CommittedAt.max(), "at")
            .into_tuple()
            .one(&self.reader)
            .await?;
        let ran: Option<Option<Millis>> = lease::Entity::find()
            .select_only()
            .column_as(lease::Column::LastRunAt.max(), "at")
            .into_tuple()
            .one(&self.reader)
            .await?;
        // One query, because it reads every report.
        let reports: Option<Latest> = usage_report::Entity::find()
            .select_only()
            .column_as(R::ClosedAt.max(), "closed_at")
            .column_as(R::LastSentAt.max(), "last_sent_at")
            .column_as(R::ReportedAt.max(), "reported_at")
            .column_as(R::ConfirmedAt.max(), "confirmed_at")
            .into_tuple()
            .one(&self.reader)
            .await?;
        let (closed, sent, reported, confirmed) = reports.unwrap_or_default();
        let found = [
            committed.flatten(),
            ran.flatten(),
            closed,
            sent,
            reported,
            confirmed,
        ];
        Ok(found.into_iter().flatten().max())
    }

    /// Pauses sending in a backup that is put in the place of the database, until a restore of it has ended. When it was made
    /// and restored is not known yet: what an earlier restore knew is not of this one.
    pub(crate) async fn pause_until_restored(&self, now: Millis) -> Result<()> {
        sending::Entity::update_many()
            .col_expr(Column::PausedAt, Expr::value(now))
            .col_expr(Column::PausedWhy, Expr::value(SendingPausedWhy::Restoring))
            .col_expr(Column::BackupAt, Expr::value(None::<i64>))
            .col_expr(Column::RestoredAt, Expr::value(None::<i64>))
            .filter(Column::Id.eq(1))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Begins a restore: pauses sending, and remembers until when the backup goes. A restore that was interrupted goes on
    /// with the times of its start. Sessions of the console end. Returns the row.
    pub(crate) async fn begin_restore(&self, backup_at: Millis, now: Millis) -> Result<Sending> {
        let tx = self.begin().await?;
        let before = read_sending(&tx).await?;
        if !before.is_restoring() || before.restored_at.is_none() {
            sending::Entity::update_many()
                .col_expr(Column::PausedAt, Expr::value(now))
                .col_expr(Column::PausedWhy, Expr::value(SendingPausedWhy::Restoring))
                .col_expr(Column::BackupAt, Expr::value(backup_at))
                .col_expr(Column::RestoredAt, Expr::value(now))
                .filter(Column::Id.eq(1))
                .exec(&tx)
                .await?;
            // Those who signed out after the backup was made have done so.
            console_session::Entity::delete_many().exec(&tx).await?;
        }
        let after = read_sending(&tx).await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Closes one page of the open reports, so that new usage gets new reports. Returns the number of reports.
    pub(crate) async fn close_restored_page(&self, restored_at: Millis) -> Result<usize> {
        let tx = self.begin_within_boundaries().await?;
        let page = open_after(open_report::Entity::find(), None).limit(REPORTS_PER_PAGE);
        let reports = lock_rows(&tx, page, open_report::Column::AccountId).await?;
        close_reports(&tx, &reports, Closing::at(restored_at)).await?;
        tx.commit().await?;
        Ok(reports.len())
    }

    /// Makes every report of a customer that would be sent `unknown`: Stripe may have it. Returns their number.
    pub(crate) async fn doubt_unsent(&self, restored_at: Millis) -> Result<u64> {
        use usage_report::Column as R;
        let changed = usage_report::Entity::update_many()
            .col_expr(R::State, Expr::value(UsageReportState::Unknown))
            .col_expr(R::NextAttemptAt, at_once())
            .filter(is_due())
            .filter(R::State.ne(UsageReportState::Unknown))
            .filter(R::Customer.is_not_null())
            .filter(needs_look_up(restored_at))
            .exec(&self.writer)
            .await?;
        Ok(changed.rows_affected)
    }

    /// Ends the pause.
    pub(crate) async fn resume_sending(&self) -> Result<()> {
        let tx = self.begin().await?;
        end_pause(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Customers that accounts are or were billed to, ordered by customer, after the given one; each with one of its
    /// accounts.
    pub(crate) async fn billed_customers(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<Vec<BilledCustomer>> {
        let sql = "SELECT customer, MAX(account_id) AS account_id FROM account_links \
            WHERE customer IS NOT NULL AND customer > $1 GROUP BY customer ORDER BY customer LIMIT $2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let statement =
            Statement::from_sql_and_values(self.backend(), sql, [after.into(), limit.into()]);
        Ok(BilledCustomer::find_by_statement(statement)
            .all(&self.reader)
            .await?)
    }
}

/// Ends the pause, and takes its reason off the reports that waited for that.
pub(super) async fn end_pause(tx: &Transaction) -> std::result::Result<(), DbErr> {
    let why = read_sending(tx).await?.paused;
    sending::Entity::update_many()
        .col_expr(Column::PausedAt, Expr::value(None::<i64>))
        .col_expr(Column::PausedWhy, Expr::value(None::<String>))
        .filter(Column::Id.eq(1))
        .exec(tx)
        .await?;
    if let Some(why) = why {
        usage_report::Entity::update_many()
            .col_expr(usage_report::Column::LastError, Expr::value(None::<String>))
            .filter(usage_report::Column::LastError.eq(why.to_string()))
            .exec(tx)
            .await?;
    }
    Ok(())
}

/// Reads the row.
pub(super) async fn read_sending(db: &impl ConnectionTrait) -> std::result::Result<Sending, DbErr> {
    let row = sending::Entity::find_by_id(1).one(db).await?;
    let row =
        row.ok_or_else(|| DbErr::RecordNotFound("the row of the table sending".to_owned()))?;
    let paused = match (row.paused_at, row.paused_why) {
        (None, _) => None,
        (Some(_), Some(why)) => Some(why.into()),
        (Some(_), None) => {
            let error = "the row of the table sending is paused without a reason";
            return Err(DbErr::Type(error.to_owned()));
        }
    };
    Ok(Sending {
        paused,
        backup_at: row.backup_at,
        restored_at: row.restored_at,
        database_id: row.database_id,
        account: row.stripe_meter.map(|meter| StripeAccount {
            meter,
            account: row.stripe_account,
            is_live: row.stripe_is_live.unwrap_or_default(),
        }),
        adopted_at: row.adopted_at,
        marks: OwnMarks {
            number: row.mark,
            nonce: row.mark_nonce,
            next: row.next_nonce,
            previous_at: row.mark_before_at,
        },
        last_accepted_at: row.last_accepted_at,
        billing_start: BillingStart::from_stored(row.bill_from),
    })
}

/// The time of the last restore.
pub(super) async fn restored_at(tx: &Transaction) -> std::result::Result<Option<Millis>, DbErr> {
    read_sending(tx).await.map(|row| row.restored_at)
}
