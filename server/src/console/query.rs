//! What a page is asked for: the parameters of its address, or the fields of a form.

use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use prost_types::Timestamp;
use url::form_urlencoded;

use super::calls::Failure;
use crate::domain::{Millis, period::day_start, violation::quoted};

#[derive(Default)]
pub(super) struct Query(Vec<(String, String)>);

/// Only names: the form to sign in has a key.
impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        Self(
            form_urlencoded::parse(text.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// The value of a parameter, without spaces around it; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.trim())
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.get(name).to_owned()
    }

    /// All of them.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.0.iter();
        pairs.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A time: `2026-03-10`, which is its first moment in the zone, or in RFC 3339.
    ///
    /// # Errors
    /// It is another text.
    pub(super) fn time(&self, name: &str, zone: Tz) -> Result<Option<Timestamp>, Failure> {
        self.time_by(name, |date| day_start(date, zone))
    }

    /// The same, with the first moment of a day by another rule.
    ///
    /// # Errors
    /// It is another text.
    pub(super) fn time_by(
        &self,
        name: &str,
        day_start: impl Fn(NaiveDate) -> Option<Millis>,
    ) -> Result<Option<Timestamp>, Failure> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        let time = DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc));
        let of_day = || {
            let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            DateTime::from_timestamp_millis(day_start(day)?)
        };
        let time = time.ok().or_else(of_day);
        let time = time.ok_or_else(|| {
            Failure::invalid(format!(
                "{name} is {}; it must be a day such as 2026-03-10, or a time such as 2026-03-10T12:00:00Z",
                quoted(text)
            ))
        })?;
        Ok(Some(Timestamp {
            seconds: time.timestamp(),
            nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
        }))
    }

    /// The same parameters with others in the place of some, as a query. Empty ones are left out.
    pub(super) fn with(&self, others: &[(&str, &str)]) -> String {
        let is_other = |name: &str| others.iter().any(|(other, _)| *other == name);
        let kept = self.0.iter().filter(|(name, _)| !is_other(name));
        let kept = kept.map(|(name, value)| (name.as_str(), value.as_str()));
        query_of(kept.chain(others.iter().copied()))
    }
}

/// Parameters as a query, without the empty ones.
pub(super) fn query_of<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.filter(|(_, value)| !value.is_empty()));
    query.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_days_of_the_zone_or_in_rfc_3339() {
        let query = Query::parse("a=2026-03-10&b=2026-03-10T12%3A00%3A00%2B01%3A00&c=tomorrow&d=");
        let seconds = |name, zone| {
            query
                .time(name, zone)
                .map(|time| time.map(|time| time.seconds))
        };
        assert_eq!(seconds("a", Tz::UTC).unwrap(), Some(1_773_100_800));
        assert_eq!(
            seconds("a", Tz::Europe__Vienna).unwrap(),
            Some(1_773_097_200)
        );
        assert_eq!(seconds("b", Tz::UTC).unwrap(), Some(1_773_140_400));
        assert_eq!(seconds("d", Tz::UTC).unwrap(), None);
        let failure = seconds("c", Tz::UTC).unwrap_err();
        assert!(failure.message.contains("c is \"tomorrow\""), "{failure:?}");
    }

    #[test]
    fn values_are_not_shown() {
        let query = Query::parse("key=ub_recognisable&next=%2F");
        assert_eq!(format!("{query:?}"), "[\"key\", \"next\"]");
    }

    #[test]
    fn parameters_are_replaced_and_escaped() {
        let query = Query::parse("id=a%2Fb&page=1&state=");
        assert_eq!(query.get("id"), "a/b");
        assert_eq!(query.with(&[("page", "2")]), "id=a%2Fb&page=2");
        assert_eq!(query.with(&[("page", "")]), "id=a%2Fb");
        assert_eq!(
            query_of([("id", "\"><script>")].into_iter()),
            "id=%22%3E%3Cscript%3E"
        );
    }
}
