//! A private `PostgreSQL` cluster for this test process, and a database in it for each test.
//!
//! If `CITUS_PG_CONFIG` names the `pg_config` of an installation that has Citus, the cluster is a coordinator and two
//! workers. Nothing here depends on the contents of databases.

use std::{
    env,
    ffi::OsStr,
    fmt, io,
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub(super) mod programs;
mod server;
use chrono::{DateTime, Utc};
use programs::Programs;
pub(super) use server::free_address;
pub(crate) use server::{Archive, Paused};
use server::{Origin, Server};

/// Names the `pg_config` of an installation that has Citus.
pub(crate) const CITUS: &str = "CITUS_PG_CONFIG";
/// The workers of a distributed cluster.
const WORKERS: usize = 2;
/// The settings of each server of a distributed cluster: those that `docs/scaling.md` asks for. Each database that was used
/// has a background process.
const CITUS_SETTINGS: [&str; 6] = [
    "shared_preload_libraries=citus",
    "citus.max_adaptive_executor_pool_size=1",
    "citus.node_conninfo=sslmode=disable",
    "max_prepared_transactions=600",
    "max_worker_processes=300",
    "lock_timeout=15s",
];

pub(super) const USER: &str = "usage";
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Why there is no cluster: a program that it needs is not installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unavailable(pub(super) String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no PostgreSQL to test against: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}

/// Whether an acknowledged transaction survives a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// As in production: each commit waits for the disk.
    On,
    /// No commit waits for the disk. It is many times faster, and tests cannot see a difference.
    Off,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The only server, or the coordinator.
    entry: Server,
    workers: Vec<Server>,
    databases: AtomicU64,
}

/// A database that others are copied from; it accepts no connections.
#[derive(Debug, Clone)]
pub(crate) struct Template(String);

/// The cluster of this process, started on first use.
///
/// Panics if `PostgreSQL` is installed and does not start, so that this is not mistaken for a skipped test.
pub(crate) fn cluster() -> Result<&'static Cluster, Unavailable> {
    static CLUSTER: OnceLock<Result<Cluster, StartError>> = OnceLock::new();
    let start = || match env::var_os(CITUS) {
        Some(pg_config) => Cluster::start_distributed(&pg_config, Durability::Off),
        None => Cluster::start(Durability::Off),
    };
    match CLUSTER.get_or_init(start) {
        Ok(cluster) => Ok(cluster),
        Err(StartError::Unavailable(unavailable)) => Err(unavailable.clone()),
        Err(StartError::Failed(error)) => panic!("PostgreSQL does not start: {error}"),
    }
}

/// Why a cluster did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// `PostgreSQL` is not installed.
    Unavailable(Unavailable),
    /// It is installed, and failed.
    Failed(io::Error),
}

impl From<Unavailable> for StartError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Cluster {
    /// Starts another cluster of one server, which ends when it is dropped.
    pub(crate) fn start(durability: Durability) -> Result<Self, StartError> {
        Ok(Self {
            entry: Server::start(&Programs::find()?, Origin::New, durability, &[])?,
            workers: Vec::new(),
            databases: AtomicU64::new(0),
        })
    }

    /// Starts a standby of this cluster, which ends when it is dropped.
    pub(crate) fn standby(&self) -> Result<Self, StartError> {
        Self::start_from(Origin::StandbyOf(self.address()), &[])
    }

    /// Starts a cluster of one server that archives its log.
    pub(crate) fn start_archiving(archive: &Archive) -> Result<Self, StartError> {
        let settings = archive.settings();
        let settings = settings.each_ref().map(String::as_str);
        Self::start_from(Origin::New, &settings)
    }

    /// Copies a running server into an archive.
    pub(crate) fn back_up(&self, archive: &Archive) -> Result<(), StartError> {
        Ok(self.entry.back_up(&Programs::find()?, archive)?)
    }

    /// Starts a server from the copy in an archive, with its log until a time.
    pub(crate) fn recover(archive: &Archive, until: DateTime<Utc>) -> Result<Self, StartError> {
        Self::start_from(Origin::Recovery(archive, until), &[])
    }

    fn start_from(origin: Origin<'_>, settings: &[&str]) -> Result<Self, StartError> {
        Ok(Self {
            entry: Server::start(&Programs::find()?, origin, Durability::Off, settings)?,
            workers: Vec::new(),
            databases: AtomicU64::new(0),
        })
    }

    /// Ends the only server as a crash of its machine would.
    pub(crate) fn crash(&self) -> Result<(), StartError> {
        Ok(self.entry.crash(&Programs::find()?)?)
    }

    /// Starts the only server again after a crash.
    pub(crate) fn restart(&mut self) -> Result<(), StartError> {
        Ok(self.entry.restart(&Programs::find()?)?)
    }

    /// Stops the processes of the only server where they are, until the result is dropped.
    pub(crate) fn pause(&self) -> Result<Paused, StartError> {
        Ok(self.entry.pause()?)
    }

    /// Makes a standby take writes.
    pub(crate) fn promote(&self) -> Result<(), StartError> {
        Ok(self.entry.promote(&Programs::find()?)?)
    }

    /// Makes each commit wait until a standby has it.
    pub(crate) fn make_synchronous(&self) -> io::Result<()> {
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")?;
        self.execute("SELECT pg_reload_conf()")
    }

    /// Whether commits wait for the only standby.
    pub(crate) fn is_synchronous(&self) -> bool {
        let is_set =
            "DO $$ BEGIN ASSERT (SELECT sync_state FROM pg_stat_replication) = 'sync'; END $$";
        self.execute(is_set).is_ok()
    }

    /// Ends the stream from the primary to this standby.
    #[allow(dead_code, reason = "only `cargo kills` uses it")]
    pub(crate) fn stop_following(&self) -> io::Result<()> {
        self.execute("ALTER SYSTEM SET primary_conninfo = ''")?;
        self.execute("SELECT pg_reload_conf()")
    }

    /// Starts a coordinator and two workers of Citus, which end when the cluster is dropped.
    pub(crate) fn start_distributed(
        pg_config: &OsStr,
        durability: Durability,
    ) -> Result<Self, StartError> {
        let programs = Programs::of_installation(pg_config)?;
        let start = || Server::start(&programs, Origin::New, durability, &CITUS_SETTINGS);
        let workers = (0..WORKERS).map(|_| start());
        Ok(Self {
            workers: workers.collect::<Result<_, _>>()?,
            entry: start()?,
            databases: AtomicU64::new(0),
        })
    }

    /// Whether tables can be distributed over workers.
    pub(crate) fn is_distributed(&self) -> bool {
        !self.workers.is_empty()
    }

    /// The address of the only server, or of the coordinator.
    pub(crate) fn address(&self) -> SocketAddr {
        self.entry.address()
    }

    /// Creates an empty database. Returns its URL.
    pub(crate) fn create_database(&self) -> io::Result<String> {
        let url = self.create("template1")?;
        if self.is_distributed() {
            let name = database_name(&url)?;
            for server in self.servers() {
                execute(&url_at(server, name), "CREATE EXTENSION citus")?;
            }
            let host = |address: SocketAddr| format!("'{}', {}", address.ip(), address.port());
            let coordinator = host(self.address());
            execute(
                &url,
                &format!("SELECT citus_set_coordinator_host({coordinator})"),
            )?;
            for worker in &self.workers {
                let worker = host(worker.address());
                execute(&url, &format!("SELECT citus_add_node({worker})"))?;
            }
        }
        Ok(url)
    }

    /// The URL of a database at a worker.
    pub(crate) fn url_at_worker(&self, url: &str, worker: usize) -> io::Result<String> {
        let missing = || io::Error::other(format!("there is no worker {worker}"));
        let server = self.workers.get(worker).ok_or_else(missing)?;
        Ok(url_at(server, database_name(url)?))
    }

    /// Creates a copy of a template. Returns its URL.
    pub(crate) fn create_database_from(&self, template: &Template) -> io::Result<String> {
        self.create(&template.0)
    }

    /// Makes a database a template. Ends the connections to it.
    pub(crate) fn create_template(&self, url: &str) -> io::Result<Template> {
        let name = database_name(url)?;
        self.execute(&format!(
            "ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false IS_TEMPLATE true"
        ))?;
        self.execute(&format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'"
        ))?;
        Ok(Template(name.to_owned()))
    }

    /// Removes a database, also one that is a template, and ends the connections to it.
    pub(crate) fn drop_database(&self, url: &str) -> io::Result<()> {
        let name = database_name(url)?;
        self.execute(&format!("ALTER DATABASE {name} IS_TEMPLATE false"))?;
        self.execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
    }

    fn create(&self, template: &str) -> io::Result<String> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{number}");
        // Copying files takes half of the time of logging each page.
        self.execute(&format!(
            "CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
        ))?;
        Ok(self.url(&name))
    }

    /// Runs a statement that does not belong to one database, at each server.
    fn execute(&self, statement: &str) -> io::Result<()> {
        self.servers()
            .try_for_each(|server| execute(&url_at(server, "postgres"), statement))
    }

    fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.entry).chain(&self.workers)
    }

    fn url(&self, database: &str) -> String {
        url_at(&self.entry, database)
    }
}

fn url_at(server: &Server, database: &str) -> String {
    format!("postgres://{USER}@{}/{database}", server.address())
}

/// Runs statements without parameters in a database of a cluster, and discards their rows.
///
/// Implements the few messages of `PostgreSQL`'s protocol, version 3, that this needs, so that no client has to be
/// installed.
pub(crate) fn execute(url: &str, statement: &str) -> io::Result<()> {
    let (address, database) = url
        .rsplit_once('@')
        .and_then(|(_, place)| place.split_once('/'))
        .ok_or_else(|| io::Error::other(format!("`{url}` is not a database of a cluster")))?;
    let address = address.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, STATEMENT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STATEMENT_TIMEOUT))?;
    let hello = format!("\0\x03\0\0user\0{USER}\0database\0{database}\0\0");
    stream.write_all(&with_length(&hello)?)?;
    let mut stream = BufReader::new(stream);
    until_ready_for_query(&mut stream)?;
    stream.get_mut().write_all(b"Q")?;
    let query = with_length(&format!("{statement}\0"))?;
    stream.get_mut().write_all(&query)?;
    until_ready_for_query(&mut stream)
        .map_err(|error| io::Error::other(format!("{statement}: {error}")))
}

/// The length of a message includes itself.
fn with_length(body: &str) -> io::Result<Vec<u8>> {
    let length = u32::try_from(body.len().saturating_add(4)).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), body.as_bytes()].concat())
}

fn until_ready_for_query(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    let mut refused = None;
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let mut body = Vec::new();
        let length = u64::from(u32::from_be_bytes(length)).saturating_sub(4);
        stream.take(length).read_to_end(&mut body)?;
        match kind {
            b'E' => refused = Some(String::from_utf8_lossy(&body).replace('\0', " ")),
            b'Z' => return refused.map_or(Ok(()), |text| Err(io::Error::other(text))),
            _ => {}
        }
    }
}

fn database_name(url: &str) -> io::Result<&str> {
    let name = url.rsplit_once('/').map(|(_, name)| name);
    name.filter(|name| name.starts_with("test_"))
        .ok_or_else(|| io::Error::other(format!("`{url}` is not a database of this cluster")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_from_a_template_is_independent() {
        let cluster = match cluster() {
            Ok(cluster) => cluster,
            Err(unavailable) => return eprintln!("skipped: {unavailable}"),
        };
        let original = cluster.create_database().unwrap();
        execute(&original, "CREATE TABLE t (i int)").unwrap();
        let template = cluster.create_template(&original).unwrap();
        assert!(execute(&original, "SELECT 1").is_err(), "still connects");
        let [first, second] = [(); 2].map(|()| cluster.create_database_from(&template).unwrap());
        execute(&first, "INSERT INTO t VALUES (1)").unwrap();
        let is_empty = "DO $$ BEGIN ASSERT (SELECT count(*) FROM t) = 0; END $$";
        execute(&second, is_empty).unwrap();
        assert!(execute(&first, is_empty).is_err(), "an error is reported");
        cluster.drop_database(&first).unwrap();
        assert!(execute(&first, "SELECT 1").is_err(), "still connects");
    }

    #[test]
    fn a_durable_cluster_waits_for_the_disk() {
        match Cluster::start(Durability::On) {
            Ok(cluster) => {
                let waits = "DO $$ BEGIN ASSERT current_setting('fsync') = 'on'; END $$";
                cluster.execute(waits).unwrap();
            }
            Err(StartError::Unavailable(unavailable)) => eprintln!("skipped: {unavailable}"),
            Err(StartError::Failed(error)) => panic!("{error}"),
        }
    }
    #[test]
    fn a_server_that_was_paused_goes_on_and_one_that_crashed_has_its_data() {
        let mut cluster = match Cluster::start(Durability::On) {
            Ok(cluster) => cluster,
            Err(StartError::Unavailable(unavailable)) => {
                return eprintln!("skipped: {unavailable}");
            }
            Err(StartError::Failed(error)) => panic!("{error}"),
        };
        let url = cluster.create_database().unwrap();
        execute(&url, "CREATE TABLE t (i int)").unwrap();
        let paused = cluster.pause().unwrap();
        let (send, asked) = std::sync::mpsc::channel();
        let of_thread = url.clone();
        std::thread::spawn(move || send.send(execute(&of_thread, "INSERT INTO t VALUES (1)")));
        let early = asked.recv_timeout(Duration::from_millis(500));
        assert!(early.is_err(), "it answers: {early:?}");
        drop(paused);
        asked.recv_timeout(STATEMENT_TIMEOUT).unwrap().unwrap();
        cluster.crash().unwrap();
        assert!(execute(&url, "SELECT 1").is_err());
        cluster.restart().unwrap();
        let has_one = "DO $$ BEGIN ASSERT (SELECT count(*) FROM t) = 1; END $$";
        execute(&url, has_one).unwrap();
    }
}
