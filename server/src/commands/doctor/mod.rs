//! `usage-server doctor`: looks for what goes wrong in real life, and says what to do.
//!
//! It only reads, beside a running server or without one, and it asks Stripe little. Each group of checks
//! reads first and judges by pure functions. A check that could not be made is bad: nothing is taken to
//! be well that was not looked at. Lists are cut, and say so.

mod accounts;
mod clocks;
mod reports;
mod stripe;

use std::fmt;

use clap::Args;
use serde_json::{Value, json};

use crate::{
    clock::Clock,
    config::{DatabaseConfig, MetersConfig, ScheduleConfig, StripeConfig},
    error::Error,
    store::Store,
};

/// Names that one line spells out.
const SHOWN: usize = 5;

/// What is looked at.
#[derive(Args, Clone, Debug)]
pub struct DoctorConfig {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,

    /// The Stripe account.
    #[command(flatten)]
    pub stripe: StripeConfig,

    /// The meters.
    #[command(flatten)]
    pub meters: MetersConfig,

    /// The schedule.
    #[command(flatten)]
    pub schedule: ScheduleConfig,
}

/// A setting that is wrong, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DoctorError(String);

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// To be looked at.
    Warn,
    /// Usage is not billed as it should be, or that could not be checked.
    Bad,
}

impl Severity {
    /// `ok`, `warn` or `bad`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at; a stable name.
    pub check: &'static str,
    /// How well it is.
    pub mark: Severity,
    /// What was found.
    pub fact: String,
    /// What to do about it, where something is to be done.
    pub advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, fact: impl Into<String>) -> Self {
        Self {
            check,
            mark: Severity::Ok,
            fact: fact.into(),
            advice: None,
        }
    }

    fn warn(check: &'static str, fact: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            mark: Severity::Warn,
            fact: fact.into(),
            advice: Some(advice.into()),
        }
    }

    fn bad(check: &'static str, fact: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            mark: Severity::Bad,
            ..Self::warn(check, fact, advice)
        }
    }

    /// A check that could not be made.
    fn unchecked(check: &'static str, why: &str) -> Self {
        Self::bad(
            check,
            format!("could not be checked: {why}"),
            "mend that and run this again",
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<4}  {:<16}  {}",
            self.mark.name(),
            self.check,
            self.fact
        )?;
        match &self.advice {
            Some(advice) => write!(f, " -> {advice}"),
            None => Ok(()),
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Line by line.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// Whether nothing is bad.
    pub fn is_healthy(&self) -> bool {
        self.count(Severity::Bad) == 0
    }

    /// A JSON array of objects: `check`, `mark`, `fact` and `advice`, which may be null.
    pub fn to_json(&self) -> Value {
        self.findings
            .iter()
            .map(|finding| {
                json!({
                    "check": finding.check,
                    "mark": finding.mark.name(),
                    "fact": finding.fact,
                    "advice": finding.advice,
                })
            })
            .collect()
    }

    fn count(&self, mark: Severity) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.mark == mark)
            .count()
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        write!(
            f,
            "{} bad, {} to be looked at, {} ok",
            self.count(Severity::Bad),
            self.count(Severity::Warn),
            self.count(Severity::Ok)
        )
    }
}

/// Makes every check that can be made.
///
/// # Errors
/// A wrong setting. Whatever else is wrong is a finding.
pub async fn diagnose(config: &DoctorConfig, clock: &Clock) -> Result<Diagnosis, DoctorError> {
    // It holds pages of Stripe's objects: too much for the stacks of those who wait for it.
    Box::pin(examine(config, clock)).await
}

async fn examine(config: &DoctorConfig, clock: &Clock) -> Result<Diagnosis, DoctorError> {
    config.database.check().map_err(DoctorError)?;
    let meters = config.meters.read().map_err(DoctorError)?;
    let schedule = config.schedule.read().map_err(DoctorError)?;
    let key = config.stripe.key().map_err(DoctorError)?;
    let base = config.stripe.stripe_api_base.as_deref();
    let mut findings = Vec::new();
    let store = open(&config.database, &mut findings).await;
    let account = stripe::reach(key, base, clock, &mut findings).await;
    if let Some(account) = &account {
        stripe::check(account, &meters, store.as_ref(), clock.now(), &mut findings).await;
    }
    if let Some(store) = store {
        accounts::check(&store, clock.now(), &mut findings).await;
        reports::check(&store, clock.now(), &mut findings).await;
        clocks::check(&store, &schedule, clock, &mut findings).await;
        if let Err(error) = store.close().await {
            findings.push(Finding::warn(
                "database",
                format!("it did not let go: {error}"),
                "look at its log",
            ));
        }
    }
    Ok(Diagnosis { findings })
}

/// The database, where it is there and up to date.
async fn open(config: &DatabaseConfig, findings: &mut Vec<Finding>) -> Option<Store> {
    const CHECK: &str = "database";
    const CONNECTIONS: u32 = 4;
    const NOT_CHECKED: &str =
        "so links, reports, the ledger check, the schedule and its clock were not checked";
    let (fact, advice) = match Store::open_existing(&config.database_url, CONNECTIONS).await {
        Err(error) => (
            format!("it cannot be opened: {error}"),
            "check DATABASE_URL, or make it with `usage-server migrate`",
        ),
        Ok(store) => match store.pending_migrations().await {
            Ok(0) => {
                findings.push(Finding::ok(CHECK, "it is there, and its schema up to date"));
                return Some(store);
            }
            Ok(pending) => (
                format!("it lacks {pending} migrations"),
                "run `usage-server migrate`",
            ),
            Err(error) => (
                format!("its schema cannot be read: {error}"),
                "check that DATABASE_URL names the service's own database, and that this program is not older than it",
            ),
        },
    };
    findings.push(Finding::bad(
        CHECK,
        format!("{fact}; {NOT_CHECKED}"),
        advice,
    ));
    None
}

/// Names, cut to a few: `a, b and 3 more`.
fn some<S: AsRef<str>>(names: &[S], total: usize) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let text = shown.join(", ");
    match total.saturating_sub(shown.len()) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// What an error of the database says, with its cause: the error itself is worded for callers.
fn why(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_and_say_so() {
        assert_eq!(some(&["a", "b"], 2), "a, b");
        let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(some(&many, 9), "0, 1, 2, 3, 4 and 4 more");
        assert_eq!(some(&["a"], 1_000), "a and 999 more");
    }

    #[test]
    fn only_bad_findings_are_not_well() {
        let mut diagnosis = Diagnosis {
            findings: vec![Finding::ok("a", "b"), Finding::warn("a", "b", "c")],
        };
        assert!(diagnosis.is_healthy());
        diagnosis.findings.push(Finding::unchecked("d", "e"));
        assert!(!diagnosis.is_healthy());
        assert!(
            diagnosis
                .to_string()
                .ends_with("1 bad, 1 to be looked at, 1 ok")
        );
        assert_eq!(diagnosis.to_json()[2]["mark"], "bad");
        assert_eq!(diagnosis.to_json()[0]["advice"], Value::Null);
    }
}
