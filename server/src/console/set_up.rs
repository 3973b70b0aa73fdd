//! `/set-up`: the lines of `doctor` as the running server sees them, with what to do and how old they are; and its settings.

use maud::{Markup, html};
use usage_proto::v1::ServerSetting;

use super::{
    calls::Failure,
    diagnosis::{self, Diagnosis},
    doctor_lines,
    html::foreign,
    layout::Page,
    visitor::Visitor,
};
use crate::domain::http_paths::HttpPath;

pub(super) async fn page(visitor: &Visitor, diagnosis: &Diagnosis) -> Result<Page, Failure> {
    let json = html! {
        p .more { a href=(doctor_lines::json()) { "Check now, as JSON" } }
    };
    let diagnosed = diagnosis.read(visitor).await;
    let again = diagnosis::again(visitor, HttpPath::ConsoleSetUp);
    let refreshed = |page| diagnosis::refreshed(page, &again, &diagnosed);
    let Some(found) = diagnosed.as_ref().map_err(Clone::clone)? else {
        let content = html! {
            h1 { "Set-up" }
            (diagnosis::being_checked(diagnosis::CHECKED, &again))
            (json)
        };
        return Ok(refreshed(Page::new("Set-up", content)));
    };
    let age = diagnosis::age(found);
    let found = &found.answer;
    let is_fine = |finding: &&_| !doctor_lines::needs_attention(finding);
    let content = html! {
        h1 { "Set-up" }
        p {
            @if found.healthy {
                span .ok { "No check says BAD." }
            } @else {
                span .bad { "Usage is not counted or billed as it should be, or a check could not run." }
            }
            " The server has version " (found.version) ". " (age)
        }
        @let to_do = || found.findings.iter().filter(|finding| !is_fine(finding));
        @if to_do().next().is_some() {
            h2 { "What to do" }
            (doctor_lines::list(to_do()))
        }
        h2 { "What is fine" }
        (doctor_lines::list(found.findings.iter().filter(is_fine)))
        h2 { "Settings" }
        (settings(&found.settings))
        (json)
    };
    Ok(refreshed(Page::new("Set-up", content)))
}

fn settings(settings: &[ServerSetting]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Settings" {
            table {
                caption { "The settings of this server; secrets are not shown" }
                thead { tr { th scope="col" { "Setting" } th scope="col" { "Value" } } }
                tbody {
                    @for setting in settings {
                        tr {
                            th scope="row" { code { (setting.name) } }
                            td { (foreign(setting.value.as_deref().unwrap_or_default())) }
                        }
                    }
                }
            }
        }
    }
}
