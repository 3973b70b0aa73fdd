//! Sign-offs for the page that shows them. All usage of a month is read, which takes long with very many accounts, so it is read in
//! the background while somebody looks, and shown with its age.

use std::time::Duration;

use maud::{Markup, html};
use moka::{policy::EvictionPolicy, sync::Cache};
use prost_types::Timestamp;
use usage_proto::v1::{GetSignOffRequest, GetSignOffResponse};

use super::{
    calls::Failure,
    html::time,
    kept::{Ages, Found, Kept},
    visitor::Visitor,
};
use crate::{domain::Millis, sign_off::Months};

const AGES: Ages = Ages {
    // What is read quickly is read each time: an open month changes.
    young: Duration::ZERO,
    old: Duration::from_hours(1),
    // Whoever asks for a month rather waits than loads the page again.
    wait: Duration::from_secs(3),
};
/// The months that are kept, those that were last looked at.
const MONTHS: u64 = 8;

/// By the name of the month.
pub(super) struct SignOffMonths(Cache<String, Kept<GetSignOffResponse>>);

impl Default for SignOffMonths {
    fn default() -> Self {
        // One that is looked at now comes before others.
        let kept = Cache::builder().eviction_policy(EvictionPolicy::lru());
        let kept = kept.max_capacity(MONTHS);
        Self(kept.build())
    }
}

impl SignOffMonths {
    /// A month; none if it takes longer than a page waits, and was never read. The read goes on, and a later page shows it.
    /// With `is_anew`, what is kept is read again.
    ///
    /// # Errors
    /// It is no month, the visitor may not see it, or it fails.
    pub(super) async fn read(
        &self,
        visitor: &Visitor,
        month: &str,
        is_anew: bool,
    ) -> Result<Option<Found<GetSignOffResponse>>, Failure> {
        let calls = visitor.calls.clone();
        let request = GetSignOffRequest {
            month: month.to_owned(),
        };
        let asking = async move { calls.get_sign_off(request).await };
        // As the call itself checks both. What it refuses takes no place from a month.
        if Months::of(month).is_none() || visitor.caller.check_everything().is_err() {
            asking.await?;
            return Ok(None);
        }
        let kept = self.0.get_with(month.to_owned(), || Kept::new(AGES));
        if is_anew {
            kept.get_now(asking).await
        } else {
            kept.get_anew(asking).await
        }
    }
}

/// Of when a month is, and what that means. A closed one changes too, if an admin corrects it or decides on it.
pub(super) fn age(found: &Found<GetSignOffResponse>, now: Millis) -> Markup {
    let age = Millis::try_from(found.age.as_millis()).unwrap_or(Millis::MAX);
    let as_of = Timestamp {
        seconds: now.saturating_sub(age).div_euclid(1_000),
        nanos: 0,
    };
    let secs = found.age.as_secs();
    let of = |unit: u64| secs.checked_div(unit).filter(|number| *number > 1);
    html! {
        p .faint {
            "Read "
            @if let Some(hours) = of(3_600) { (hours) " h" } @else if let Some(mins) = of(60) { (mins) " min" } @else { (secs) " s" }
            " ago, as of " (time(Some(as_of))) "."
            @if found.answer.closed { " Corrections and decisions since then are not shown." } @else { " What was counted, billed or decided since then is not shown." }
            @if found.is_old { " It is being read again." }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn found(secs: u64, closed: bool) -> Found<GetSignOffResponse> {
        let age = Duration::from_secs(secs);
        let answer = GetSignOffResponse {
            closed,
            ..GetSignOffResponse::default()
        };
        Found {
            answer: Arc::new(answer),
            age,
            is_old: age >= AGES.old,
        }
    }

    #[test]
    fn an_age_says_of_when_it_is_and_that_what_came_since_is_not_shown() {
        const NOW: Millis = 1_800_000_000_000;
        let of_closed = "Corrections and decisions since then are not shown.";
        let of_open = "What was counted, billed or decided since then is not shown.";
        for (secs, closed, ago, expected) in [
            (0, true, "0 s", of_closed.to_owned()),
            (119, true, "119 s", of_closed.to_owned()),
            (120, true, "2 min", of_closed.to_owned()),
            (
                7_300,
                true,
                "2 h",
                format!("{of_closed} It is being read again."),
            ),
            (5, false, "5 s", of_open.to_owned()),
        ] {
            let shown = age(&found(secs, closed), NOW).into_string();
            let seconds = NOW / 1_000 - i64::try_from(secs).unwrap();
            let as_of = time(Some(Timestamp { seconds, nanos: 0 })).into_string();
            assert_eq!(
                shown,
                format!("<p class=\"faint\">Read {ago} ago, as of {as_of}. {expected}</p>")
            );
        }
    }
}
