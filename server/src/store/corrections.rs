//! Queries of corrections. A correction is a separate report, closed from the start, and never makes a billing period's
//! total negative.

use sea_orm::{ActiveValue::Set, ColumnTrait as _, DbBackend, DbErr, EntityTrait as _, Statement};
use uuid::Uuid;

use super::{
    Store,
    billing_start::read_billing_start,
    boundaries::read_boundaries,
    connection::Transaction,
    deleted_accounts::check_not_deleted,
    links::read_links_of,
    report_figures::{passes_prefilter, read_any_figures},
    retried::retried,
    subscriptions::read_periods_around,
};
use crate::{
    domain::{
        Millis,
        account::{BillingTarget, Link, billing_target_at},
        account_id::AccountId,
        billed_usage::UsagePrefilter,
        billing_period::periods_of_meter,
        correction::{Correction, CorrectionContent, time_without_periods, total_to_bill},
        report::{Report, State, Transition},
        window::{Interval, Slots},
    },
    entity::{
        any_report, correction_key,
        usage_report::{self, UsageReportKind},
    },
    error::{Error, Result},
    planted_defects::{Defect, planted},
};

/// The prefix of the names of PostgreSQL's advisory locks that serialize an account's corrections.
const CORRECTION_LOCK: &str = "correction ";

/// A change of a billing period's total.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) account_id: &'a AccountId,
    pub(super) meter: &'a str,
    pub(super) quantity: i64,
    /// A time in the billing period.
    pub(super) at: Millis,
    /// A report to exclude from the period's total: the one that is moved into the period.
    pub(super) except: Option<Uuid>,
}

/// A correction that was entered, or would be.
#[derive(Clone, Debug)]
pub(crate) struct Entered {
    /// Its report.
    pub(crate) report: Report,
    /// Whether its key entered it before.
    pub(crate) is_duplicate: bool,
    /// Of a dry run: the totals that it would change, as they are.
    pub(crate) totals: Vec<(Interval, i64)>,
}

impl Store {
    /// Enters a correction, or only says what would be entered. If its key entered the same correction before, changes
    /// nothing and returns that one.
    ///
    /// Corrections of an account are serialized. Usage that is counted meanwhile only increases the total, so the check
    /// is never too generous.
    pub(crate) async fn correct(
        &self,
        correction: &Correction,
        slots: Slots,
        now: Millis,
        is_dry_run: bool,
    ) -> Result<Entered> {
        retried(|| self.correct_once(correction, slots, now, is_dry_run)).await
    }

    async fn correct_once(
        &self,
        correction: &Correction,
        slots: Slots,
        now: Millis,
        is_dry_run: bool,
    ) -> Result<Entered> {
        let tx = self.begin_within_boundaries().await?;
        check_not_deleted(&tx, &correction.account_id).await?;
        self.lock_corrections(&tx, &correction.account_id).await?;
        if let Some(entered) = find_entered(&tx, correction).await? {
            tx.rollback().await?;
            return entered.map(|report| Entered {
                report,
                is_duplicate: true,
                totals: Vec::new(),
            });
        }
        let start = read_billing_start(&tx).await?;
        if start.is_elsewhere(correction.at) {
            let at = correction.at;
            return Err(Error::BilledElsewhere { at, start });
        }
        let account = &correction.account_id;
        let links = read_links_of(&tx, account).await?;
        let target = billing_target_at(&links, correction.at);
        let mut totals = Vec::new();
        if correction.quantity < 0 || is_dry_run {
            let change = Change {
                account_id: account,
                meter: &correction.meter,
                quantity: correction.quantity,
                at: correction.at,
                except: None,
            };
            totals = read_totals(&tx, &change, &links, &target).await?;
            // Whoever adds makes nothing negative, whatever the total is.
            if correction.quantity < 0 {
                check_totals(&change, &totals)?;
            }
        }
        let report = insert(&tx, correction, &target, slots, now).await?;
        let key = correction.key.as_ref();
        if let Some(key) = key.filter(|_| !planted(Defect::CorrectionKeyIgnored)) {
            let row = correction_key::ActiveModel {
                account_id: Set(correction.account_id.clone()),
                key: Set(key.clone()),
                report_id: Set(report.id),
                stated_at: Set(correction.stated_at),
                created_at: Set(now),
            };
            correction_key::Entity::insert(row)
                .exec_without_returning(&tx)
                .await?;
        }
        if is_dry_run {
            tx.rollback().await?;
        } else {
            tx.commit().await?;
            totals = Vec::new();
        }
        Ok(Entered {
            report,
            is_duplicate: false,
            totals,
        })
    }

    /// Serializes corrections of an account. On SQLite, the single writer does.
    pub(super) async fn lock_corrections(
        &self,
        tx: &Transaction,
        account_id: &AccountId,
    ) -> std::result::Result<(), DbErr> {
        use sea_orm::ConnectionTrait as _;
        if self.backend() != DbBackend::Postgres {
            return Ok(());
        }
        let sql = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
        let name = format!("{CORRECTION_LOCK}{account_id}");
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [name.into()]);
        tx.execute_raw(statement).await.map(|_| ())
    }
}

/// The correction that the key entered before, or a violation if that one has different content.
async fn find_entered(
    tx: &Transaction,
    correction: &Correction,
) -> std::result::Result<Option<Result<Report>>, DbErr> {
    let key = correction.key.as_ref();
    let Some(key) = key.filter(|_| !planted(Defect::CorrectionKeyIgnored)) else {
        return Ok(None);
    };
    let id = (correction.account_id.clone(), key.clone());
    let Some(known) = correction_key::Entity::find_by_id(id).one(tx).await? else {
        return Ok(None);
    };
    let id = (correction.account_id.clone(), known.report_id);
    let report = usage_report::Entity::find_by_id(id)
        .one(tx)
        .await?
        .ok_or_else(|| DbErr::RecordNotFound("the correction of a stored key".to_owned()))?;
    let entered = CorrectionContent {
        meter: &report.meter,
        quantity: report.quantity,
        reason: report.note.as_deref().unwrap_or_default(),
        stated_at: known.stated_at,
    };
    let asked = CorrectionContent {
        meter: &correction.meter,
        quantity: correction.quantity,
        reason: &correction.reason,
        stated_at: correction.stated_at,
    };
    Ok(Some(match entered.differs_from(&asked, key) {
        Some(violation) => Err(violation.into()),
        None => Ok(report.into()),
    }))
}

/// Rejects a change that would make a billing period's total negative.
pub(super) async fn check_stays_above(
    tx: &Transaction,
    change: &Change<'_>,
    links: &[Link],
    target: &BillingTarget,
) -> Result<()> {
    check_totals(change, &read_totals(tx, change, links, target).await?)
}

/// The periods that a change is in, with their totals without it.
async fn read_totals(
    tx: &Transaction,
    change: &Change<'_>,
    links: &[Link],
    target: &BillingTarget,
) -> Result<Vec<(Interval, i64)>> {
    let is_billed = matches!(target, BillingTarget::Billed(_));
    let mut periods = Vec::new();
    if is_billed {
        let around = read_periods_around(tx, change.account_id, change.at).await?;
        periods = periods_of_meter(&around, change.meter, change.at);
    }
    if periods.is_empty() {
        periods.push(time_without_periods(links, is_billed, change.at));
    }
    let mut totals = Vec::new();
    for period in periods {
        totals.push((period, sum_period(tx, change, target, period).await?));
    }
    Ok(totals)
}

/// None of the totals may become negative.
fn check_totals(change: &Change<'_>, totals: &[(Interval, i64)]) -> Result<()> {
    for (period, current) in totals {
        if current.saturating_add(change.quantity) < 0 {
            return Err(Error::BelowZero {
                quantity: change.quantity,
                current: *current,
                period: *period,
            });
        }
    }
    Ok(())
}

/// The total of an account and meter in a period, as it will be billed.
async fn sum_period(
    tx: &Transaction,
    change: &Change<'_>,
    target: &BillingTarget,
    period: Interval,
) -> std::result::Result<i64, DbErr> {
    let prefilter = passes_prefilter(change.account_id, UsagePrefilter::of(period))
        .add(any_report::Column::Meter.eq(change.meter));
    let mut figures = read_any_figures(tx, prefilter).await?;
    figures.retain(|figure| Some(figure.id) != change.except);
    Ok(total_to_bill(&figures, target, period))
}

async fn insert(
    tx: &Transaction,
    correction: &Correction,
    target: &BillingTarget,
    slots: Slots,
    now: Millis,
) -> Result<Report> {
    let account = &correction.account_id;
    let boundaries = read_boundaries(
        tx,
        std::slice::from_ref(account),
        Ord::min(now, correction.at),
    )
    .await?;
    let window = boundaries.first().map_or_else(
        || slots.around(correction.at),
        |(_, own)| own.window_around(slots, correction.at),
    );
    let state = State::Open
        .after(&Transition::Close(target.clone()))
        .ok_or_else(|| Error::Internal("a new correction cannot be closed".into()))?;
    let row = usage_report::ActiveModel {
        account_id: Set(correction.account_id.clone()),
        id: Set(Uuid::now_v7()),
        meter: Set(correction.meter.to_string()),
        window_start: Set(window.start),
        window_end: Set(window.end),
        period_end: Set(Some(window.end)),
        closed_at: Set(Some(now)),
        quantity: Set(if planted(Defect::CorrectionSignLost) {
            correction.quantity.saturating_abs()
        } else {
            correction.quantity
        }),
        first_at: Set(correction.at),
        last_at: Set(correction.at),
        state: Set(state.into()),
        straddled: Set(false),
        generation: Set(0),
        customer: Set(target.customer().map(str::to_owned)),
        attempts: Set(0),
        // A correction in a future window is not sent before the window begins.
        next_attempt_at: Set((window.start > now).then_some(window.start)),
        kind: Set(UsageReportKind::Correction),
        note: Set(Some(correction.reason.clone())),
        entered_by: Set(Some(correction.requested_by.clone())),
        ..Default::default()
    };
    let report = usage_report::Entity::insert(row)
        .exec_with_returning(tx)
        .await?;
    Ok(report.into())
}
