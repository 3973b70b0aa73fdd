//! A process of the real binary, and clients of it.

use std::{
    future::Future,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use chrono::DateTime;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use usage_client::{Error, Get, Retry, UsageClient};
use usage_server::clock::Clock;

/// The limit of every wait. A busy machine delays a commit for many seconds.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(90);
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits for a future; fails after [`TIMEOUT`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future)
        .await
        .unwrap_or_else(|_| panic!("timed out after {TIMEOUT:?} waiting for {what}"))
}

/// Polls until a condition is met; fails after [`TIMEOUT`].
pub(crate) async fn wait_until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    within(what, async {
        while !is_so().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
}

/// The flag for a socket that shows metrics.
pub(crate) const HTTP: &str = "--http-listen=127.0.0.1:0";

/// The binary that is started. If it is not set before the first start, it is that of this build.
pub(crate) static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// The last lines of the log that are kept.
const MAX_LINES: usize = 2_000;

/// A running server. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    endpoint: String,
    client: UsageClient,
    health: HealthClient<Channel>,
}

impl Process {
    /// Starts a command line, for example the binary's own, and waits until the server answers.
    pub(crate) async fn start(mut command: Command, flags: &[String]) -> Self {
        command
            .args(["serve", "--listen=127.0.0.1:0"])
            .args(flags)
            .env("LOG_JSON", "true")
            .env("HTTP_LISTEN", "off")
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        let mut child = command.spawn().expect("a process");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let address = read_log(child.stderr.take().expect("standard error"), &log);
        let Ok(address) = address.recv_timeout(TIMEOUT) else {
            panic!("the server did not start: {:#?}", log.lock().unwrap());
        };
        let endpoint = format!("http://{address}");
        let client = within("connecting", UsageClient::connect(endpoint.clone()));
        let client = client.await.expect("a connection");
        let channel = Channel::from_shared(endpoint.clone()).expect("an address");
        let channel = within("connecting", channel.connect());
        Self {
            child,
            log,
            endpoint,
            client: client.with_retry(Retry::never()).with_timeout(TIMEOUT),
            health: HealthClient::new(channel.await.expect("a connection")),
        }
    }

    /// The command of the binary, without the environment of the tests.
    pub(crate) fn binary() -> Command {
        let of_this_build = || {
            let built = option_env!("CARGO_BIN_EXE_usage-server");
            PathBuf::from(built.expect("a binary of this build"))
        };
        let mut command = Command::new(BINARY.get_or_init(of_this_build));
        Self::clean(&mut command);
        command
    }

    /// Removes the environment of the tests from a command.
    pub(crate) fn clean(command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path);
    }

    /// Calls with an API key from now on.
    pub(crate) async fn use_key(&mut self, key: &str) {
        let builder = UsageClient::builder(&self.endpoint).api_key(key);
        let client = within("connecting", builder.connect()).await;
        let client = client.expect("a connection");
        self.client = client.with_retry(Retry::never()).with_timeout(TIMEOUT);
    }

    /// A client that does not retry.
    pub(crate) fn client(&self) -> UsageClient {
        self.client.clone()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the health service says that the server can count.
    pub(crate) async fn is_ready(&self) -> bool {
        let request = HealthCheckRequest::default();
        let answer = within("the health service", self.health.clone().check(request)).await;
        answer.expect("an answer").into_inner().status() == ServingStatus::Serving
    }

    pub(crate) async fn wait_until_ready(&self) {
        wait_until("a ready server", || self.is_ready()).await;
    }

    pub(crate) async fn wait_until_not_ready(&self) {
        wait_until("a server that is not ready", || async {
            !self.is_ready().await
        })
        .await;
    }

    /// The total of an account's default meter on the days around now.
    pub(crate) async fn total(&self, account: &str) -> i64 {
        let total = within("usage", total_of(&self.client, account)).await;
        total.expect("usage")
    }

    /// The increments that the server has and has not answered. The server must have been started with [`HTTP`].
    pub(crate) async fn waiting_increments(&self) -> usize {
        let metrics = within("metrics", self.metrics()).await;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix("usage_waiting_increments "));
        value.expect("the metric").parse().expect("a number")
    }

    /// The metrics as text. The server must have been started with [`HTTP`].
    pub(crate) async fn metrics(&self) -> String {
        let address = self.http_address().expect("a socket for HTTP");
        let answer = read_metrics(&address).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.contains(" 200 "), "{head}");
        body.to_owned()
    }

    /// The log since the start.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Another connection.
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(self.endpoint.clone()).expect("an address");
        let connected = within("connecting", endpoint.connect()).await;
        connected.expect("a connection")
    }

    /// The URL of the gRPC socket.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The memory that the process has, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
        kibibytes.parse::<u64>().unwrap() * 1_024
    }

    pub(crate) fn http_address(&self) -> Option<String> {
        let log = self.log.lock().unwrap();
        log.iter().find_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            let fields = &event["fields"];
            let is_http = fields["message"] == "serving HTTP";
            is_http.then(|| fields["address"].as_str().map(str::to_owned))?
        })
    }

    /// Waits until the process ends by itself, while its health is asked for. Returns its code and its log.
    pub(crate) async fn ended(mut self) -> (Option<i32>, String) {
        within("the end of the process", async {
            loop {
                if let Some(status) = self.child.try_wait().expect("a process") {
                    let log = self.log.lock().unwrap().join("\n");
                    return (status.code(), log);
                }
                // It may be gone.
                let _ = self.health.check(HealthCheckRequest::default()).await;
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        })
        .await
    }

    /// Ends the process with SIGKILL. It must not have ended by itself.
    pub(crate) fn kill(mut self) {
        let ended = self.child.try_wait().expect("a process");
        assert!(ended.is_none(), "the server ended by itself: {ended:?}");
        self.child.kill().expect("a process");
        let status = self.child.wait().expect("an end");
        assert_eq!(status.signal(), Some(9));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log.lock().unwrap();
            let last = log.len().saturating_sub(30);
            eprintln!("the end of the server's log: {:#?}", &log[last..]);
        }
    }
}

/// The total of an account's default meter on the days around now.
pub(crate) async fn total_of(client: &UsageClient, account: &str) -> Result<i64, Error> {
    const DAY: i64 = 86_400_000;
    let now = Clock::system().now();
    let day = |days| {
        let at = now - now.rem_euclid(DAY) + days * DAY;
        DateTime::from_timestamp_millis(at).expect("a time")
    };
    let query = Get::account(account).period(day(-1), day(2));
    let usage = client.get(query).await?;
    let meter = usage.meter("api_calls").expect("the meter");
    Ok(meter.quantities.total)
}

async fn read_metrics(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Reads the log in a thread. Sends the address of the gRPC socket once.
fn read_log(stderr: ChildStderr, log: &Arc<Mutex<Vec<String>>>) -> Receiver<String> {
    let (send, address) = channel();
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let fields = &event["fields"];
            if fields["message"] == "serving"
                && let Some(address) = fields["address"].as_str()
            {
                // The test may have ended.
                let _ = send.send(address.to_owned());
            }
            let mut log = log.lock().unwrap();
            if log.len() == MAX_LINES {
                log.clear();
            }
            log.push(line);
        }
    });
    address
}
