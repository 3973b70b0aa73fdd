//! A PgBouncer that pools transactions over few connections, in front of a server of `PostgreSQL`.
//!
//! It takes the connections in turn, so that two transactions of a client are seldom on the same one.

use std::{
    env, fs, io,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::postgres::{
    StartError, USER, Unavailable, free_address,
    programs::{self, Owner},
};

const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// Runs the program until this process closes its standard input, perhaps after the name of a signal.
const KEEPER: &str = r#"
folder=$1; shift
"$@" </dev/null & server=$!
exec 2>/dev/null
read signal
kill "-${signal:-TERM}" "$server"
wait "$server"
rm -rf "$folder"
"#;

/// A running PgBouncer, which ends when it is dropped.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    address: SocketAddr,
    keeper: Child,
}

impl PgBouncer {
    /// Starts one with so many connections to a server. None where it is not installed, after a line that says so; in CI
    /// that fails.
    pub(crate) fn start_if_installed(server: SocketAddr, connections: u32) -> Option<Self> {
        match Self::start(server, connections) {
            Ok(bouncer) => Some(bouncer),
            Err(StartError::Unavailable(missing)) => {
                let is_ci = env::var("CI").is_ok_and(|ci| ci == "true");
                assert!(!is_ci, "{missing}");
                // Not captured by the test runner: a skipped test must not look like a passed one.
                writeln!(io::stderr(), "SKIPPED: {missing}").expect("standard error");
                None
            }
            Err(StartError::Failed(error)) => panic!("PgBouncer does not start: {error}"),
        }
    }

    /// Starts one with so many connections to a server.
    pub(crate) fn start(server: SocketAddr, connections: u32) -> Result<Self, StartError> {
        let program = find()?;
        let folder = tempfile::Builder::new()
            .prefix("usage-pgbouncer-")
            .tempdir()?;
        let owner = Owner::of_servers(folder.path())?;
        let address = free_address()?;
        let (users, settings) = (
            folder.path().join("users.txt"),
            folder.path().join("settings.ini"),
        );
        fs::write(&users, format!("\"{USER}\" \"\"\n"))?;
        fs::write(
            &settings,
            format!(
                "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = {}\nlisten_port = {}\n\
                 unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
                 default_pool_size = {connections}\nmax_client_conn = 500\nserver_round_robin = 1\n",
                server.ip(),
                server.port(),
                address.ip(),
                address.port(),
                users.display(),
            ),
        )?;
        if let Some(owner) = owner {
            for path in [folder.path(), &users, &settings] {
                chown(path, Some(owner.uid), Some(owner.gid))?;
            }
        }
        let keeper = programs::command(Path::new("sh"), folder.path(), owner)
            .args(["-c", KEEPER, "keeper"])
            .arg(folder.path())
            .arg(program)
            .arg(settings)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // From here on the keeper removes the folder.
        let _path = folder.keep();
        let mut bouncer = Self { address, keeper };
        bouncer.wait_until_ready()?;
        Ok(bouncer)
    }

    /// The URL of the same database through it.
    pub(crate) fn url(&self, url: &str) -> String {
        let (_, name) = url.rsplit_once('/').expect("a name");
        let separator = if name.contains('?') { '&' } else { '?' };
        format!(
            "postgres://{USER}@{}/{name}{separator}pgbouncer=true",
            self.address
        )
    }

    #[allow(dead_code, reason = "only `cargo kills` uses it")]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it with SIGKILL.
    #[allow(dead_code, reason = "only `cargo kills` uses it")]
    pub(crate) fn kill(mut self) -> io::Result<()> {
        if let Some(mut stdin) = self.keeper.stdin.take() {
            stdin.write_all(b"KILL\n")?;
        }
        self.keeper.wait().map(drop)
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let log = self.keeper.stderr.take();
        let log = log.ok_or_else(|| io::Error::other("PgBouncer has no log"))?;
        let (send, receive) = mpsc::channel();
        thread::spawn(move || {
            let mut read = String::new();
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                if line.contains("process up") {
                    // The receiver is dropped after the first answer.
                    drop(send.send(Ok(())));
                    read.clear();
                }
                read.push_str(&line);
                read.push('\n');
            }
            drop(send.send(Err(read)));
        });
        receive
            .recv_timeout(READY_TIMEOUT)
            .unwrap_or_else(|_| Err(format!("not ready after {READY_TIMEOUT:?}")))
            .map_err(io::Error::other)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

fn find() -> Result<PathBuf, Unavailable> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        // Debian's folder is not in everyone's path.
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
        .ok_or_else(|| Unavailable("`pgbouncer` is neither in PATH nor in /usr/sbin".to_owned()))
}
