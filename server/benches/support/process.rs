//! The service in a process of its own, whose memory can be read apart from that of the load.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use super::engines::Database;

/// The longest start.
const MAX_START: Duration = Duration::from_mins(1);

/// A running server. It is killed if this is dropped before it was stopped.
pub(crate) struct ServerProcess {
    child: Child,
    endpoint: String,
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// What is in memory now.
    pub(crate) resident: u64,
    /// The most that ever was, since [`ServerProcess::forget_peak`].
    pub(crate) peak: u64,
}

impl ServerProcess {
    /// Starts the service with flags, on a free port.
    pub(crate) fn start(database: &Database, flags: &[String]) -> Self {
        // The environment may configure a real service: ignore it.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut child = Command::new(env!("CARGO_BIN_EXE_usage-server"))
            .args(["serve", "--listen=127.0.0.1:0", "--database-url"])
            .arg(&database.url)
            .args(flags)
            .env_clear()
            .env("PATH", path)
            .env("LOG_JSON", "true")
            .env("HTTP_LISTEN", "off")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let address = read_log(child.stderr.take().expect("standard error"));
        let address = address
            .recv_timeout(MAX_START)
            .expect("a server that starts");
        Self {
            child,
            endpoint: format!("http://{address}"),
        }
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether this system tells how much memory a process has.
    pub(crate) fn memory_is_known() -> bool {
        std::fs::exists("/proc/self/status").unwrap_or(false)
    }

    /// Its memory.
    pub(crate) fn memory(&self) -> Memory {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("a running process");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.expect("a size").parse().expect("a number")
        };
        Memory {
            resident: kib("VmRSS:"),
            peak: kib("VmHWM:"),
        }
    }

    /// Measures the peak from now on.
    pub(crate) fn forget_peak(&self) {
        let path = format!("/proc/{}/clear_refs", self.child.id());
        std::fs::write(path, "5").expect("a running process");
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").arg(&id).status().expect("a signal");
        assert!(asked.success());
        let ended = self.child.wait().expect("an end");
        assert!(ended.success(), "the server fails: {ended}");
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log in a thread, because a full pipe would stop the server. Sends the address once.
fn read_log(stderr: ChildStderr) -> Receiver<String> {
    let (send, address) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let fields = &event["fields"];
            if fields["message"] == "serving"
                && let Some(address) = fields["address"].as_str()
            {
                // The benchmark may have ended.
                let _ = send.send(address.to_owned());
            }
            if event["level"] == "ERROR" {
                eprintln!("{line}");
            }
        }
    });
    address
}
