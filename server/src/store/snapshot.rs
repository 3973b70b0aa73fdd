//! Several reads of one state of the database, for answers whose parts have to agree.

use super::{Store, connection::Transaction};
use crate::error::Result;

/// Reads of one state of the database. It takes a connection until it is dropped.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(super) tx: Transaction,
}

impl Store {
    /// The present state: nothing that is committed later is seen in it.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot> {
        let tx = self.begin_reading().await?;
        Ok(Snapshot { tx })
    }
}

impl Snapshot {
    /// Gives the connection back.
    pub(crate) async fn end(self) -> Result<()> {
        Ok(self.tx.rollback().await?)
    }
}
