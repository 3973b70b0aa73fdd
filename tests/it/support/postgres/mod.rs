//! A private `PostgreSQL` cluster for this test process, and a database in it for each test.
//!
//! The server is tied to a pipe that this process keeps open. When the process ends in any way, the server ends too,
//! and its folder is removed. Nothing here depends on the contents of databases.

use std::{
    collections::VecDeque,
    fmt, io,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::chown, process::CommandExt as _},
    path::Path,
    process::{Child, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

mod programs;
use programs::{Owner, Programs};

const USER: &str = "usage";
/// Another process may take the port between the check and the server's start.
const START_ATTEMPTS: usize = 3;
const READY_TIMEOUT: Duration = Duration::from_mins(1);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
const KEPT_LOG_LINES: usize = 30;
/// Runs the server until this process closes its standard input. The shell closes its own standard error, so that the
/// log ends when the server does.
const KEEPER: &str = r#"
folder=$1; shift
"$@" </dev/null & server=$!
exec 2>/dev/null
read _
kill -INT "$server"
wait "$server"
rm -rf "$folder"
"#;

/// Why there is no cluster: a program that it needs is not installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unavailable(String);

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
    address: SocketAddr,
    databases: AtomicU64,
    keeper: Child,
}

/// A database that others are copied from; it accepts no connections.
#[derive(Debug, Clone)]
pub(crate) struct Template(String);

/// The cluster of this process, started on first use.
///
/// Panics if `PostgreSQL` is installed and does not start, so that this is not mistaken for a skipped test.
pub(crate) fn cluster() -> Result<&'static Cluster, Unavailable> {
    static CLUSTER: OnceLock<Result<Cluster, StartError>> = OnceLock::new();
    match CLUSTER.get_or_init(|| Cluster::start(Durability::Off)) {
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
    /// Starts another cluster, which ends when it is dropped.
    pub(crate) fn start(durability: Durability) -> Result<Self, StartError> {
        let programs = Programs::find()?;
        let mut attempt = 1_usize;
        loop {
            match Self::start_once(&programs, durability) {
                Err(StartError::Failed(_)) if attempt < START_ATTEMPTS => {
                    attempt = attempt.saturating_add(1);
                }
                outcome => return outcome,
            }
        }
    }

    fn start_once(programs: &Programs, durability: Durability) -> Result<Self, StartError> {
        let folder = tempfile::Builder::new().prefix("usage-pg-").tempdir()?;
        let owner = Owner::of_servers(folder.path())?;
        if let Some(owner) = owner {
            chown(folder.path(), Some(owner.uid), Some(owner.gid))?;
        }
        let data = folder.path().join("data");
        let initdb = programs::command(&programs.initdb, folder.path(), owner)
            .args(["-N", "-A", "trust", "--locale=C", "--encoding=UTF8"])
            .args(["-U", USER, "-D"])
            .arg(&data)
            .output()?;
        if !initdb.status.success() {
            let text = String::from_utf8_lossy(&initdb.stderr).into_owned();
            return Err(io::Error::other(text).into());
        }
        let address = free_address()?;
        let mut command = programs::command(Path::new("sh"), folder.path(), owner);
        command.args(["-c", KEEPER, "keeper"]).arg(folder.path());
        command.arg(&programs.postgres).arg("-D").arg(&data);
        let port = format!("port={}", address.port());
        let fast = ["fsync=off", "full_page_writes=off"];
        let fast = if durability == Durability::Off {
            &fast[..]
        } else {
            &[]
        };
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=300",
            &port,
        ]
        .iter()
        .chain(fast)
        {
            command.args(["-c", setting]);
        }
        // In a separate process group, an interrupt from the terminal does not reach the keeper, so that it can clean
        // up.
        let keeper = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // From here on the keeper removes the folder.
        let _path = folder.keep();
        let mut cluster = Self {
            address,
            databases: AtomicU64::new(0),
            keeper,
        };
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let log = self.keeper.stderr.take();
        let log = log.ok_or_else(|| io::Error::other("the server has no log"))?;
        let (send, receive) = mpsc::channel();
        thread::spawn(move || read_log(log, &send));
        receive
            .recv_timeout(READY_TIMEOUT)
            .unwrap_or_else(|_| Err(format!("not ready after {READY_TIMEOUT:?}")))
            .map_err(io::Error::other)
    }

    /// The address of the server.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Creates an empty database. Returns its URL.
    pub(crate) fn create_database(&self) -> io::Result<String> {
        self.create("template1")
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

    /// Removes a database and ends the connections to it.
    pub(crate) fn drop_database(&self, url: &str) -> io::Result<()> {
        let name = database_name(url)?;
        self.execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
    }

    fn create(&self, template: &str) -> io::Result<String> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{number}");
        self.execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))?;
        Ok(self.url(&name))
    }

    /// The URL for statements that do not belong to one database.
    fn execute(&self, statement: &str) -> io::Result<()> {
        execute(&self.url("postgres"), statement)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@{}/{database}", self.address)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
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

/// Reports once whether the server is ready or has ended, then reads its log until the end.
fn read_log(log: impl io::Read, ready: &mpsc::Sender<Result<(), String>>) {
    let mut last = VecDeque::new();
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if line.contains("ready to accept connections") {
            drop(ready.send(Ok(())));
        }
        last.push_back(line);
        if last.len() > KEPT_LOG_LINES {
            last.pop_front();
        }
    }
    let last = Vec::from(last).join("\n");
    // The receiver is dropped if the server was ready before.
    drop(ready.send(Err(last)));
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
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
}
