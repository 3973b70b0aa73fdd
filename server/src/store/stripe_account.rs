//! Queries of the Stripe account that usage is reported to: remembering it, the marks at Stripe, and another account.

use sea_orm::{
    ColumnTrait as _, Condition, EntityTrait as _, FromQueryResult, QueryFilter as _, Statement,
    sea_query::{Expr, ExprTrait as _, Func},
};
use uuid::Uuid;

use super::{
    Store,
    report_states::state_in,
    sending_state::{Sending, end_pause},
};
use crate::{
    domain::{
        Millis,
        report::State,
        sender_mark::{Mark, OwnMarks},
        stripe_account::StripeAccount,
    },
    entity::{
        sending::{self, Column},
        usage_report::{self, UsageReportState},
    },
    error::Result,
};

/// What was counted of one account and meter, by what becomes of it when another Stripe account is adopted.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromQueryResult)]
pub(crate) struct AdoptionTotals {
    /// The account.
    pub(crate) account_id: String,
    /// The meter.
    pub(crate) meter: String,
    /// Units in the former account's totals.
    pub(crate) confirmed: i64,
    /// Units that the former account accepted or may have, without a proof.
    pub(crate) unconfirmed: i64,
    /// Reports of them.
    pub(crate) unconfirmed_reports: i64,
    /// Units that no account has: the new one gets them.
    pub(crate) unsent: i64,
    /// Units that wait for a decision and did not arrive.
    pub(crate) undecided: i64,
}

impl Store {
    /// Remembers the Stripe account of the first report, unless one is remembered. Returns the remembered one.
    pub(crate) async fn remember_account(
        &self,
        account: &StripeAccount,
    ) -> Result<Option<StripeAccount>> {
        set_account(account)
            .filter(Column::StripeMeter.is_null())
            .exec(&self.writer)
            .await?;
        Ok(self.sending().await?.account)
    }

    /// Begins to write the next mark, or goes on with one that was begun. Returns what the database knows.
    pub(crate) async fn begin_mark(&self) -> Result<OwnMarks> {
        let nonce = Uuid::new_v4().simple().to_string();
        sending::Entity::update_many()
            .col_expr(Column::NextNonce, Expr::value(nonce))
            .filter(Column::Id.eq(1))
            .filter(Column::NextNonce.is_null())
            .exec(&self.writer)
            .await?;
        Ok(self.sending().await?.marks)
    }

    /// Records that a mark is at Stripe since a time. Changes nothing if another replica has recorded it.
    pub(crate) async fn finish_mark(&self, mark: &Mark, at: Millis) -> Result<()> {
        set_mark(mark)
            .col_expr(Column::MarkBeforeAt, Expr::col(Column::MarkAt))
            .col_expr(Column::MarkAt, Expr::value(at))
            .filter(Column::NextNonce.eq(&mark.nonce))
            .filter(Column::Mark.lt(mark.number))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Takes over a mark that another copy of the database left at Stripe. What was sent until then is compared.
    pub(crate) async fn take_over_mark(&self, mark: &Mark, restored_at: Millis) -> Result<()> {
        set_mark(mark)
            .col_expr(Column::MarkBeforeAt, Expr::value(restored_at))
            .col_expr(Column::MarkAt, Expr::value(restored_at))
            .filter(Column::Mark.lte(mark.number))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// What becomes of the usage of each account and meter when another Stripe account is adopted.
    pub(crate) async fn adoption_totals(&self, limit: u64) -> Result<Vec<AdoptionTotals>> {
        let sending = state_in(&[State::Sending]);
        let confirmed = state_in(&State::IN_TOTALS);
        // They arrived at Stripe or may have, and its totals were not seen to include them.
        let may_have_arrived = format!(
            "{} OR ({sending} AND first_sent_at IS NOT NULL)",
            state_in(&[State::Accepted, State::Missing, State::Unknown])
        );
        let unsent = format!(
            "{} OR ({sending} AND first_sent_at IS NULL)",
            state_in(&[State::Open, State::Closed, State::NoCustomer])
        );
        let undecided = state_in(&[State::Rejected, State::CustomerDeleted, State::TooLate]);
        let sums = [
            (confirmed, "quantity", "confirmed"),
            (may_have_arrived.clone(), "quantity", "unconfirmed"),
            (may_have_arrived, "1", "unconfirmed_reports"),
            (unsent, "quantity", "unsent"),
            (undecided, "quantity", "undecided"),
        ]
        .map(|(condition, value, name)| {
            format!(
                "CAST(COALESCE(SUM(CASE WHEN {condition} THEN {value} END), 0) AS bigint) AS {name}"
            )
        })
        .join(", ");
        let sql = format!(
            "SELECT account_id, meter, {sums} FROM all_reports \
             WHERE COALESCE(reported_at, first_sent_at, $1) >= $1 \
             GROUP BY account_id, meter ORDER BY account_id, meter LIMIT $2"
        );
        let since = self.sending().await?.adopted_at.unwrap_or(0);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let statement =
            Statement::from_sql_and_values(self.backend(), sql, [since.into(), limit.into()]);
        Ok(AdoptionTotals::find_by_statement(statement)
            .all(&self.reader)
            .await?)
    }

    /// From now on usage is reported to another account, and a pause ends: the new account has nothing of this database.
    /// Reports that the former one may have are never sent again.
    pub(crate) async fn adopt_account(
        &self,
        account: &StripeAccount,
        why: &str,
        now: Millis,
    ) -> Result<()> {
        use usage_report::Column as R;
        let before = self.sending().await?.adopted_at;
        let adopted_at = now.saturating_add(1);
        let tx = self.begin().await?;
        usage_report::Entity::update_many()
            .col_expr(
                R::State,
                Expr::value(UsageReportState::from(State::Unknown)),
            )
            .filter(R::State.eq(UsageReportState::from(State::Sending)))
            .filter(R::FirstSentAt.is_not_null())
            .exec(&tx)
            .await?;
        let first_sent = Func::coalesce([Expr::col(R::FirstSentAt), Expr::value(now)]);
        usage_report::Entity::update_many()
            .col_expr(R::FirstSentAt, first_sent.into())
            .col_expr(R::LastError, Expr::value(why))
            .filter(R::State.is_in([State::Unknown, State::Missing].map(UsageReportState::from)))
            .filter(sent_since(before))
            .exec(&tx)
            .await?;
        set_account(account)
            .col_expr(Column::AdoptedAt, Expr::value(adopted_at))
            .exec(&tx)
            .await?;
        end_pause(&tx).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Reports that did not go to a Stripe account from before the adoption of the present one.
pub(super) fn sent_since(adopted_at: Option<Millis>) -> Condition {
    use usage_report::Column as R;
    let Some(adopted_at) = adopted_at else {
        return Condition::all();
    };
    let sent = Func::coalesce([
        Expr::col(R::ReportedAt),
        Expr::col(R::FirstSentAt),
        Expr::value(adopted_at),
    ]);
    Condition::all().add(Expr::expr(sent).gte(adopted_at))
}

impl Sending {
    /// Whether a report went to a Stripe account from before the adoption of the present one.
    pub(crate) fn is_of_former_account(
        &self,
        (reported_at, first_sent_at): (Option<Millis>, Option<Millis>),
    ) -> bool {
        let sent = reported_at.or(first_sent_at);
        matches!((sent, self.adopted_at), (Some(sent), Some(adopted)) if sent < adopted)
    }
}

fn set_account(account: &StripeAccount) -> sea_orm::UpdateMany<sending::Entity> {
    sending::Entity::update_many()
        .col_expr(Column::StripeMeter, Expr::value(account.meter.as_str()))
        .col_expr(Column::StripeAccount, Expr::value(account.account.clone()))
        .col_expr(Column::StripeIsLive, Expr::value(account.is_live))
        .filter(Column::Id.eq(1))
}

fn set_mark(mark: &Mark) -> sea_orm::UpdateMany<sending::Entity> {
    sending::Entity::update_many()
        .col_expr(Column::Mark, Expr::value(mark.number))
        .col_expr(Column::MarkNonce, Expr::value(mark.nonce.as_str()))
        .col_expr(Column::NextNonce, Expr::value(None::<String>))
        .filter(Column::Id.eq(1))
}
