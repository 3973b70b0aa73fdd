//! Conditions on the states of reports, and on whether they wait to be sent.

use sea_orm::sea_query::{Expr, ExprTrait as _};

use crate::domain::report::State;

/// Whether a report is in one of some states, for a query in SQL. The states are literals: both engines use a partial
/// index only for a condition without bound values.
pub(super) fn state_in(states: &[State]) -> String {
    let texts: Vec<String> = states
        .iter()
        .map(|state| format!("'{}'", state.name()))
        .collect();
    format!("state IN ({})", texts.join(", "))
}

/// Whether a report is in one of some states. It must equal the expression of the index, or the index is not used.
pub(super) fn is_in_state(states: &[State]) -> Expr {
    let texts = states.iter().map(|state| state.name());
    Expr::cust("state || ''").is_in(texts)
}

/// Whether the sender has to send or check a report, now or later.
pub(super) fn is_due() -> Expr {
    Expr::cust(state_in(&State::DUE))
}

/// The `next_attempt_at` of a report that does not wait. An index of these alone is in the order of streams: the sender
/// reads none that wait.
pub(super) fn at_once() -> Expr {
    Expr::value(None::<i64>)
}
