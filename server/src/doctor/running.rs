//! The doctor of a running server: the same checks with the server's own settings, connections and clock.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
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
/// How long the next diagnosis waits after one: nine times as long as that took, and this at most. It reads up to a thousand
/// customers from Stripe, whose limits it shares with what is sent, and a key that may only read may ask for it all day.
const MAX_REST: Duration = Duration::from_secs(10);
const REST_FACTOR: u32 = 9;
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
    /// The last diagnosis. Locked during the next one.
    last: Mutex<Option<Made>>,
}

/// A diagnosis.
#[derive(Clone, Debug)]
struct Made {
    ended: Instant,
    /// From when on the next one may be made.
    rested: Instant,
    diagnosis: Diagnosis,
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

    /// Runs every check. One diagnosis is made at a time, with a rest after it: all who ask before it ends get the same.
    pub(crate) async fn examine(&self) -> Diagnosis {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(made) = &*last {
            if made.ended >= asked {
                return made.diagnosis.clone();
            }
            sleep_until(made.rested).await;
        }
        let begun = Instant::now();
        let diagnosis = self.diagnose().await;
        let ended = Instant::now();
        let rest = ended
            .duration_since(begun)
            .saturating_mul(REST_FACTOR)
            .min(MAX_REST);
        *last = Some(Made {
            ended,
            rested: ended.checked_add(rest).unwrap_or(ended),
            diagnosis: diagnosis.clone(),
        });
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

    async fn doctor_of_empty_database() -> (RunningDoctor, tempfile::TempDir) {
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
        (RunningDoctor::new(&config, store, readiness, clock), folder)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn checks_that_take_too_long_are_told() {
        let (mut doctor, _folder) = doctor_of_empty_database().await;
        doctor.limit = Duration::ZERO;
        let diagnosis = doctor.examine().await;
        let checks: Vec<&str> = diagnosis.findings.iter().map(|one| one.check).collect();
        assert_eq!(checks.first(), Some(&"health"));
        assert!(!checks.contains(&"schedule"), "{checks:?}");
        assert!(!diagnosis.is_healthy());
        let last = diagnosis.findings.last().unwrap().to_string();
        assert!(last.contains("did not run"), "{last}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_diagnosis_waits_for_the_rest_after_the_last_one() {
        let (doctor, _folder) = doctor_of_empty_database().await;
        doctor.examine().await;
        let made = doctor.last.lock().await.clone().unwrap();
        let rest = made.rested - made.ended;
        assert!(!rest.is_zero() && rest <= MAX_REST, "{rest:?}");
        doctor.examine().await;
        let next = doctor.last.lock().await.clone().unwrap();
        assert!(next.ended > made.rested);
    }
}
