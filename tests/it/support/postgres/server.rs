//! One server of `PostgreSQL`.
//!
//! It is tied to a pipe that this process keeps open. When the process ends in any way, the server ends too, and its folder
//! is removed.

use std::{
    collections::VecDeque,
    fs, io,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use chrono::{DateTime, Utc};
use tempfile::TempDir;

use super::{
    Durability, StartError, USER,
    programs::{self, Owner, Programs},
};

/// Another process may take the port between the check and the server's start.
const START_ATTEMPTS: usize = 3;
const READY_TIMEOUT: Duration = Duration::from_mins(1);
const KEPT_LOG_LINES: usize = 30;
/// Runs the server until this process closes its standard input. The shell closes its own standard error, so that the
/// log ends when the server does. The folder is kept for another keeper if that is asked for.
const KEEPER: &str = r#"
folder=$1; shift
"$@" </dev/null & server=$!
exec 2>/dev/null
read word
kill -INT "$server"
wait "$server"
[ "$word" = keep ] || rm -rf "$folder"
"#;

/// A running server, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    keeper: Child,
    folder: PathBuf,
    owner: Option<Owner>,
    /// Those of the server itself.
    arguments: Vec<String>,
}

/// A server that does nothing and keeps its connections. It goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Paused {
    processes: Vec<String>,
}

/// Where the data of a server comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    /// An empty cluster.
    New,
    /// A copy of a running server, which it follows as a standby.
    StandbyOf(SocketAddr),
    /// The base backup of an archive, and its log until a time.
    Recovery(&'a Archive, DateTime<Utc>),
}

/// A folder with a base backup and the archived log of a server.
#[derive(Debug)]
pub(crate) struct Archive {
    folder: TempDir,
    owner: Option<Owner>,
}

impl Archive {
    pub(crate) fn new() -> Result<Self, StartError> {
        let folder = tempfile::Builder::new()
            .prefix("usage-archive-")
            .tempdir()?;
        let owner = Owner::of_servers(folder.path())?;
        if let Some(owner) = owner {
            chown(folder.path(), Some(owner.uid), Some(owner.gid))?;
        }
        Ok(Self { folder, owner })
    }

    /// The settings of a server that archives its log here.
    pub(super) fn settings(&self) -> [String; 2] {
        let folder = self.folder.path().display();
        [
            "archive_mode=on".to_owned(),
            // Never over another file.
            format!("archive_command=test ! -e {folder}/%f && cp %p {folder}/%f"),
        ]
    }

    fn base(&self) -> PathBuf {
        self.folder.path().join("base")
    }
}

/// Makes the folder of a server's data.
fn make_data(
    programs: &Programs,
    origin: Origin<'_>,
    folder: &Path,
    owner: Option<Owner>,
    data: &Path,
) -> io::Result<()> {
    let mut making = match origin {
        Origin::New => {
            let mut initdb = programs::command(&programs.initdb, folder, owner);
            initdb.args(["-N", "-A", "trust", "--locale=C", "--encoding=UTF8"]);
            initdb.args(["-U", USER]);
            initdb
        }
        Origin::StandbyOf(primary) => {
            let mut copy = base_backup(programs, folder, owner, primary);
            copy.arg("--write-recovery-conf");
            copy
        }
        Origin::Recovery(archive, _) => {
            let mut copy = programs::command(Path::new("cp"), folder, owner);
            copy.arg("-a").arg(archive.base());
            copy
        }
    };
    if !matches!(origin, Origin::Recovery(..)) {
        making.arg("-D");
    }
    output_of(making.arg(data))?;
    Ok(())
}

impl Server {
    /// Starts a server with some settings besides the usual ones.
    pub(super) fn start(
        programs: &Programs,
        origin: Origin<'_>,
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
        origin: Origin<'_>,
        durability: Durability,
        settings: &[&str],
    ) -> Result<Self, StartError> {
        let folder = tempfile::Builder::new().prefix("usage-pg-").tempdir()?;
        let owner = Owner::of_servers(folder.path())?;
        if let Some(owner) = owner {
            chown(folder.path(), Some(owner.uid), Some(owner.gid))?;
        }
        let data = folder.path().join("data");
        make_data(programs, origin, folder.path(), owner, &data)?;
        let mut settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        if let Origin::Recovery(archive, until) = origin {
            let signal = data.join("recovery.signal");
            output_of(programs::command(Path::new("touch"), folder.path(), owner).arg(signal))?;
            let archived = archive.folder.path().display();
            settings.extend([
                format!("restore_command=cp {archived}/%f %p"),
                format!("recovery_target_time={}", until.to_rfc3339()),
                "recovery_target_action=promote".to_owned(),
            ]);
        }
        let address = free_address()?;
        let port = format!("port={}", address.port());
        let mut arguments = vec!["-D".to_owned(), data.display().to_string()];
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
            arguments.extend(["-c".to_owned(), (*setting).to_owned()]);
        }
        for setting in settings {
            arguments.extend(["-c".to_owned(), setting]);
        }
        let keeper = keep(programs, folder.path(), owner, &arguments)?;
        // From here on the keeper removes the folder.
        let mut server = Self {
            address,
            keeper,
            folder: folder.keep(),
            owner,
            arguments,
        };
        let is_standby = matches!(origin, Origin::StandbyOf(_));
        server.wait_until_ready(if is_standby {
            "ready to accept read-only connections"
        } else {
            "ready to accept connections"
        })?;
        Ok(server)
    }

    fn wait_until_ready(&mut self, words: &'static str) -> io::Result<()> {
        let log = self.keeper.stderr.take();
        let log = log.ok_or_else(|| io::Error::other("the server has no log"))?;
        let (send, receive) = mpsc::channel();
        thread::spawn(move || read_log(log, words, &send));
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

    /// Starts the server again after a crash, at the same address and with the same data.
    pub(super) fn restart(&mut self, programs: &Programs) -> io::Result<()> {
        if let Some(mut stdin) = self.keeper.stdin.take() {
            stdin.write_all(b"keep\n")?;
        }
        self.keeper.wait()?;
        self.keeper = keep(programs, &self.folder, self.owner, &self.arguments)?;
        self.wait_until_ready("ready to accept connections")
    }

    /// Stops all processes of the server where they are: connections stay open, and nothing answers.
    pub(super) fn pause(&self) -> io::Result<Paused> {
        let file = fs::read_to_string(self.folder.join("data").join("postmaster.pid"))?;
        let first = file.lines().next().unwrap_or_default().to_owned();
        // It starts no other process from here on.
        send_signal("-STOP", std::slice::from_ref(&first))?;
        let mut paused = Paused {
            processes: vec![first.clone()],
        };
        let children = children_of(&first)?;
        send_signal("-STOP", &children)?;
        paused.processes.extend(children);
        Ok(paused)
    }

    /// Makes a standby take writes.
    pub(super) fn promote(&self, programs: &Programs) -> io::Result<()> {
        self.control(programs, &["promote"])
    }

    /// Copies a running server, with the log that the copy needs.
    pub(super) fn back_up(&self, programs: &Programs, archive: &Archive) -> io::Result<()> {
        let mut copy = base_backup(programs, archive.folder.path(), archive.owner, self.address);
        output_of(copy.arg("-D").arg(archive.base()))
    }

    /// Runs `pg_ctl`, which waits for what it does.
    fn control(&self, programs: &Programs, action: &[&str]) -> io::Result<()> {
        let program = programs.beside("pg_ctl");
        let mut control = programs::command(&program, &self.folder, self.owner);
        output_of(control.args(action).arg("-D").arg(self.folder.join("data")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Err(error) = send_signal("-CONT", &self.processes) {
            eprintln!("PostgreSQL does not go on: {error}");
        }
    }
}

fn send_signal(signal: &str, processes: &[String]) -> io::Result<()> {
    output_of(Command::new("kill").arg(signal).args(processes))
}

/// The processes that one has started.
fn children_of(process: &str) -> io::Result<Vec<String>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Others end meanwhile. After the name of a program, in brackets, come its state and its parent.
        let stat = fs::read_to_string(format!("/proc/{name}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent == Some(process) {
            children.push(name);
        }
    }
    Ok(children)
}

/// Starts a server, and the keeper that ends it with this process.
fn keep(
    programs: &Programs,
    folder: &Path,
    owner: Option<Owner>,
    arguments: &[String],
) -> io::Result<Child> {
    let mut command = programs::command(Path::new("sh"), folder, owner);
    command.args(["-c", KEEPER, "keeper"]).arg(folder);
    command.arg(&programs.postgres).args(arguments);
    // In a separate process group, an interrupt from the terminal does not reach the keeper, so that it can clean up.
    command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

/// The command that copies a running server.
fn base_backup(
    programs: &Programs,
    folder: &Path,
    owner: Option<Owner>,
    server: SocketAddr,
) -> Command {
    let program = programs.beside("pg_basebackup");
    let mut copy = programs::command(&program, folder, owner);
    copy.args(["--checkpoint=fast", "--no-sync"]);
    copy.args(["-h", &server.ip().to_string()]);
    copy.args(["-p", &server.port().to_string(), "-U", USER]);
    copy
}

/// Runs a command to its end.
fn output_of(command: &mut Command) -> io::Result<()> {
    let ended = command.output()?;
    if ended.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    Err(io::Error::other(text))
}

/// Reports once whether the server is ready or has ended, then reads its log until the end.
fn read_log(log: impl io::Read, words: &str, ready: &mpsc::Sender<Result<(), String>>) {
    let mut last = VecDeque::new();
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if line.contains(words) {
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
