//! The doctor of a running server: the same checks with the server's own settings, connections and clock.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    Diagnosis, DoctorConfig, Examination, Finding, check_schema, health,
    redaction::Redaction,
    settings::{self, ShownSetting},
    sockets,
};
use crate::{clock::Clock, config::Config, readiness::Readiness, store::Store};

/// How long all checks may take. What has not run by then is told.
const TIME_LIMIT: Duration = Duration::from_mins(1);
const CLOCKS: &str = "clocks";

/// Examines the server that it is part of.
#[derive(Debug)]
pub(crate) struct RunningDoctor {
    config: DoctorConfig,
    settings: Vec<ShownSetting>,
    redaction: Redaction,
    store: Store,
    readiness: Arc<Readiness>,
    clock: Clock,
    limit: Duration,
    /// The last diagnosis, and when it was made. Locked during the next one.
    last: Mutex<Option<(Instant, Diagnosis)>>,
}

impl RunningDoctor {
    pub(crate) fn new(
        config: &Config,
        store: Store,
        readiness: Arc<Readiness>,
        clock: Clock,
    ) -> Self {
        Self {
            config: config.clone().into(),
            settings: settings::of(config),
            redaction: Redaction::of(config),
            store,
            readiness,
            clock,
            limit: TIME_LIMIT,
            last: Mutex::default(),
        }
    }

    /// The server's settings, without secrets.
    pub(crate) fn settings(&self) -> &[ShownSetting] {
        &self.settings
    }

    /// Runs every check. One diagnosis is made at a time: who asks during one gets it too.
    pub(crate) async fn examine(&self) -> Diagnosis {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((made, diagnosis)) = &*last
            && *made >= asked
        {
            return diagnosis.clone();
        }
        let diagnosis = self.diagnose().await;
        *last = Some((Instant::now(), diagnosis.clone()));
        diagnosis
    }

    async fn diagnose(&self) -> Diagnosis {
        let mut findings = vec![health::check_server(&self.readiness).await];
        // Boxed because the future contains pages of Stripe's objects.
        let is_done = timeout(self.limit, Box::pin(self.run_checks(&mut findings)))
            .await
            .is_ok();
        if !is_done {
            let secs = self.limit.as_secs();
            findings.push(Finding::unchecked(
                "time limit",
                &format!(
                    "the checks took more than {secs} s, and those after the last line did not run"
                ),
            ));
        }
        let findings = findings.into_iter();
        Diagnosis {
            findings: findings.map(|one| self.redaction.redact(one)).collect(),
        }
    }

    async fn run_checks(&self, findings: &mut Vec<Finding>) {
        sockets::check(&self.config.addresses, &self.config.tls, findings);
        if let Some(doubt) = self.clock.doubt() {
            findings.push(Finding::bad(
                CLOCKS,
                format!(
                    "{doubt}: usage is counted, but nothing is closed, sent, expired or deleted"
                ),
                "synchronize the clocks of the database and of every machine that runs the service",
            ));
        }
        let is_current = check_schema(&self.store, &self.config.shared.database, findings).await;
        let store = is_current.then_some(&self.store);
        match Examination::new(&self.config, &self.clock) {
            Ok(examination) => examination.run(store, findings).await,
            // The service does not start with such a setting.
            Err(error) => findings.push(Finding::unchecked("settings", &error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;
    use crate::ingest::{WriteBatcher, WriteBatcherOptions};

    #[tokio::test(flavor = "multi_thread")]
    async fn checks_that_take_too_long_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        let flag = format!("--database-url={url}");
        let matches = Config::augment_args(Command::new("test")).get_matches_from(["test", &flag]);
        let config = Config::from_arg_matches(&matches).unwrap();
        let (store, clock) = (Store::open(&url, 1).await.unwrap(), Clock::system());
        store.migrate().await.unwrap();
        let options = WriteBatcherOptions {
            writers: 1,
            queue: 10,
            slots: config.schedule.window_mins,
        };
        let (batcher, _writers) = WriteBatcher::start(&store, &clock, options);
        let readiness = Arc::new(Readiness::new(store.clone(), batcher.progress()));
        let mut doctor = RunningDoctor::new(&config, store, readiness, clock);
        doctor.limit = Duration::ZERO;
        let diagnosis = doctor.examine().await;
        let checks: Vec<&str> = diagnosis.findings.iter().map(|one| one.check).collect();
        assert_eq!(checks.first(), Some(&"health"));
        assert!(!checks.contains(&"schedule"), "{checks:?}");
        assert!(!diagnosis.is_healthy());
        let last = diagnosis.findings.last().unwrap().to_string();
        assert!(last.contains("did not run"), "{last}");
    }
}
