//! Backups of a world's database, put in place again after more was counted and sent.

use std::{io::BufRead, path::PathBuf};

use chrono::{DateTime, Utc};
use sea_orm::DatabaseConnection;
use tokio::sync::OnceCell;
use usage_server::commands::{
    adopt::{self, AdoptCommand},
    offline::OfflineError,
    restore::{self, RestoreCommand},
};

use super::{Engine, World, within};
use crate::support::postgres::{self, Template};

/// A copy of the database.
pub(crate) enum Backup {
    Sqlite(PathBuf),
    Postgres(Template),
}

impl World {
    /// Makes a backup, and goes on with the database.
    pub(crate) async fn back_up(&mut self) -> Backup {
        self.stop().await;
        let backup = self.copy_database().await;
        self.start_server().await;
        backup
    }

    /// Copies the database of a stopped server.
    pub(crate) async fn copy_database(&mut self) -> Backup {
        self.disconnect().await;
        match self.engine {
            Engine::Sqlite => {
                let copy = self.sqlite_file().with_extension("backup");
                std::fs::copy(self.sqlite_file(), &copy).expect("a copy");
                Backup::Sqlite(copy)
            }
            Engine::Postgres => {
                let cluster = postgres::cluster().expect("PostgreSQL");
                let template = cluster.create_template(&self.database_url);
                let template = template.expect("a template");
                self.use_database(cluster.create_database_from(&template).expect("a copy"));
                Backup::Postgres(template)
            }
        }
    }

    /// Stops the server, and puts a backup in place of its database.
    pub(crate) async fn put_back(&mut self, backup: &Backup) {
        self.stop().await;
        self.disconnect().await;
        self.use_database(Self::database_from(backup));
    }

    /// A new database with the contents of a backup. Returns its URL.
    pub(crate) fn database_from(backup: &Backup) -> String {
        match backup {
            Backup::Sqlite(file) => {
                let restored = file.with_extension("restored");
                std::fs::copy(file, &restored).expect("a copy");
                format!("sqlite://{}", restored.display())
            }
            Backup::Postgres(template) => {
                let cluster = postgres::cluster().expect("PostgreSQL");
                cluster.create_database_from(template).expect("a copy")
            }
        }
    }

    /// An empty database beside that of the world. Returns its URL.
    pub(crate) fn empty_database(&self) -> String {
        match self.engine {
            Engine::Sqlite => {
                let file = self.sqlite_file().with_extension("other");
                format!("sqlite://{}", file.display())
            }
            Engine::Postgres => {
                let cluster = postgres::cluster().expect("PostgreSQL");
                cluster.create_database().expect("a database")
            }
        }
    }

    /// Runs `usage-server adopt-stripe-account`. Returns whether the account was adopted, and what it printed.
    pub(crate) async fn adopt(&self, yes: bool) -> (bool, String) {
        let (adopted, printed) = self.try_adopt(yes).await;
        (adopted.expect("an adoption"), printed)
    }

    pub(crate) async fn try_adopt(&self, yes: bool) -> (Result<bool, OfflineError>, String) {
        let command = AdoptCommand {
            config: self.config().into(),
            yes,
            dry_run: false,
        };
        let mut printed = Vec::new();
        let adopted = adopt::run(&command, &self.clock, &mut printed, None);
        let adopted = within("an adoption", adopted).await;
        (adopted, String::from_utf8(printed).expect("text"))
    }

    /// Runs `usage-server restore`, with the time of the backup. Returns whether reports are sent again, and what it printed.
    pub(crate) async fn restore(
        &self,
        backup_at: Option<DateTime<Utc>>,
        (yes, dry_run): (bool, bool),
    ) -> (bool, String) {
        let mut printed = Vec::new();
        let stated = backup_at.map(|at| at.timestamp_millis());
        let done = self.try_restore(yes, dry_run, stated, &mut printed).await;
        let printed = String::from_utf8(printed).expect("text");
        (done.expect("a restore"), printed)
    }

    pub(crate) async fn try_restore(
        &self,
        yes: bool,
        dry_run: bool,
        backup_at: Option<i64>,
        printed: &mut Vec<u8>,
    ) -> Result<bool, OfflineError> {
        let command = RestoreCommand {
            config: self.config().into(),
            backup_at,
            bill_from: None,
            from: None,
            yes,
            dry_run,
        };
        within(
            "a restore",
            restore::run(&command, &self.clock, printed, None),
        )
        .await
    }

    /// Runs the command with the moment from which the service bills. Without `answers` it does not ask.
    pub(crate) async fn restore_with_moment(
        &self,
        backup_at: DateTime<Utc>,
        moment: DateTime<Utc>,
        answers: Option<&str>,
    ) -> (Result<bool, OfflineError>, String) {
        let command = RestoreCommand {
            config: self.config().into(),
            backup_at: Some(backup_at.timestamp_millis()),
            bill_from: Some(moment.timestamp_millis()),
            from: None,
            yes: answers.is_none(),
            dry_run: false,
        };
        let mut printed = Vec::new();
        let mut answers = answers.map(str::as_bytes);
        let answers = answers
            .as_mut()
            .map(|read| read as &mut (dyn BufRead + Send));
        let done = restore::run(&command, &self.clock, &mut printed, answers);
        let done = within("a restore", done).await;
        (done, String::from_utf8(printed).expect("text"))
    }

    async fn disconnect(&mut self) {
        let database: Option<DatabaseConnection> =
            std::mem::replace(&mut self.database, OnceCell::new()).into_inner();
        if let Some(database) = database {
            database.close().await.expect("a clean end");
        }
    }
}
