//! What a check of the doctor found, and how it is printed.

use std::fmt;

use serde_json::{Value, json};

use crate::error::Error;

/// Names in one line.
pub(super) const MAX_NAMES: usize = 5;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// No problem.
    Ok,
    /// A possible problem.
    Warn,
    /// Usage is not billed correctly, or the check could not run.
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

/// One line of the diagnosis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The name of the check; stable.
    pub check: &'static str,
    /// Its result.
    pub severity: Severity,
    /// What was found.
    pub fact: String,
    /// How to fix it, unless it is ok.
    pub advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, fact: impl Into<String>) -> Self {
        Self {
            check,
            severity: Severity::Ok,
            fact: fact.into(),
            advice: None,
        }
    }

    pub(super) fn warn(
        check: &'static str,
        fact: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            severity: Severity::Warn,
            fact: fact.into(),
            advice: Some(advice.into()),
        }
    }

    pub(super) fn bad(
        check: &'static str,
        fact: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Bad,
            ..Self::warn(check, fact, advice)
        }
    }

    /// A check that could not run.
    pub(super) fn unchecked(check: &'static str, why: &str) -> Self {
        Self::bad(
            check,
            format!("could not be checked: {why}"),
            "fix this, then run it again",
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<4}  {:<16}  {}",
            self.severity.name(),
            self.check,
            self.fact
        )?;
        match &self.advice {
            Some(advice) => write!(f, " -> {advice}"),
            None => Ok(()),
        }
    }
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// One finding a line.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// Whether nothing is bad.
    pub fn is_healthy(&self) -> bool {
        self.count(Severity::Bad) == 0
    }

    /// A JSON array of objects with `check`, `severity`, `fact` and `advice`, which may be null.
    pub fn to_json(&self) -> Value {
        self.findings
            .iter()
            .map(|finding| {
                json!({
                    "check": finding.check,
                    "severity": finding.severity.name(),
                    "fact": finding.fact,
                    "advice": finding.advice,
                })
            })
            .collect()
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.severity == severity)
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
            "{} bad, {} warnings, {} ok",
            self.count(Severity::Bad),
            self.count(Severity::Warn),
            self.count(Severity::Ok)
        )
    }
}

/// The first few names: `a, b and 3 more`.
pub(super) fn first_names<S: AsRef<str>>(names: &[S], total: usize) -> String {
    let shown: Vec<&str> = names.iter().take(MAX_NAMES).map(AsRef::as_ref).collect();
    let text = shown.join(", ");
    match total.saturating_sub(shown.len()) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// The cause of a database error; the error itself is worded for callers of the service.
pub(super) fn cause_of(error: &Error) -> String {
    error.cause()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_truncated_and_say_so() {
        assert_eq!(first_names(&["a", "b"], 2), "a, b");
        let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(first_names(&many, 9), "0, 1, 2, 3, 4 and 4 more");
        assert_eq!(first_names(&["a"], 1_000), "a and 999 more");
    }

    #[test]
    fn only_bad_findings_are_unhealthy() {
        let mut diagnosis = Diagnosis {
            findings: vec![Finding::ok("a", "b"), Finding::warn("a", "b", "c")],
        };
        assert!(diagnosis.is_healthy());
        diagnosis.findings.push(Finding::unchecked("d", "e"));
        assert!(!diagnosis.is_healthy());
        assert!(diagnosis.to_string().ends_with("1 bad, 1 warnings, 1 ok"));
        assert_eq!(diagnosis.to_json()[2]["severity"], "bad");
        assert_eq!(diagnosis.to_json()[0]["advice"], Value::Null);
    }
}
