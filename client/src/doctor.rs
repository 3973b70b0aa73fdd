//! What a server finds when it examines itself.

use crate::proto;
use std::fmt;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// No problem.
    Ok,
    /// A possible problem.
    Warn,
    /// Usage is not counted or billed as it should be, or the check could not run.
    Bad,
    /// A severity that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl Severity {
    fn from_wire(number: i32) -> Self {
        use proto::DoctorSeverity as Wire;
        match Wire::try_from(number) {
            Ok(Wire::Ok) => Self::Ok,
            Ok(Wire::Warn) => Self::Warn,
            Ok(Wire::Bad) => Self::Bad,
            Ok(Wire::Unspecified) | Err(_) => Self::Unrecognised(number),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.pad("ok"),
            Self::Warn => f.pad("warn"),
            Self::Bad => f.pad("bad"),
            Self::Unrecognised(number) => f.pad(&number.to_string()),
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The name of the check, such as `schedule`.
    pub check: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub fact: String,
    /// What to do; none if it is ok.
    pub advice: Option<String>,
}

/// A setting of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerSetting {
    /// Its environment variable, such as `REPORT_SCHEDULE`.
    pub name: String,
    /// Its value, or its default; of a secret only `(set)`. None if it is not set.
    pub value: Option<String>,
}

/// What a server found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
    /// Whether no finding is [`Bad`](Severity::Bad).
    pub is_healthy: bool,
    /// The settings of the server.
    pub settings: Vec<ServerSetting>,
    /// The version of the server.
    pub version: String,
}

impl Diagnosis {
    pub(crate) fn from_wire(response: proto::DoctorResponse) -> Self {
        let findings = response.findings.into_iter().map(|one| Finding {
            check: one.check,
            severity: Severity::from_wire(one.severity),
            fact: one.fact,
            advice: crate::wire::non_empty(one.advice),
        });
        let settings = response.settings.into_iter().map(|one| ServerSetting {
            name: one.name,
            value: one.value,
        });
        Self {
            findings: findings.collect(),
            is_healthy: response.healthy,
            settings: settings.collect(),
            version: response.version,
        }
    }

    /// The number of findings of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        findings.filter(|one| one.severity == severity).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proto_severity_is_known() {
        let numbers = (1..).take_while(|number| proto::DoctorSeverity::try_from(*number).is_ok());
        let known: Vec<String> = numbers
            .map(|number| Severity::from_wire(number).to_string())
            .collect();
        assert_eq!(known, ["ok", "warn", "bad"]);
        assert_eq!(Severity::from_wire(9), Severity::Unrecognised(9));
    }
}
