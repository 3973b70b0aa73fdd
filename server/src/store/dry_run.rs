//! The dry run of a batch: the outcome that each item would have now. Nothing is stored.

use uuid::Uuid;

use super::{
    Store,
    dedupe::Dedupe,
    deleted_accounts::{find_deleted, read_salts},
    group::{Entry, EntryOutcome, Group},
};
use crate::{
    domain::{
        account_deletion::is_token,
        increment::{Batch, Outcome},
    },
    error::{Error, Result},
};

impl Store {
    /// The outcome of each item, if the batch were counted now. The batch's own key is not looked up.
    pub(crate) async fn dry_run(&self, batch: Batch) -> Result<Vec<Outcome>> {
        let group = Group {
            id: Uuid::nil(),
            entries: vec![Entry::Batch(Batch { key: None, ..batch })],
        };
        let mut dedupe = Dedupe::new(&group);
        let counted = dedupe.counted();
        let accounts = counted.iter().map(|increment| &increment.account_id);
        let salts = read_salts(&self.reader).await?;
        let deleted = find_deleted(&self.reader, &salts, accounts).await?;
        dedupe.refuse(|account| is_token(account) || deleted.contains(account));
        dedupe.look_up_keys(&self.reader).await?;
        match dedupe.outcomes().pop() {
            Some(EntryOutcome::Batch { items, .. }) => Ok(items),
            _ => Err(Error::Internal("a dry run returned no outcomes".into())),
        }
    }
}
