//! Small parts of pages: times, quantities, ids, links.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use chrono_tz::Tz;
use maud::{Markup, html};
use prost_types::Timestamp;
use serde_json::Value;

use super::{
    calls::Failure,
    layout,
    query::{Query, query_of},
    zone::NAMED,
};
use crate::domain::{http_paths::HttpPath, report::State};
use usage_proto::v1::{Period, UsageReportState};

/// The rows of a page.
pub(super) const ROWS: i32 = 50;

/// The address of a page with parameters; empty ones are left out.
pub(super) fn url(path: HttpPath, pairs: &[(&str, &str)]) -> String {
    let query = query_of(pairs.iter().copied());
    if query.is_empty() {
        return path.name().to_owned();
    }
    format!("{}?{query}", path.name())
}

pub(super) fn utc(at: Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)
}

/// The hour, day or month of a period in a zone. A day or month may begin with the slot around its midnight, so it is that of
/// its last second.
pub(super) fn period_label(period: Option<Period>, zone: Tz, format: &str) -> String {
    let period = period.unwrap_or_default();
    let at = if format.contains("%H") {
        period.start.and_then(utc)
    } else {
        let end = period.end.and_then(utc);
        end.and_then(|end| end.checked_sub_signed(TimeDelta::seconds(1)))
    };
    at.map_or_else(String::new, |at| {
        at.with_timezone(&zone).format(format).to_string()
    })
}

/// A time in RFC 3339.
pub(super) fn rfc3339(at: Timestamp) -> String {
    utc(at).map_or_else(String::new, |time| {
        time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    })
}

/// A time in UTC, or a dash.
pub(super) fn time(at: Option<Timestamp>) -> Markup {
    let at = at.and_then(utc);
    html! {
        @match at {
            Some(at) => time datetime=(at.to_rfc3339_opts(SecondsFormat::AutoSi, true)) { (at.format("%Y-%m-%d %H:%M:%S")) },
            None => span .faint { "–" },
        }
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let left = digits.len().saturating_sub(index);
        if index > 0 && left.is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// A text that anyone may have chosen. Its direction changes nothing around it.
pub(super) fn foreign(text: &str) -> Markup {
    html! {
        @if text.is_empty() { span .faint { "–" } } @else { bdi { (text) } }
    }
}

fn account_url(id: &str) -> String {
    url(HttpPath::ConsoleAccount, &[("id", id)])
}

pub(super) fn account_link(id: &str) -> Markup {
    html! { a href=(account_url(id)) { bdi .id { (id) } } }
}

/// The same to the page in the zone that this one names, if it does.
pub(super) fn account_link_in(id: &str, zone: &str) -> Markup {
    let pairs = [("id", id), (NAMED, zone)];
    html! { a href=(url(HttpPath::ConsoleAccount, &pairs)) { bdi .id { (id) } } }
}

/// A value of an enum as people read it: `USAGE_REPORT_STATE_TOO_LATE` is `too late`.
pub(super) fn words(name: &str, prefix: &str) -> String {
    let name = name.strip_prefix(prefix).unwrap_or(name);
    name.to_ascii_lowercase().replace('_', " ")
}

const STATE: &str = "USAGE_REPORT_STATE_";

/// The states that wait for a decision.
pub(super) fn needs_decision() -> Vec<UsageReportState> {
    let states = State::NEEDS_DECISION.into_iter();
    states
        .filter_map(|state| state_named(state.name()))
        .collect()
}

/// A state by its name, such as `too_late`.
pub(super) fn state_named(name: &str) -> Option<UsageReportState> {
    UsageReportState::from_str_name(&format!("{STATE}{}", name.to_ascii_uppercase()))
}

pub(super) fn state(value: i32) -> Markup {
    let Ok(state) = UsageReportState::try_from(value) else {
        return html! { (value) };
    };
    let class = match state {
        UsageReportState::Confirmed | UsageReportState::Invoiced | UsageReportState::Accepted => {
            "ok"
        }
        state if needs_decision().contains(&state) => "bad",
        UsageReportState::NoCustomer => "warn",
        _ => "plain",
    };
    html! { span class=(class) { (words(state.as_str_name(), STATE)) } }
}

/// The address of the JSON of a method that only reads.
pub(super) fn json_url(method: &str, message: &Value) -> String {
    let message = message.to_string();
    let query = query_of([("encoding", "json"), ("message", &message)].into_iter());
    format!("/usage.v1.{method}?{query}")
}

/// The links below a list: the next page, the first one, and the same as JSON.
pub(super) fn more(path: HttpPath, query: &Query, next: &str, json: Option<&str>) -> Markup {
    let json = json.map(|json| (json, "The same as JSON"));
    more_named(path, query, next, json.as_slice())
}

/// The same with links by these names.
pub(super) fn more_named(
    path: HttpPath,
    query: &Query,
    next: &str,
    links: &[(&str, &str)],
) -> Markup {
    let page = |token: &str| {
        let query = query.with(&[("page", token)]);
        if query.is_empty() {
            path.name().to_owned()
        } else {
            format!("{}?{query}", path.name())
        }
    };
    html! {
        p .more {
            @if !query.get("page").is_empty() { a href=(page("")) { "First page" } }
            @if !next.is_empty() { a rel="next" href=(page(next)) { "Next page" } }
            @for (address, name) in links { a href=(address) { (name) } }
        }
    }
}

/// A part of a page, or why it cannot be shown.
pub(super) fn or_reason<T>(found: &Result<T, Failure>, show: impl FnOnce(&T) -> Markup) -> Markup {
    match found {
        Ok(found) => show(found),
        Err(failure) => layout::reason(failure),
    }
}

/// A field of a form that filters.
pub(super) fn field(query: &Query, name: &str, label: &str, hint: &str) -> Markup {
    let id = format!("field-{name}");
    html! {
        div {
            label for=(id) { (label) }
            input id=(id) name=(name) value=(query.get(name)) placeholder=(hint) maxlength="255" autocomplete="off" spellcheck="false";
        }
    }
}

/// A choice of a form that filters.
pub(super) fn choice(query: &Query, name: &str, label: &str, values: &[(&str, String)]) -> Markup {
    let id = format!("field-{name}");
    html! {
        div {
            label for=(id) { (label) }
            select id=(id) name=(name) {
                @for (value, text) in values {
                    option value=(value) selected[query.get(name) == *value] { (text) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_that_begins_with_a_slot_has_its_own_name() {
        let period = |start, end| {
            let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
            let (start, end) = (at(start), at(end));
            Some(Period { start, end })
        };
        // From 2026-03-28T18:00Z on, half an hour before the 29th in India.
        let day = period(1_774_720_800, 1_774_807_200);
        assert_eq!(
            period_label(day, Tz::Asia__Kolkata, "%Y-%m-%d"),
            "2026-03-29"
        );
        let hour = period(1_774_720_800, 1_774_724_400);
        let label = period_label(hour, Tz::Asia__Kolkata, "%Y-%m-%d %H:%M");
        assert_eq!(label, "2026-03-28 23:30");
        // The clocks of Vienna changed on this day.
        let day = period(1_774_738_800, 1_774_821_600);
        assert_eq!(
            period_label(day, Tz::Europe__Vienna, "%Y-%m-%d"),
            "2026-03-29"
        );
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (-1_234_567, "-1,234,567"),
            (i64::MIN, "-9,223,372,036,854,775,808"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn every_state_that_needs_a_decision_is_known() {
        assert_eq!(needs_decision().len(), State::NEEDS_DECISION.len());
        for state in State::ALL {
            assert!(state_named(state.name()).is_some(), "{state:?}");
        }
    }

    #[test]
    fn a_foreign_text_is_escaped_and_apart() {
        let shown = foreign("<script>\u{202e}\"'&").into_string();
        assert!(shown.starts_with("<bdi>&lt;script&gt;"), "{shown}");
        assert!(!shown.contains("\"'"), "{shown}");
        assert!(account_url("a\"><b").ends_with("id=a%22%3E%3Cb"));
    }
}
