//! Adds the decisions of admins to the sums of a sign-off: those that are stored one by one, and those that folded reports keep.

use std::collections::{BTreeMap, HashMap};

use sea_orm::{
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _},
};
use uuid::Uuid;

use super::Range;
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        decision::Decided,
        sign_off::{AccountRows, RowKey, utc_month},
        window::Interval,
    },
    entity::{
        folded_report,
        report_decision::{self, Column as D},
        usage_report,
    },
    store::connection::Transaction,
};

/// How many decisions are read at once, and how many reports are looked up by their ids.
const DECISIONS_READ: u64 = 500;

/// Of a folded report: its account, customer, meter, window and decisions.
type FoldedDecisions = (AccountId, Option<String>, String, Millis, Option<String>);

/// Adds the decisions on folded reports of these accounts. Those in `report_decisions` may be archived since.
pub(super) async fn add_folded_decisions(
    tx: &Transaction,
    ids: &[AccountId],
    windows: Interval,
    accounts: &mut BTreeMap<AccountId, AccountRows>,
) -> Result<(), DbErr> {
    use folded_report::Column as F;
    let found: Vec<FoldedDecisions> = folded_report::Entity::find()
        .select_only()
        .column(F::AccountId)
        .columns([F::Customer, F::Meter, F::WindowStart, F::Decisions])
        .filter(F::AccountId.is_in(ids))
        .filter(F::WindowStart.gte(windows.start))
        .filter(F::WindowStart.lt(windows.end))
        .filter(F::Decisions.is_not_null())
        .into_tuple()
        .all(tx)
        .await?;
    for (account_id, customer, meter, window_start, stored) in found {
        let key = (customer, meter, utc_month(window_start).start);
        let rows = accounts.entry(account_id).or_default();
        let row = rows.entry(key).or_default();
        for decided in Decided::parse(stored.as_deref()) {
            row.decide(decided);
        }
    }
    Ok(())
}

/// Adds the decisions on reports that are not folded.
pub(super) async fn add_decisions(
    tx: &Transaction,
    accounts: &mut BTreeMap<AccountId, AccountRows>,
    range: &Range,
    windows: Interval,
) -> Result<(), DbErr> {
    let mut place = (range.from.clone(), None::<Uuid>);
    loop {
        let mut query = report_decision::Entity::find()
            .filter(D::AccountId.gte(place.0.as_str()))
            .filter(D::AccountId.lte(range.to.as_str()));
        if let Some(id) = place.1 {
            let key = Expr::tuple([Expr::col(D::AccountId), Expr::col(D::Id)]);
            query = query.filter(key.gt(Expr::tuple([
                Expr::value(place.0.as_str()),
                Expr::value(id),
            ])));
        }
        let page = query
            .order_by_asc(D::AccountId)
            .order_by_asc(D::Id)
            .limit(DECISIONS_READ)
            .all(tx)
            .await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        place = (last.account_id.to_string(), Some(last.id));
        for own in page.chunk_by(|one, other| one.account_id == other.account_id) {
            let Some(rows) = own
                .first()
                .and_then(|first| accounts.get_mut(&first.account_id))
            else {
                continue;
            };
            add_decisions_of(tx, own, windows, rows).await?;
        }
    }
}

/// Adds decisions of one account.
async fn add_decisions_of(
    tx: &Transaction,
    decisions: &[report_decision::Model],
    windows: Interval,
    rows: &mut AccountRows,
) -> Result<(), DbErr> {
    use usage_report::Column as R;
    let Some(first) = decisions.first() else {
        return Ok(());
    };
    let found: Vec<(Uuid, Option<String>, String, Millis)> = usage_report::Entity::find()
        .select_only()
        .columns([R::Id, R::Customer, R::Meter, R::WindowStart])
        .filter(R::AccountId.eq(&first.account_id))
        .filter(R::Id.is_in(decisions.iter().map(|one| one.report_id)))
        .into_tuple()
        .all(tx)
        .await?;
    let reports: HashMap<Uuid, RowKey> = found
        .into_iter()
        .filter(|(.., window_start)| windows.contains(*window_start))
        .map(|(id, customer, meter, at)| (id, (customer, meter, utc_month(at).start)))
        .collect();
    for decision in decisions {
        let row = reports
            .get(&decision.report_id)
            .and_then(|key| rows.get_mut(key));
        if let Some(row) = row {
            row.decide(Decided {
                at: decision.decided_at,
                action: decision.action.into(),
            });
        }
    }
    Ok(())
}
