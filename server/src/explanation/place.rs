//! Where the next page of an explanation begins, as a page token carries it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::{Millis, billing_period::BillingPeriod, key_search::Part, window::Interval},
    store::key_search::KeyPlace,
};

/// The reports whose increments one page searches for at most.
pub(crate) const MAX_SEARCHED: usize = 100;
/// The lines of one page at most.
pub(crate) const MAX_LINES: usize = 100;
/// The same report can be in the lines of several subscriptions.
const MAX_ENTRIES: usize = 1_000;

/// The order of lines: account, meter, start of the billing period, subscription item.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct LineKey(pub(super) String, String, Millis, String);

impl LineKey {
    pub(super) fn of(period: &BillingPeriod) -> Self {
        Self(
            period.account_id.to_string(),
            period.meter.clone().unwrap_or_default(),
            period.period_start,
            period.item.clone(),
        )
    }
}

/// A place among the reports of all lines: after a report of a line, or before all of them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Position {
    pub(super) line: LineKey,
    /// The start of its window, and its id.
    pub(super) after: Option<(Millis, Uuid)>,
}

/// A search for the increments of some reports that has not ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Search {
    /// The lines of the reports.
    pub(super) lines: Vec<LineKey>,
    /// The place of the line in `lines`, the report, and the sum of its increments on the pages before.
    pub(super) reports: Vec<(usize, Uuid, i64)>,
    /// The part of the keys that is read, by its place in [`Part::ALL`].
    pub(super) part: usize,
    /// The key after which it goes on; absent at the beginning of the part.
    pub(super) after: Option<KeyPlace>,
    /// The time near which keys are read first.
    pub(super) near: (Millis, Millis),
}

impl Search {
    pub(super) fn part(&self) -> Option<Part> {
        Part::ALL.get(self.part).copied()
    }
}

/// Where a page begins.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    /// The time whose billing periods are explained.
    time: (Millis, Millis),
    /// The reports that come after those of the search; absent if none do.
    pub(super) next: Option<Position>,
    /// The search that goes on.
    pub(super) search: Option<Search>,
}

impl Place {
    /// Before everything.
    pub(crate) fn first(time: Interval) -> Self {
        Self {
            time: (time.start, time.end),
            next: Some(Position::default()),
            search: None,
        }
    }

    /// The place after a page; absent after the last one.
    pub(super) fn after(&self, next: Option<Position>, search: Option<Search>) -> Option<Self> {
        let is_last = next.is_none() && search.is_none();
        (!is_last).then_some(Self {
            time: self.time,
            next,
            search,
        })
    }

    pub(super) fn time(&self) -> Interval {
        Interval {
            start: self.time.0,
            end: self.time.1,
        }
    }

    /// As text.
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a text that somebody may have made up.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let place: Self = serde_json::from_str(text).ok()?;
        let is_valid = place.search.as_ref().is_none_or(|search| {
            search.part().is_some()
                && search.reports.len() <= MAX_ENTRIES
                && search.lines.len() <= MAX_ENTRIES
                && search
                    .reports
                    .iter()
                    .all(|(line, ..)| *line < search.lines.len())
        });
        is_valid.then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        let line = LineKey("acct".to_owned(), "calls".to_owned(), 7, "si_1".to_owned());
        Place {
            time: (1, 2),
            next: Some(Position {
                line: line.clone(),
                after: Some((3, Uuid::from_u128(4))),
            }),
            search: Some(Search {
                lines: vec![line],
                reports: vec![(0, Uuid::from_u128(5), -6)],
                part: 2,
                after: Some((Uuid::from_u128(8), "acct".to_owned())),
                near: (9, 10),
            }),
        }
    }

    #[test]
    fn a_place_is_read_as_it_was_written() {
        assert_eq!(Place::parse(&place().to_text()), Some(place()));
        let first = Place::first(Interval { start: 1, end: 2 });
        assert_eq!(Place::parse(&first.to_text()), Some(first));
    }

    #[test]
    fn a_place_that_leads_nowhere_is_refused() {
        let mut of_no_part = place();
        of_no_part.search.as_mut().unwrap().part = 3;
        let mut of_no_line = place();
        of_no_line.search.as_mut().unwrap().reports[0].0 = 1;
        let mut too_long = place();
        too_long.search.as_mut().unwrap().reports = vec![(0, Uuid::nil(), 0); 1_001];
        for place in [of_no_part, of_no_line, too_long] {
            assert_eq!(Place::parse(&place.to_text()), None);
        }
        for text in ["", "null", "[]", "{", "{\"time\":[1]}"] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }
}
