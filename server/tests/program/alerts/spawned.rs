//! A process that no client connects to by itself, such as one that speaks TLS.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use crate::process::wait_until;

/// A running server. It is killed when this is dropped.
pub(super) struct Spawned {
    child: Child,
    /// The last address of each message of the log that has one.
    addresses: Arc<Mutex<HashMap<String, String>>>,
}

impl Spawned {
    pub(super) fn serve(mut command: Command) -> Self {
        command
            .args(["serve", "--listen=127.0.0.1:0", "--log-json"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        let mut child = command.spawn().expect("a process");
        let log = child.stderr.take().expect("standard error");
        let addresses = Arc::<Mutex<HashMap<String, String>>>::default();
        let found = Arc::clone(&addresses);
        thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                let fields = &event["fields"];
                let text = |name: &str| fields[name].as_str().map(str::to_owned);
                if let (Some(message), Some(address)) = (text("message"), text("address")) {
                    found.lock().unwrap().insert(message, address);
                }
            }
        });
        Self { child, addresses }
    }

    /// The address that the log names in a message.
    pub(super) async fn address(&self, message: &str) -> String {
        let find = || self.addresses.lock().unwrap().get(message).cloned();
        wait_until(message, || async { find().is_some() }).await;
        find().unwrap()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
