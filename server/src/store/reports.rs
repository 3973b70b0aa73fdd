//! Which reports a scope has, and the links of the accounts of some reports.

use std::collections::HashMap;

use sea_orm::{ColumnTrait as _, EntityTrait, QueryFilter as _, Select};

use super::{Store, links::read_links};
use crate::{
    domain::{account::Link, account_id::AccountId, report::Report, run::Scope},
    error::Result,
};

impl Store {
    /// The links of the accounts of some reports, oldest first for each account.
    pub(crate) async fn links_of(
        &self,
        reports: &[Report],
    ) -> Result<HashMap<AccountId, Vec<Link>>> {
        let accounts = reports.iter().map(|report| &report.account_id);
        Ok(read_links(&self.reader, accounts).await?)
    }
}

/// Narrows a query to the accounts of a scope.
pub(super) fn in_scope<E: EntityTrait>(
    scope: &Scope,
    query: Select<E>,
    account: E::Column,
) -> Select<E> {
    match scope {
        Scope::All => query,
        Scope::Accounts(accounts) => query.filter(account.is_in(accounts)),
    }
}
