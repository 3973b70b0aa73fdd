//! One server of `PostgreSQL`.
//!
//! It is tied to a pipe that this process keeps open. When the process ends in any way, the server ends too, and its folder
//! is removed.

use std::{
    collections::VecDeque,
    io,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::{
    Durability, StartError, USER,
    programs::{self, Owner, Programs},
};

/// Another process may take the port between the check and the server's start.
const START_ATTEMPTS: usize = 3;
const READY_TIMEOUT: Duration = Duration::from_mins(1);
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

/// A running server, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    keeper: Child,
    folder: PathBuf,
    owner: Option<Owner>,
}

/// Where the data of a server comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// An empty cluster.
    New,
    /// A copy of a running server, which it follows as a standby.
    StandbyOf(SocketAddr),
}

impl Server {
    /// Starts a server with some settings besides the usual ones.
    pub(super) fn start(
        programs: &Programs,
        origin: Origin,
        durability: Durability,
        settings: &[&str],
    ) -> Result<Self, StartError> {
        let mut attempt = 1_usize;
        loop {
            match Self::start_once(programs, origin, durability, settings) {
                Err(StartError::Failed(_)) if attempt < START_ATTEMPTS => {
                    attempt = attempt.saturating_add(1);
                }
                outcome => return outcome,
            }
        }
    }

    fn start_once(
        programs: &Programs,
        origin: Origin,
        durability: Durability,
        settings: &[&str],
    ) -> Result<Self, StartError> {
        let folder = tempfile::Builder::new().prefix("usage-pg-").tempdir()?;
        let owner = Owner::of_servers(folder.path())?;
        if let Some(owner) = owner {
            chown(folder.path(), Some(owner.uid), Some(owner.gid))?;
        }
        let data = folder.path().join("data");
        let mut making = match origin {
            Origin::New => {
                let mut initdb = programs::command(&programs.initdb, folder.path(), owner);
                initdb.args(["-N", "-A", "trust", "--locale=C", "--encoding=UTF8"]);
                initdb.args(["-U", USER]);
                initdb
            }
            Origin::StandbyOf(primary) => {
                let program = programs.beside("pg_basebackup");
                let mut copy = programs::command(&program, folder.path(), owner);
                copy.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf"]);
                copy.args(["-h", &primary.ip().to_string()]);
                copy.args(["-p", &primary.port().to_string(), "-U", USER]);
                copy
            }
        };
        let made = making.arg("-D").arg(&data).output()?;
        if !made.status.success() {
            let text = String::from_utf8_lossy(&made.stderr).into_owned();
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
        .chain(settings)
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
        let mut server = Self {
            address,
            keeper,
            folder: folder.keep(),
            owner,
        };
        server.wait_until_ready()?;
        Ok(server)
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

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the server as a crash of its machine would: nothing is written, and no connection is told.
    pub(super) fn crash(&self, programs: &Programs) -> io::Result<()> {
        self.control(programs, &["stop", "--mode=immediate"])
    }

    /// Makes a standby take writes.
    pub(super) fn promote(&self, programs: &Programs) -> io::Result<()> {
        self.control(programs, &["promote"])
    }

    /// Runs `pg_ctl`, which waits for what it does.
    fn control(&self, programs: &Programs, action: &[&str]) -> io::Result<()> {
        let program = programs.beside("pg_ctl");
        let run = programs::command(&program, &self.folder, self.owner)
            .args(action)
            .arg("-D")
            .arg(self.folder.join("data"))
            .output()?;
        if run.status.success() {
            return Ok(());
        }
        Err(io::Error::other(
            String::from_utf8_lossy(&run.stderr).into_owned(),
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

/// Reports once whether the server is ready or has ended, then reads its log until the end.
fn read_log(log: impl io::Read, ready: &mpsc::Sender<Result<(), String>>) {
    let mut last = VecDeque::new();
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if line.contains("ready to accept") {
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

pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
