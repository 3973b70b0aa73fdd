//! Settings of Citus that the service needs, at the coordinator and at the workers.

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement};

use super::Store;

/// What to run at each worker: the settings in the order of [`Worker`]. Times are in milliseconds.
const OF_WORKER: &str = "SELECT concat_ws('|', \
    (SELECT setting FROM pg_settings WHERE name = 'max_prepared_transactions'), \
    (SELECT setting FROM pg_settings WHERE name = 'lock_timeout'), \
    (SELECT setting FROM pg_settings WHERE name = 'fsync'), \
    (SELECT setting FROM pg_settings WHERE name = 'full_page_writes'))";

/// A worker and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Worker {
    name: String,
    max_prepared: i64,
    lock_timeout_ms: i64,
    fsync: String,
    full_page_writes: String,
}

/// What is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    shards: i64,
    nodes: i64,
    undistributed: Vec<String>,
    executor_pool: String,
    workers: Vec<Result<Worker, String>>,
}

impl Store {
    /// What is wrong with the tables and settings of a distributed database, for a server with so many connections. Nothing
    /// in any other database.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn citus_faults(&self, connections: u32) -> Result<Vec<String>, DbErr> {
        let Some(citus) = self.citus().await?.filter(|citus| citus.shards > 0) else {
            return Ok(Vec::new());
        };
        let pool = "SELECT current_setting('citus.max_adaptive_executor_pool_size') AS size";
        let pool = Statement::from_string(DbBackend::Postgres, pool);
        let pool = self.reader.query_one_raw(pool).await?;
        let settings = Settings {
            shards: i64::try_from(citus.shards).unwrap_or(i64::MAX),
            nodes: citus.nodes,
            undistributed: citus.undistributed,
            executor_pool: pool.map_or(Ok(String::new()), |row| row.try_get("", "size"))?,
            workers: self.read_workers().await?,
        };
        Ok(faults(&settings, connections))
    }

    /// Settings of workers that make commits vulnerable to a power cut.
    pub(super) async fn insecure_workers(&self) -> Result<Vec<String>, DbErr> {
        if !self.is_distributed() {
            return Ok(Vec::new());
        }
        let workers = self.read_workers().await?;
        let off = workers.into_iter().flatten().flat_map(|worker| {
            let settings = [
                ("fsync", worker.fsync),
                ("full_page_writes", worker.full_page_writes),
            ];
            let off = settings.into_iter().filter(|(_, setting)| setting == "off");
            let named = off.map(move |(name, _)| format!("{name} of {}", worker.name));
            named.collect::<Vec<_>>()
        });
        Ok(off.collect())
    }

    async fn read_workers(&self) -> Result<Vec<Result<Worker, String>>, DbErr> {
        let sql = "SELECT nodename, nodeport, success, result FROM run_command_on_workers($1)";
        let values = [OF_WORKER.into()];
        let workers = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        let rows = self.reader.query_all_raw(workers).await?;
        let workers = rows.iter().map(|row| {
            let (host, port): (String, i32) =
                (row.try_get("", "nodename")?, row.try_get("", "nodeport")?);
            let (is_answer, result): (bool, String) =
                (row.try_get("", "success")?, row.try_get("", "result")?);
            let name = format!("{host}:{port}");
            let read = is_answer.then(|| worker(&name, &result)).flatten();
            Ok(read
                .ok_or_else(|| format!("worker {name} cannot be asked for its settings: {result}")))
        });
        workers.collect()
    }
}

fn worker(name: &str, settings: &str) -> Option<Worker> {
    let mut settings = settings.split('|');
    Some(Worker {
        name: name.to_owned(),
        max_prepared: settings.next()?.parse().ok()?,
        lock_timeout_ms: settings.next()?.parse().ok()?,
        fsync: settings.next()?.to_owned(),
        full_page_writes: settings.next()?.to_owned(),
    })
}

fn faults(settings: &Settings, connections: u32) -> Vec<String> {
    let mut faults = Vec::new();
    let Settings {
        shards,
        nodes,
        undistributed,
        executor_pool,
        workers,
    } = settings;
    if !undistributed.is_empty() {
        let tables = undistributed.join(", ");
        faults.push(format!(
            "the tables {tables} are not distributed: run `usage-server distribute`"
        ));
    }
    if executor_pool != "1" {
        faults.push(format!(
            "citus.max_adaptive_executor_pool_size is {executor_pool}; set it to 1, or a transaction takes several connections to a worker and commits in two phases over each"
        ));
    }
    if *shards < *nodes {
        faults.push(format!(
            "there are {shards} shards for {nodes} machines: some have none"
        ));
    }
    let needed = shards.saturating_mul(i64::from(connections));
    for worker in workers {
        let worker = match worker {
            Ok(worker) => worker,
            Err(why) => {
                faults.push(why.clone());
                continue;
            }
        };
        let name = &worker.name;
        if worker.max_prepared < needed {
            let found = worker.max_prepared;
            faults.push(format!(
                "max_prepared_transactions of worker {name} is {found}; set it to at least {needed}, the connections of all servers times the shards"
            ));
        }
        if worker.lock_timeout_ms == 0 {
            faults.push(format!(
                "lock_timeout of worker {name} is 0, and that of this service does not reach workers: set it to 15s"
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Settings {
        Settings {
            shards: 4,
            nodes: 2,
            undistributed: Vec::new(),
            executor_pool: "1".to_owned(),
            workers: vec![Ok(worker("a:1", "64|15000|on|on").unwrap())],
        }
    }

    #[test]
    fn settings_as_described_have_no_fault() {
        assert_eq!(faults(&good(), 16), Vec::<String>::new());
    }

    #[test]
    fn each_other_setting_is_one_fault() {
        let with_worker = |worker| Settings {
            workers: vec![worker],
            ..good()
        };
        let prepared = worker("a:1", "63|15000|on|on").unwrap();
        let no_timeout = worker("a:1", "64|0|on|on").unwrap();
        for (settings, words) in [
            (
                Settings {
                    shards: 1,
                    ..good()
                },
                "1 shards for 2 machines",
            ),
            (
                Settings {
                    undistributed: vec!["open_reports".to_owned()],
                    ..good()
                },
                "open_reports are not distributed",
            ),
            (
                Settings {
                    executor_pool: "16".to_owned(),
                    ..good()
                },
                "pool_size is 16",
            ),
            (with_worker(Ok(prepared)), "is 63; set it to at least 64"),
            (
                with_worker(Ok(no_timeout)),
                "lock_timeout of worker a:1 is 0",
            ),
            (with_worker(Err("worker a:1 is away".to_owned())), "is away"),
        ] {
            let found = faults(&settings, 16);
            assert!(
                found.len() == 1 && found[0].contains(words),
                "{words}: {found:?}"
            );
        }
    }
}
