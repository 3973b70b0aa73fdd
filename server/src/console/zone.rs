//! The time zone of charts and days. A visitor chooses it on any page, and a cookie keeps it; an address may name another, so
//! that whoever gets it sees the same.

use axum::{
    http::{header, request::Parts},
    response::Response,
};
use chrono::{DateTime, Offset as _};
use chrono_tz::Tz;
use maud::{Markup, html};
use prost_types::Timestamp;
use usage_proto::v1::Period;

use super::{Place, calls::Failure, cookie, origin, query::Query, see_other, visitor::Visitor};
use crate::domain::{
    Millis,
    http_paths::HttpPath,
    period::{day_start, last_days, month_of_slots, parse_zone, slot_start},
    window::{Interval, Slots},
};

/// The parameter by which an address names a zone.
pub(super) const NAMED: &str = "tz";
/// That of the form that chooses one.
const CHOSEN: &str = "zone";
/// That of the page of a list.
const PAGE: &str = "page";
/// The times of a period at which the offset of its zone is looked at.
const LOOKS: i64 = 12;

/// A zone, in a service whose usage is kept in slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zone {
    tz: Tz,
    slots: Slots,
}

/// The zone of a page.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    zone: Result<Zone, Failure>,
    /// What the address names; empty if it names none.
    named: String,
}

impl Choice {
    pub(super) fn read(query: &Query, head: &Parts, place: Place, slots: Slots) -> Self {
        let named = query.text(NAMED);
        let tz = if named.is_empty() {
            Ok(cookie::read_zone(&head.uri, &head.headers, place).unwrap_or(Tz::UTC))
        } else {
            parse_zone(&named).map_err(|violation| Failure::invalid(violation.message))
        };
        Self {
            zone: tz.map(|tz| Zone { tz, slots }),
            named,
        }
    }

    /// # Errors
    /// The address names none that there is.
    pub(super) fn zone(&self) -> Result<Zone, Failure> {
        self.zone.clone()
    }

    /// For links to pages that show the same zone: what the address names, if that is a zone.
    pub(super) fn named(&self) -> &str {
        if self.zone.is_ok() { &self.named } else { "" }
    }
}

impl Zone {
    pub(super) fn tz(self) -> Tz {
        self.tz
    }

    pub(super) fn name(self) -> &'static str {
        self.tz.name()
    }

    /// As a field of a call: UTC is the default.
    pub(super) fn wire_name(self) -> String {
        let is_default = self.tz == Tz::UTC;
        if is_default {
            String::new()
        } else {
            self.name().to_owned()
        }
    }

    /// A time that an address names: a day is its first moment, or the start of the slot that it lies in, so that days that
    /// follow each other do not overlap.
    ///
    /// # Errors
    /// It is another text.
    pub(super) fn time(self, query: &Query, name: &str) -> Result<Option<Timestamp>, Failure> {
        query.time_by(name, |date| {
            let start = day_start(date, self.tz)?;
            Some(slot_start(start, self.slots))
        })
    }

    /// The current day and those before it, as a period to its end.
    pub(super) fn last_days(self, now: Millis, days: u32) -> Period {
        let edges = last_days(now, self.tz, days, self.slots).unwrap_or_default();
        let edge = |at: Option<&Millis>| Some(timestamp(*at.unwrap_or(&now)));
        Period {
            start: edge(edges.first()),
            end: edge(edges.last()),
        }
    }

    /// The current calendar month and those before it, the latest first.
    pub(super) fn last_months(self, now: Millis, months: usize) -> Vec<Period> {
        let month = |at| month_of_slots(at, self.tz, self.slots);
        let all = std::iter::successors(month(now), |later: &Interval| {
            month(later.start.saturating_sub(1))
        });
        let all = all.map(|month| Period {
            start: Some(timestamp(month.start)),
            end: Some(timestamp(month.end)),
        });
        all.take(months).collect()
    }

    /// Whether days begin inside slots at some time of a period.
    fn is_between_slots(self, period: Period) -> bool {
        let secs = |at: Option<Timestamp>| at.unwrap_or_default().seconds;
        let (start, end) = (secs(period.start), secs(period.end));
        let step = end.saturating_sub(start).div_euclid(LOOKS);
        (0..=LOOKS).any(|look| {
            let at = start.saturating_add(step.saturating_mul(look));
            let Some(at) = DateTime::from_timestamp(at, 0) else {
                return false;
            };
            let offset = at.with_timezone(&self.tz).offset().fix().local_minus_utc();
            let offset = Millis::from(offset).saturating_mul(1_000);
            !self.slots.is_edge(offset)
        })
    }

    /// Says where days begin, if that is not at midnight.
    pub(super) fn note(self, period: Period) -> Markup {
        let minutes = self.slots.width_ms().div_euclid(60_000);
        html! {
            @if self.is_between_slots(period) {
                p .note {
                    "Usage is kept in slots of " (minutes) " minutes of UTC (" code { "WINDOW_MINS" } "), and days of " bdi { (self.name()) }
                    " begin inside one. So each day and month here begins with that slot, less than " (minutes)
                    " minutes before midnight, and the one before it ends there: no usage is shown twice. Hours are those of UTC."
                }
            }
        }
    }
}

fn timestamp(at: Millis) -> Timestamp {
    Timestamp {
        seconds: at.div_euclid(1_000),
        nanos: 0,
    }
}

/// The answer to the form that chooses a zone: the same page, and a cookie. Links of other sites choose nothing.
pub(super) fn chosen(
    visitor: &Visitor,
    place: Place,
    head: &Parts,
) -> Option<Result<Response, Failure>> {
    let query = &visitor.query;
    let is_asked = query.pairs().any(|(name, _)| name == CHOSEN);
    if !is_asked || !visitor.is_own_request {
        return None;
    }
    let tz = match parse_zone(query.get(CHOSEN)) {
        Ok(tz) => tz,
        Err(violation) => return Some(Err(Failure::invalid(violation.message))),
    };
    let path = visitor.path.map_or("/", HttpPath::name);
    // The token of a page holds for its period, which begins elsewhere in another zone.
    let rest = query.with(&[(CHOSEN, ""), (NAMED, ""), (PAGE, "")]);
    let to = if rest.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{rest}")
    };
    let headers = &head.headers;
    let is_secure = origin::is_secure(headers, place) || cookie::has_secure(headers);
    let cookie = cookie::set_zone(tz, head, is_secure);
    let cookie = cookie.map(|value| (header::SET_COOKIE, value));
    let mut answer = see_other(&to);
    answer.headers_mut().extend(cookie);
    Some(Ok(answer))
}

/// The form, on every page.
pub(super) fn form(visitor: &Visitor) -> Markup {
    let path = visitor.path.map_or("/", HttpPath::name);
    let zone = visitor.zone.zone();
    let name = zone.map_or("", Zone::name);
    let others = visitor.query.pairs();
    let others =
        others.filter(|(name, value)| ![NAMED, CHOSEN, PAGE].contains(name) && !value.is_empty());
    html! {
        form .zone method="get" action=(path) {
            @for (name, value) in others { input type="hidden" name=(name) value=(value); }
            label for="field-zone" { "Time zone of charts and days" }
            input #field-zone name=(CHOSEN) value=(name) placeholder="Europe/Vienna" maxlength="64" autocomplete="off" spellcheck="false";
            button .quiet type="submit" { "Set" }
        }
    }
}

/// The zone that an address names, as a field of another form of the page.
pub(super) fn hidden(visitor: &Visitor) -> Markup {
    html! {
        @if !visitor.zone.named().is_empty() {
            input type="hidden" name=(NAMED) value=(visitor.zone.named());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str, mins: u32) -> Zone {
        Zone {
            tz: name.parse().unwrap(),
            slots: Slots::from_mins(mins).unwrap(),
        }
    }

    fn seconds(period: Period) -> (i64, i64) {
        (period.start.unwrap().seconds, period.end.unwrap().seconds)
    }

    #[test]
    fn months_begin_in_the_zone_and_do_not_overlap() {
        // 2026-01-01T00:30Z is still the old year in New York.
        let now = 1_767_227_400_000;
        let months = |name, mins| {
            let months = zone(name, mins).last_months(now, 3).into_iter();
            months.map(seconds).collect::<Vec<_>>()
        };
        assert_eq!(
            months("UTC", 60),
            [
                (1_767_225_600, 1_769_904_000),
                (1_764_547_200, 1_767_225_600),
                (1_761_955_200, 1_764_547_200),
            ]
        );
        assert_eq!(
            months("America/New_York", 60)[0],
            (1_764_565_200, 1_767_243_600)
        );
        for (mins, start) in [(60, 1_767_204_000), (30, 1_767_205_800)] {
            let found = months("Asia/Kolkata", mins);
            assert_eq!(found[0].0, start);
            for pair in found.windows(2) {
                assert_eq!(pair[1].1, pair[0].0);
            }
        }
    }

    #[test]
    fn days_of_an_address_are_edges_of_slots() {
        let query = Query::parse("a=2026-03-29&b=2026-03-30&c=2026-03-29T00%3A10%3A00Z");
        let at = |name, zone: Zone| zone.time(&query, name).unwrap().unwrap().seconds;
        // The clocks of Vienna changed on the 29th.
        let vienna = zone("Europe/Vienna", 60);
        assert_eq!(at("b", vienna) - at("a", vienna), 23 * 3_600);
        let india = zone("Asia/Kolkata", 60);
        // 2026-03-28T18:00:00Z
        assert_eq!(at("a", india), 1_774_720_800);
        assert_eq!(at("a", zone("Asia/Kolkata", 30)), 1_774_722_600);
        // A time is the one that was given.
        assert_eq!(at("c", india), 1_774_743_000);
    }

    #[test]
    fn what_is_not_shown_by_midnight_is_told() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let year = Period {
            start: at(1_767_225_600),
            end: at(1_798_761_600),
        };
        for (name, mins, is_told) in [
            ("UTC", 60, false),
            ("Europe/Vienna", 60, false),
            ("Asia/Kolkata", 60, true),
            ("Asia/Kolkata", 30, false),
            ("Asia/Kathmandu", 30, true),
            // A half hour in winter only.
            ("Australia/Lord_Howe", 60, true),
        ] {
            let note = zone(name, mins).note(year).into_string();
            assert_eq!(!note.is_empty(), is_told, "{name} {mins}");
        }
    }

    #[test]
    fn an_address_comes_before_the_cookie_and_a_wrong_cookie_is_none() {
        let place = Place {
            is_tls: false,
            is_loopback: true,
        };
        let read = |query: &str, cookie: &str| {
            let head = http::Request::builder().header(header::COOKIE, cookie);
            let head = head.body(()).unwrap().into_parts().0;
            let slots = Slots::from_mins(60).unwrap();
            Choice::read(&Query::parse(query), &head, place, slots)
        };
        let cookie = "usage_console_zone=Asia/Kolkata";
        for (query, cookie, name, named) in [
            ("", "", "UTC", ""),
            ("", cookie, "Asia/Kolkata", ""),
            ("tz=Europe/Vienna", cookie, "Europe/Vienna", "Europe/Vienna"),
            ("", "usage_console_zone=Mars", "UTC", ""),
            ("", "usage_console_zone=\"><script>", "UTC", ""),
        ] {
            let choice = read(query, cookie);
            assert_eq!(choice.zone().unwrap().name(), name, "{query} {cookie}");
            assert_eq!(choice.named(), named);
        }
        let wrong = read("tz=Mars", cookie);
        assert!(wrong.zone().unwrap_err().message.contains("Mars"));
        assert_eq!(wrong.named(), "");
    }
}
