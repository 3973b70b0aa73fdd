//! Places in lists of reports, after which the next page begins.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use crate::{
    domain::{Millis, account_id::AccountId, report::Report},
    entity::{open_report, usage_report},
};

/// The place of an open report, in the order in which they are locked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OpenPlace {
    pub(crate) account_id: AccountId,
    pub(crate) window_start: Millis,
    pub(crate) meter: String,
}

/// A place in a list of reports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReportPlace {
    /// In a list of some accounts' reports: by the id.
    Id(Uuid),
    /// In a list of all reports: the open ones.
    Open(OpenPlace),
    /// In a list of all reports: the closed ones, by the order in which they were closed.
    Closed(i64),
}

/// A report, and its place in the list that it was read for.
#[derive(Clone, Debug)]
pub(crate) struct ReportWithPlace {
    pub(crate) report: Report,
    pub(crate) place: ReportPlace,
}

impl OpenPlace {
    pub(crate) fn of(row: &open_report::Model) -> Self {
        Self {
            account_id: row.account_id.clone(),
            window_start: row.window_start,
            meter: row.meter.clone(),
        }
    }
}

impl ReportWithPlace {
    pub(super) fn by_id(report: Report) -> Self {
        Self {
            place: ReportPlace::Id(report.id),
            report,
        }
    }

    pub(super) fn open(row: open_report::Model) -> Self {
        Self {
            place: ReportPlace::Open(OpenPlace::of(&row)),
            report: row.into(),
        }
    }

    pub(super) fn closed(row: usage_report::Model) -> Self {
        Self {
            place: ReportPlace::Closed(row.number),
            report: row.into(),
        }
    }
}

/// As text in a page token.
impl fmt::Display for ReportPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "id {id}"),
            Self::Open(place) => write!(
                f,
                "open {} {} {}",
                place.account_id.as_str(),
                place.window_start,
                place.meter
            ),
            Self::Closed(number) => write!(f, "closed {number}"),
        }
    }
}

/// The text is not that of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoPlace;

impl FromStr for ReportPlace {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        // No account has a space.
        let parts: Vec<&str> = text.splitn(4, ' ').collect();
        match parts.as_slice() {
            ["id", id] => Uuid::parse_str(id).map(Self::Id).map_err(|_| NoPlace),
            ["open", account, start, meter] => Ok(Self::Open(OpenPlace {
                account_id: AccountId::parse(account).map_err(|_| NoPlace)?,
                window_start: start.parse().map_err(|_| NoPlace)?,
                meter: (*meter).to_owned(),
            })),
            ["closed", number] => number.parse().map(Self::Closed).map_err(|_| NoPlace),
            _ => Err(NoPlace),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_is_read_back_from_its_text(
            account in "[A-Za-z0-9._:@/+=-]{1,128}",
            (window_start, number, id) in any::<(i64, i64, u128)>(),
            meter in ".{0,64}",
        ) {
            let account_id = AccountId::parse(&account).unwrap();
            let open = ReportPlace::Open(OpenPlace { account_id, window_start, meter });
            for place in [open, ReportPlace::Closed(number), ReportPlace::Id(Uuid::from_u128(id))] {
                prop_assert_eq!(place.to_string().parse(), Ok(place));
            }
        }

        #[test]
        fn another_text_is_refused_and_never_panics(text in ".*") {
            let _ = text.parse::<ReportPlace>();
        }
    }
}
