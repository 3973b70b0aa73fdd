//! Copies of a SQLite database that is in use.

use std::path::Path;

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, RuntimeErr, Statement};

use super::Store;
use crate::error::Result;

impl Store {
    /// Copies a SQLite database, as it is at one moment, into an empty file. Others may write meanwhile.
    pub(crate) async fn copy_into(&self, file: &Path) -> Result<()> {
        let name = file.to_str().map(str::to_owned);
        let name =
            name.ok_or_else(|| failed(format!("{}: its name is not text", file.display())))?;
        let copy =
            Statement::from_sql_and_values(DbBackend::Sqlite, "VACUUM INTO ?", [name.into()]);
        self.writer.plain().execute_raw(copy).await?;
        Ok(())
    }

    /// Reads every page and index of a SQLite file.
    pub(crate) async fn check_integrity(&self) -> Result<()> {
        let check = Statement::from_string(DbBackend::Sqlite, "PRAGMA integrity_check(1)");
        let found = self.reader.query_one_raw(check).await?;
        let found = found.ok_or_else(|| failed("no result of the integrity check".to_owned()))?;
        let found: String = found.try_get("", "integrity_check")?;
        if found == "ok" {
            return Ok(());
        }
        Err(failed(format!("the copy is damaged: {found}")).into())
    }
}

fn failed(why: String) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(why))
}
