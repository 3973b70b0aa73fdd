//! The command `usage-server doctor` in a test's world.

use usage_server::commands::doctor::{DoctorConfig, Severity, diagnose};

use super::{World, within};

impl World {
    /// The doctor's configuration.
    pub(crate) fn doctor_config(&self) -> DoctorConfig {
        let config = self.config();
        DoctorConfig {
            schedule: config.schedule.clone(),
            sending: config.sending.clone(),
            archive: config.archive.clone(),
            addresses: config.addresses.clone(),
            tls: config.tls.clone(),
            shared: config.into(),
        }
    }

    /// The doctor's line of a check, on this world's database or on another one.
    pub(crate) async fn doctor_says(&self, url: Option<&str>, check: &str) -> (Severity, String) {
        let mut config = self.doctor_config();
        if let Some(url) = url {
            config.shared.database.database_url = Some(url.to_owned().into());
        }
        let diagnosis = within("a diagnosis", diagnose(&config, &self.clock));
        let diagnosis = diagnosis.await.expect("a diagnosis");
        let mut findings = diagnosis.findings.into_iter();
        let found = findings.find(|finding| finding.check == check);
        let found = found.unwrap_or_else(|| panic!("no line {check}"));
        (found.severity, found.to_string())
    }
}
