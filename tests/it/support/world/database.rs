//! The database of each test: a copy of one that was migrated once in this process, because migrating takes longer than
//! most tests.

use std::path::Path;

use tokio::sync::OnceCell;
use usage_server::store::Store;

use super::Engine;
use crate::support::postgres::{self, Template};

/// A database that is removed when it is dropped: those of all tests together would fill many a disk. The file of SQLite
/// is removed with its folder.
pub(super) struct Removed {
    engine: Engine,
    url: String,
}

impl Removed {
    pub(super) fn new(engine: Engine, url: &str) -> Self {
        Self {
            engine,
            url: url.to_owned(),
        }
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        if self.engine == Engine::Postgres {
            let cluster = postgres::cluster().map_err(std::io::Error::other);
            if let Err(error) = cluster.and_then(|cluster| cluster.drop_database(&self.url)) {
                eprintln!("{} is not removed: {error}", self.url);
            }
        }
    }
}

/// Creates a database with the schema of today. Returns its URL.
pub(super) async fn create(engine: Engine, folder: &Path) -> String {
    match engine {
        Engine::Sqlite => {
            static MIGRATED: OnceCell<Vec<u8>> = OnceCell::const_new();
            let contents = MIGRATED.get_or_init(migrated_file).await;
            let file = folder.join("usage.db");
            std::fs::write(&file, contents).expect("a database");
            sqlite_url(&file)
        }
        Engine::Postgres => {
            static MIGRATED: OnceCell<Template> = OnceCell::const_new();
            let template = MIGRATED.get_or_init(migrated_template).await;
            let cluster = postgres::cluster().expect("PostgreSQL");
            cluster.create_database_from(template).expect("a database")
        }
    }
}

async fn migrated_file() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("usage.db");
    migrate(&sqlite_url(&file)).await;
    std::fs::read(&file).expect("the database")
}

async fn migrated_template() -> Template {
    let cluster = postgres::cluster().expect("PostgreSQL");
    let url = cluster.create_database().expect("a database");
    migrate(&url).await;
    if cluster.is_distributed() {
        distribute(&url).await;
    }
    cluster.create_template(&url).expect("a template")
}

async fn migrate(url: &str) {
    let store = Store::open(url, 1).await.expect("the database");
    store.migrate().await.expect("the schema");
    store.close().await.expect("a clean end");
}

async fn distribute(url: &str) {
    let store = Store::open(url, 1).await.expect("the database");
    let distributed = store.distribute(None).await;
    distributed.expect("a distributed database");
    store.close().await.expect("a clean end");
}

fn sqlite_url(file: &Path) -> String {
    format!("sqlite://{}", file.display())
}
