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
    path::Path,
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
}

impl Server {
    /// Starts a server with some settings besides the usual ones.
    pub(super) fn start(
        programs: &Programs,
        durability: Durability,
        settings: &[&str],
    ) -> Result<Self, StartError> {
        let mut attempt = 1_usize;
        loop {
            match Self::start_once(programs, durability, settings) {
                Err(StartError::Failed(_)) if attempt < START_ATTEMPTS => {
                    attempt = attempt.saturating_add(1);
                }
                outcome => return outcome,
            }
        }
    }

    fn start_once(
        programs: &Programs,
        durability: Durability,
        settings: &[&str],
    ) -> Result<Self, StartError> {
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
        let _path = folder.keep();
        let mut server = Self { address, keeper };
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
