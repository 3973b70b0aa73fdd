//! Which reports a list has.

use sea_orm::{
    ColumnTrait as _, QueryFilter as _, Select,
    sea_query::{Expr, ExprTrait as _, Query, SelectStatement},
};
use uuid::Uuid;

use super::unindexed;
use crate::{
    domain::{
        DAY_MS, Millis,
        account_id::AccountId,
        report::{Kind, State},
        window::Interval,
    },
    entity::{open_report, report_decision, usage_report},
};

/// Which reports to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportFilter {
    /// Only reports of this account.
    pub(crate) account_id: Option<AccountId>,
    /// Only reports in these states; empty means any.
    pub(crate) states: Vec<State>,
    /// Only reports that this run closed.
    pub(crate) run_id: Option<Uuid>,
    /// Only reports of this kind.
    pub(crate) kind: Option<Kind>,
    /// Only reports of this meter.
    pub(crate) meter: Option<String>,
    /// Only reports that are billed to this customer; open ones have none.
    pub(crate) customer: Option<String>,
    /// Only reports whose window begins at this time or later.
    pub(crate) from: Option<Millis>,
    /// Only reports whose window begins before this time.
    pub(crate) until: Option<Millis>,
    /// Only reports of the account on which an admin decided in this time.
    pub(crate) decided: Option<Interval>,
}

impl ReportFilter {
    /// Whether open reports may match.
    pub(super) fn includes_open(&self) -> bool {
        (self.states.is_empty() || self.states.contains(&State::Open))
            && self.run_id.is_none()
            && self.customer.is_none()
            && self.decided.is_none()
            && self.kind.is_none_or(|kind| kind == Kind::Usage)
    }

    /// Whether no index of all accounts' reports finds those that match.
    pub(super) fn is_sparse(&self) -> bool {
        self.meter.is_some() || self.from.is_some() || self.until.is_some()
    }

    /// Whether an open report matches.
    pub(super) fn matches_open(&self, row: &open_report::Model) -> bool {
        self.meter.as_ref().is_none_or(|meter| *meter == row.meter)
            && self.from.is_none_or(|from| row.window_start >= from)
            && self.until.is_none_or(|until| row.window_start < until)
    }

    /// Whether older reports than one that was closed at a time cannot match: a report is closed after its window has begun.
    pub(super) fn is_past(&self, closed_at: Millis) -> bool {
        self.from
            .is_some_and(|from| closed_at < from.saturating_sub(DAY_MS))
    }

    /// Whether a report of these windows may match.
    pub(crate) fn reaches(&self, windows: Interval) -> bool {
        self.from.is_none_or(|from| windows.end > from)
            && self.until.is_none_or(|until| windows.start < until)
    }

    /// The states of folded reports that match, none meaning any; `None` if no folded report can.
    pub(crate) fn folded_states(&self) -> Option<Vec<State>> {
        let has_place = self.run_id.is_none() && self.customer.is_none() && self.decided.is_none();
        let is_folded = has_place && self.kind.is_none_or(|kind| kind == Kind::Usage);
        self.closed_states().filter(|_| is_folded)
    }

    /// The states of closed reports that match, none meaning any; `None` if no closed report can.
    pub(super) fn closed_states(&self) -> Option<Vec<State>> {
        let closed = self.states.iter().copied();
        let closed: Vec<State> = closed.filter(|state| *state != State::Open).collect();
        (self.states.is_empty() || !closed.is_empty()).then_some(closed)
    }

    /// Narrows a query of closed reports to all but accounts and states.
    pub(super) fn narrow(
        &self,
        query: Select<usage_report::Entity>,
    ) -> Select<usage_report::Entity> {
        use usage_report::Column;
        let query = match self.run_id {
            Some(run) => query.filter(Column::RunId.eq(run)),
            None => query,
        };
        let mut query = match self.kind {
            Some(kind) => query.filter(is_of_kind(kind)),
            None => query,
        };
        if let Some(meter) = &self.meter {
            query = query.filter(Column::Meter.eq(meter));
        }
        if let Some(customer) = &self.customer {
            query = query.filter(Column::Customer.eq(customer));
        }
        if let Some(from) = self.from {
            query = query.filter(unindexed(Column::WindowStart).gte(from));
        }
        if let Some(until) = self.until {
            query = query.filter(unindexed(Column::WindowStart).lt(until));
        }
        if let (Some(account), Some(decided)) = (&self.account_id, self.decided) {
            query = query.filter(Column::Id.in_subquery(decided_reports(account, decided)));
        }
        query
    }
}

/// The reports of an account on which an admin decided in some time. It has few decisions.
fn decided_reports(account: &AccountId, decided: Interval) -> SelectStatement {
    use report_decision::Column;
    Query::select()
        .column(Column::ReportId)
        .from(report_decision::Entity)
        .and_where(Column::AccountId.eq(account))
        .and_where(unindexed(Column::DecidedAt).gte(decided.start))
        .and_where(unindexed(Column::DecidedAt).lt(decided.end))
        .to_owned()
}

/// Whether a report is of a kind. The kind is a literal: both engines use a partial index only for a condition
/// without bound values, and that of the few reports of other kinds than usage only for its own condition.
fn is_of_kind(kind: Kind) -> Expr {
    let text = kind.name();
    Expr::cust(match kind {
        Kind::Usage => format!("kind = '{text}'"),
        Kind::Correction | Kind::AlreadySent => format!("kind <> 'usage' AND kind = '{text}'"),
    })
}
