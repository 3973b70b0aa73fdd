//! Sign-offs for the page that shows them. All usage of a month is read, which takes long with very many accounts, so it is read in
//! the background while somebody looks, and shown with its age.

use std::time::Duration;

use maud::{Markup, html};
use moka::{policy::EvictionPolicy, sync::Cache};
use usage_proto::v1::{GetSignOffRequest, GetSignOffResponse};

use super::{
    calls::Failure,
    kept::{Ages, Found, Kept},
    visitor::Visitor,
};
use crate::sign_off::Months;

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
    ///
    /// # Errors
    /// It is no month, the visitor may not see it, or it fails.
    pub(super) async fn read(
        &self,
        visitor: &Visitor,
        month: &str,
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
        kept.get_anew(asking).await
    }
}

/// How old a month is, and what that means.
pub(super) fn age(found: &Found<GetSignOffResponse>) -> Markup {
    let secs = found.age.as_secs();
    let of = |unit: u64| secs.checked_div(unit).filter(|number| *number > 1);
    html! {
        p .faint {
            "Read "
            @if let Some(hours) = of(3_600) { (hours) " h" } @else if let Some(mins) = of(60) { (mins) " min" } @else { (secs) " s" }
            " ago."
            @if !found.answer.closed { " What was counted, billed or decided since then is not shown." }
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
    fn an_age_says_that_an_open_month_changes_and_an_old_one_is_read_again() {
        for (secs, closed, expected) in [
            (0, true, "Read 0 s ago."),
            (119, true, "Read 119 s ago."),
            (120, true, "Read 2 min ago."),
            (7_300, true, "Read 2 h ago. It is being read again."),
            (
                5,
                false,
                "Read 5 s ago. What was counted, billed or decided since then is not shown.",
            ),
        ] {
            let shown = age(&found(secs, closed)).into_string();
            assert_eq!(shown, format!("<p class=\"faint\">{expected}</p>"));
        }
    }
}
