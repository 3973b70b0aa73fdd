//! What other pages show of actions: forms, links to them, and what was done.

use maud::{Markup, html};
use usage_proto::v1::UsageReport;

use super::{fields::Form, resolve};
use crate::{
    console::{
        html::{foreign, time, url, words},
        query::Query,
        visitor::Visitor,
    },
    domain::http_paths::HttpPath,
};

/// The form of a report that an admin can resolve.
pub(in crate::console) fn report_part(visitor: &Visitor, report: &UsageReport) -> Markup {
    let none = Query::default();
    html! {
        @if visitor.may_change && !resolve::open_ways(report).is_empty() {
            h2 #resolve { "Resolve" }
            (resolve::inputs(&Form::new(visitor, &none), report, None))
        }
    }
}

/// What was done last, after the form was sent. It says what is stored, whatever the address says.
pub(in crate::console) fn recorded(visitor: &Visitor, report: &UsageReport) -> Markup {
    let done = visitor.query.get("done");
    html! {
        @if done == "corrected" && !report.entered_by.is_empty() {
            p #done .note role="status" { "This correction was entered by " (foreign(&report.entered_by)) "." }
        }
        @if done == "resolved" && let Some(last) = report.decisions.last() {
            p #done .note role="status" {
                "The latest decision is " strong { (words(last.action().as_str_name(), "RESOLVE_ACTION_")) }
                ", of " (time(last.decided_at)) " by " (foreign(&last.requested_by)) "."
            }
        }
    }
}

/// What an admin can do with an account.
pub(in crate::console) fn account_part(visitor: &Visitor, id: &str) -> Markup {
    html! {
        @if visitor.may_change {
            p .more {
                a #correct-usage href=(url(HttpPath::ConsoleCorrect, &[("account", id)])) { "Correct its usage" }
                a #report-now href=(url(HttpPath::ConsoleForce, &[("account", id)])) { "Report it now" }
            }
        }
    }
}

/// How an admin begins a run.
pub(in crate::console) fn runs_part(visitor: &Visitor) -> Markup {
    html! {
        @if visitor.may_change {
            p .more { a #report-now href=(HttpPath::ConsoleForce.name()) { "Report now" } }
        }
    }
}
