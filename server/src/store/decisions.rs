//! Queries of admins' decisions on reports that the service does not retry. Each is recorded once and listed with its
//! report.

use std::collections::HashMap;

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, UpdateMany, sea_query::Expr,
};
use uuid::Uuid;

use super::{
    Store,
    as_read::update_as_read,
    billing_context::read_contexts,
    connection::Transaction,
    corrections::{Change, check_stays_above},
    links::read_links_of,
    report_states::at_once,
    retried::retried,
    sending_state::{Sending, read_sending},
};
use crate::{
    domain::{
        HOUR_MS, Millis,
        account::{BillingTarget, billing_target_at},
        account_id::AccountId,
        decision::{Action, Decision, etag},
        report::{MAX_EVENT_AGE_MS, Report, State},
    },
    entity::{
        open_report, report_decision,
        usage_report::{self, Column, UsageReportState},
    },
    error::{Error, Result},
    metrics,
};

/// The maximum number of decisions that one query reads.
const DECISIONS_READ: u64 = 10_000;
/// States of reports that need a decision and that Stripe may have.
const MAY_HAVE_ARRIVED: [State; 2] = [State::Unknown, State::Missing];

/// A decision to record.
#[derive(Clone, Debug)]
pub(crate) struct NewDecision {
    /// The report's account.
    pub(crate) account_id: AccountId,
    /// The report.
    pub(crate) report_id: Uuid,
    /// The action.
    pub(crate) action: Action,
    /// Why.
    pub(crate) reason: String,
    /// Who decides.
    pub(crate) requested_by: String,
    /// The etag that the caller read, if it gave one.
    pub(crate) etag: Option<String>,
    /// Whether nothing is stored.
    pub(crate) is_dry_run: bool,
}

/// A report on which was decided.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// It before the decision.
    pub(crate) before: Report,
    /// Names it and its decisions before this one.
    pub(crate) etag: String,
    /// It after the decision; absent if the decision was in force before.
    pub(crate) after: Option<Report>,
}

impl Store {
    /// Records a decision on a report. If the same decision is already in force, changes nothing.
    pub(crate) async fn resolve(&self, new: &NewDecision, now: Millis) -> Result<Resolved> {
        retried(|| self.resolve_once(new, now)).await
    }

    async fn resolve_once(&self, new: &NewDecision, now: Millis) -> Result<Resolved> {
        let tx = self.begin().await?;
        let Some(report) = find_report(&tx, &new.account_id, new.report_id).await? else {
            tx.rollback().await?;
            return Err(self.report_not_found(new.report_id).await?);
        };
        let last = last_decision(&tx, &report).await?;
        let etag = etag(&report, last.as_ref());
        let Some(next) = report.state.after(&new.action.transition()) else {
            tx.rollback().await?;
            return repeated(report, etag, last.as_ref(), new.action);
        };
        if new.etag.as_ref().is_some_and(|given| *given != etag) {
            tx.rollback().await?;
            let report = report.id.to_string();
            return Err(Error::ReportChanged { report });
        }
        let sending = read_sending(&tx).await?;
        check_former_account(&sending, &report, new.action)?;
        // It is looked up again. Under its own identifier Stripe can still refuse it.
        let is_looked_up = new.action == Action::Retry && report.needs_look_up(sending.restored_at);
        let generation = match new.action {
            Action::Retry if is_looked_up => report.generation,
            Action::Retry | Action::BillInCurrentPeriod => report.generation.saturating_add(1),
            Action::WriteOff => report.generation,
        };
        let mut change = update_as_read(&report)
            .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
            .col_expr(Column::Generation, Expr::value(generation));
        if new.action != Action::WriteOff {
            let customer = customer_to_bill(&tx, &report, new.action, now).await?;
            if new.action == Action::BillInCurrentPeriod {
                check_is_charged(&tx, &report, &customer, now).await?;
            }
            if new.action == Action::BillInCurrentPeriod && report.quantity < 0 {
                self.check_current_period(&tx, &report, &customer, now)
                    .await?;
            }
            change = if new.action == Action::BillInCurrentPeriod {
                bill_now(change, now)
            } else {
                retry(change, &report, is_looked_up, now)
            };
            change = change
                .col_expr(Column::Customer, Expr::value(customer))
                .col_expr(Column::FirstSentAt, Expr::value(None::<i64>))
                .col_expr(Column::LastSentAt, Expr::value(None::<i64>))
                .col_expr(Column::ReportedAt, Expr::value(None::<i64>))
                .col_expr(Column::LastError, Expr::value(None::<String>))
                .col_expr(Column::NextAttemptAt, at_once());
        }
        if change.exec(&tx).await?.rows_affected != 1 {
            tx.rollback().await?;
            return Err(Error::Internal("a locked report changed".into()));
        }
        insert_decision(&tx, &report, new, generation, now).await?;
        let id = (report.account_id.clone(), report.id);
        let after = usage_report::Entity::find_by_id(id).one(&tx).await?;
        if new.is_dry_run {
            tx.rollback().await?;
        } else {
            tx.commit().await?;
            metrics::count_transition(Some(&new.action.transition()));
        }
        Ok(Resolved {
            after: Some(after.map_or_else(|| report.clone(), Report::from)),
            before: report,
            etag,
        })
    }

    /// The error that a report does not exist: with the archives that may have it.
    pub(crate) async fn report_not_found(&self, id: Uuid) -> Result<Error> {
        let archives = self.archives_around(id).await?;
        if archives.is_empty() {
            return Ok(Error::ReportNotFound(id.to_string()));
        }
        let named = archives.into_iter().map(|archive| {
            let file = archive.file;
            format!("{} (SHA-256 {})", file.name, file.sha256)
        });
        Ok(Error::ReportMayBeFolded {
            report: id.to_string(),
            archives: named.collect(),
        })
    }

    /// Rejects billing in the current period if that period's total would become negative.
    async fn check_current_period(
        &self,
        tx: &Transaction,
        report: &Report,
        customer: &str,
        now: Millis,
    ) -> Result<()> {
        let account = &report.account_id;
        self.lock_corrections(tx, account).await?;
        let links = read_links_of(tx, account).await?;
        let change = Change {
            account_id: account,
            meter: &report.meter,
            quantity: report.quantity,
            at: now,
            except: Some(report.id),
        };
        check_stays_above(
            tx,
            &change,
            &links,
            &BillingTarget::Billed(customer.to_owned()),
        )
        .await
    }

    /// The decisions on some reports, oldest first.
    pub(crate) async fn decisions_on(
        &self,
        reports: &[Report],
    ) -> Result<HashMap<Uuid, Vec<Decision>>> {
        use report_decision::Column;
        let mut accounts: Vec<&AccountId> = reports.iter().map(|one| &one.account_id).collect();
        accounts.sort_unstable();
        accounts.dedup();
        let rows = report_decision::Entity::find()
            .filter(Column::AccountId.is_in(accounts))
            .filter(Column::ReportId.is_in(reports.iter().map(|report| report.id)))
            .order_by_asc(Column::Id)
            .limit(DECISIONS_READ)
            .all(&self.reader)
            .await?;
        let mut decisions: HashMap<Uuid, Vec<Decision>> = HashMap::new();
        for row in rows {
            decisions.entry(row.report_id).or_default().push(row.into());
        }
        Ok(decisions)
    }
}

/// Whoever bills a report now has decided that it was not billed before a restore.
fn bill_now(
    change: UpdateMany<usage_report::Entity>,
    now: Millis,
) -> UpdateMany<usage_report::Entity> {
    change
        .col_expr(Column::EventTimestamp, Expr::value(None::<i64>))
        .col_expr(Column::BillAt, Expr::value(now))
        .col_expr(Column::LookedUpAt, Expr::value(now))
        .col_expr(Column::Attempts, Expr::value(0_i32))
}

/// A report that is looked up again keeps its identifier, so each attempt needs another key.
fn retry(
    change: UpdateMany<usage_report::Entity>,
    report: &Report,
    is_looked_up: bool,
    now: Millis,
) -> UpdateMany<usage_report::Entity> {
    let oldest = now.saturating_sub(MAX_EVENT_AGE_MS).saturating_add(HOUR_MS);
    let stamp = report.event_timestamp.filter(|stamp| *stamp > oldest);
    let attempts = if is_looked_up { report.attempts } else { 0 };
    change
        .col_expr(Column::EventTimestamp, Expr::value(stamp))
        .col_expr(Column::Attempts, Expr::value(attempts))
}

/// A report of an account. A closed one is locked.
async fn find_report(
    tx: &Transaction,
    account_id: &AccountId,
    id: Uuid,
) -> std::result::Result<Option<Report>, DbErr> {
    let closed = usage_report::Entity::find_by_id((account_id.clone(), id))
        .lock_exclusive()
        .one(tx)
        .await?;
    if let Some(closed) = closed {
        return Ok(Some(closed.into()));
    }
    let open = open_report::Entity::find()
        .filter(open_report::Column::AccountId.eq(account_id))
        .filter(open_report::Column::Id.eq(id))
        .one(tx)
        .await?;
    Ok(open.map(Report::from))
}

async fn last_decision(
    tx: &Transaction,
    report: &Report,
) -> std::result::Result<Option<Decision>, DbErr> {
    use report_decision::Column;
    let last = report_decision::Entity::find()
        .filter(Column::AccountId.eq(&report.account_id))
        .filter(Column::ReportId.eq(report.id))
        .order_by_desc(Column::Id)
        .one(tx)
        .await?;
    Ok(last.map(Decision::from))
}

/// Rejects sending what an earlier Stripe account may have.
fn check_former_account(sending: &Sending, report: &Report, action: Action) -> Result<()> {
    let sent_at = (report.reported_at, report.first_sent_at);
    if action == Action::WriteOff
        || !MAY_HAVE_ARRIVED.contains(&report.state)
        || !sending.is_of_former_account(sent_at)
    {
        return Ok(());
    }
    Err(Error::NotResolvable {
        report: report.id.to_string(),
        state: format!(
            "{}, and the former Stripe account may have billed it: only WRITE_OFF is possible",
            report.state.name()
        ),
        decided: None,
    })
}

/// The result if the report's state needs no decision: the report if the same decision is in force, else an error.
fn repeated(
    report: Report,
    etag: String,
    last: Option<&Decision>,
    action: Action,
) -> Result<Resolved> {
    // If the service has given the report a new identifier since then, the decision is no longer in force.
    let in_force = last.filter(|decision| decision.generation == report.generation);
    if in_force.is_some_and(|decision| decision.action == action) {
        return Ok(Resolved {
            before: report,
            etag,
            after: None,
        });
    }
    Err(Error::NotResolvable {
        report: report.id.to_string(),
        state: report.state.name().to_owned(),
        decided: in_force.map(|decision| decision.action.name().to_owned()),
    })
}

/// The customer of a report that is sent again: its own, else the customer of the link in force.
async fn customer_to_bill(
    tx: &Transaction,
    report: &Report,
    action: Action,
    now: Millis,
) -> Result<String> {
    if let Some(customer) = &report.customer {
        return Ok(customer.clone());
    }
    let account = &report.account_id;
    let links = read_links_of(tx, account).await?;
    let at = match action {
        Action::BillInCurrentPeriod => now,
        Action::Retry | Action::WriteOff => report.first_at,
    };
    match billing_target_at(&links, at) {
        BillingTarget::Billed(customer) => Ok(customer),
        BillingTarget::NoCustomer | BillingTarget::NotBillable | BillingTarget::Elsewhere(_) => {
            Err(Error::NotResolvable {
                report: report.id.to_string(),
                state: format!("{} and has no customer to bill", report.state.name()),
                decided: None,
            })
        }
    }
}

/// Rejects billing in the current period if no subscription would charge for it.
async fn check_is_charged(
    tx: &Transaction,
    report: &Report,
    customer: &str,
    now: Millis,
) -> Result<()> {
    let contexts = read_contexts(tx, std::slice::from_ref(report)).await?;
    if contexts.of(report, Some(customer)).is_charged(now) {
        return Ok(());
    }
    Err(Error::NotResolvable {
        report: report.id.to_string(),
        state: format!(
            "{}, and no subscription of {customer} charges for its meter now",
            report.state.name()
        ),
        decided: None,
    })
}

async fn insert_decision(
    tx: &Transaction,
    report: &Report,
    new: &NewDecision,
    generation: i32,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let row = report_decision::ActiveModel {
        account_id: Set(report.account_id.clone()),
        id: Set(Uuid::now_v7()),
        report_id: Set(report.id),
        action: Set(new.action.into()),
        reason: Set(new.reason.clone()),
        requested_by: Set(new.requested_by.clone()),
        from_state: Set(report.state.into()),
        generation: Set(generation),
        decided_at: Set(now),
    };
    report_decision::Entity::insert(row)
        .exec_without_returning(tx)
        .await
        .map(|_| ())
}
