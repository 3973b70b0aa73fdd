//! The findings of `doctor` as a list.

use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{DoctorFinding, DoctorSeverity};

use super::html::json_url;

/// The findings, in their order.
pub(super) fn list<'a>(findings: impl Iterator<Item = &'a DoctorFinding>) -> Markup {
    html! {
        ul .findings {
            @for finding in findings { li { (line(finding)) } }
        }
    }
}

fn line(finding: &DoctorFinding) -> Markup {
    let (class, word) = match finding.severity() {
        DoctorSeverity::Ok => ("ok", "OK"),
        DoctorSeverity::Warn => ("warn", "WARN"),
        DoctorSeverity::Bad | DoctorSeverity::Unspecified => ("bad", "BAD"),
    };
    html! {
        p { strong class=(class) { (word) } " " strong { (finding.check) } ": " bdi { (finding.fact) } }
        @if !finding.advice.is_empty() {
            p { "What to do: " bdi { (finding.advice) } }
        }
    }
}

/// The address of the findings of this moment as JSON.
pub(super) fn json() -> String {
    json_url("OperationsService/Doctor", &json!({}))
}

/// Whether something is to be done about a finding.
pub(super) fn needs_attention(finding: &DoctorFinding) -> bool {
    finding.severity() != DoctorSeverity::Ok
}
