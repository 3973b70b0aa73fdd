//! The driver of this process, and its browsers.

use std::{
    env, io,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, OnceLock, PoisonError, mpsc},
    thread,
    time::Duration,
};

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, SemaphorePermit},
};

use crate::support::world::{engine::skipped, within};

const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// Browsers at a time: more would only wait for each other.
const BROWSERS: usize = 2;
static TURNS: Semaphore = Semaphore::const_new(BROWSERS);
/// Browsers that wait for the next test.
static FREE: Mutex<Vec<Client>> = Mutex::new(Vec::new());
/// Where the connections to browsers live: the runtimes of tests end with them.
static CONNECTIONS: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let builder = builder.worker_threads(1).enable_all();
    builder.build().expect("a runtime")
});
/// Runs the driver until this process closes its standard input. Browsers are in the same group of processes.
const KEEPER: &str = r#"
folder=$1; shift
trap : TERM
"$@" </dev/null & driver=$!
exec >/dev/null 2>&1
read _
kill -TERM 0
wait "$driver"
rm -rf "$folder" || { sleep 1; rm -rf "$folder"; }
"#;
/// A browser that asks for nothing by itself, such as an update, and uses no proxy.
const FLAGS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    // They take room from pages in pictures.
    "--hide-scrollbars",
    "--window-size=1280,900",
];

/// The right to use a browser.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: SemaphorePermit<'static>,
}

impl Turn {
    /// Leaves a browser, which shows nothing any more, to the next one.
    pub(super) fn end(self, client: Client) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(client);
        // The next one finds it.
        drop(free);
        drop(self);
    }
}

/// A browser that no other test uses. Without the programs, says that the test was skipped; in CI it fails.
pub(super) async fn browser() -> Option<(Client, Turn)> {
    let driver = match driver() {
        Ok(driver) => driver,
        Err(missing) => {
            let is_ci = env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!is_ci, "{missing}");
            skipped(missing);
            return None;
        }
    };
    // Others may be many and slow, so this wait has no limit of its own.
    let turn = TURNS.acquire().await.expect("never closed");
    let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let client = match free {
        Some(client) => client,
        None => connect(driver).await,
    };
    Some((client, Turn { _permit: turn }))
}

/// The address of the driver; why there is none if a program is not installed.
fn driver() -> &'static Result<String, String> {
    static DRIVER: OnceLock<(Result<String, String>, Option<Child>)> = OnceLock::new();
    let start = || {
        for program in ["chromium", "chromedriver"] {
            if find(program).is_none() {
                let missing =
                    format!("there is no {program}, Debian's chromium and chromium-driver");
                return (Err(missing), None);
            }
        }
        let (port, keeper) = start_driver().expect("a driver that starts");
        (Ok(format!("http://127.0.0.1:{port}")), Some(keeper))
    };
    &DRIVER.get_or_init(start).0
}

fn find(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn start_driver() -> io::Result<(u16, Child)> {
    let folder = tempfile::Builder::new()
        .prefix("usage-chromium-")
        .tempdir()?;
    let mut keeper = Command::new("sh")
        .args(["-c", KEEPER, "keeper"])
        .arg(folder.path())
        .args(["chromedriver", "--port=0"])
        .env("HOME", folder.path())
        .env("TMPDIR", folder.path())
        // Its own clock would not be that of its processes.
        .env_remove("LD_PRELOAD")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    // From here on the keeper removes the folder.
    let _path = folder.keep();
    let output = keeper.stdout.take().expect("a pipe");
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let port = line.strip_prefix("ChromeDriver was started successfully on port ");
            if let Some(Ok(port)) = port.map(|port| port.trim_end_matches('.').parse()) {
                // The receiver is dropped after the first answer.
                let _unread = send.send(port);
            }
        }
    });
    let port = receive.recv_timeout(READY_TIMEOUT);
    Ok((port.map_err(io::Error::other)?, keeper))
}

/// Starts a browser.
async fn connect(driver: &'static str) -> Client {
    let Value::Object(capabilities) = json!({
        "browserName": "chrome",
        "goog:chromeOptions": { "args": FLAGS },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
    }) else {
        unreachable!("an object");
    };
    let connecting = CONNECTIONS.spawn(async move {
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities).connect(driver).await
    });
    let connected = within("a browser", connecting).await.expect("a task");
    connected.expect("a browser")
}
