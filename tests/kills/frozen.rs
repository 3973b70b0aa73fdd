//! A process that is stopped where it is: its connections stay open, and it learns nothing.

use std::process::Command;

use crate::process::Process;

/// A process that SIGSTOP has stopped. It goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Frozen(u32);

impl Frozen {
    pub(crate) fn stop(process: &Process) -> Self {
        let id = process.id();
        send("-STOP", id);
        Self(id)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        send("-CONT", self.0);
    }
}

fn send(signal: &str, id: u32) {
    let sent = Command::new("kill")
        .args([signal, &id.to_string()])
        .status();
    let is_sent = sent.is_ok_and(|status| status.success());
    // A second panic would end all scenarios.
    assert!(
        is_sent || std::thread::panicking(),
        "{signal} was not sent to {id}"
    );
}
