//! What `doctor` finds, for the pages that show it: kept for some time, because it asks Stripe and reads the sums of all usage,
//! and everyone who opens the console sees the first page.

use std::time::Duration;

use maud::{Markup, html};
use usage_proto::v1::{DoctorRequest, DoctorResponse};

use super::{
    calls::Failure,
    html::url,
    kept::{Ages, Found, Kept},
    layout::Page,
    visitor::Visitor,
    zone::NAMED,
};
use crate::domain::http_paths::HttpPath;

/// What was found, or nothing yet, or why there is nothing.
pub(super) type Diagnosed = Result<Option<Found<DoctorResponse>>, Failure>;

const AGES: Ages = Ages {
    young: Duration::from_secs(15),
    old: Duration::from_hours(1),
    wait: Duration::from_millis(100),
};
/// What is said of the checks while they run.
pub(super) const CHECKED: &str = "This is being checked.";
/// When a page loads itself again that has nothing to show yet, or only what is old.
pub(super) const REFRESH_SECS: u32 = 2;

pub(super) struct Diagnosis(Kept<DoctorResponse>);

impl Default for Diagnosis {
    fn default() -> Self {
        Self(Kept::new(AGES))
    }
}

impl Diagnosis {
    /// What was found; none if it takes longer than a page waits. It goes on, and the next page shows it.
    ///
    /// # Errors
    /// The visitor may not see it, or it fails.
    pub(super) async fn read(&self, visitor: &Visitor) -> Diagnosed {
        let calls = visitor.calls.clone();
        let asking = async move { calls.doctor(DoctorRequest {}).await };
        // As the call itself checks it.
        if visitor.caller.check_everything().is_err() {
            asking.await?;
            return Ok(None);
        }
        self.0.get(asking).await
    }
}

/// The address that shows a page again, in the same time zone.
pub(super) fn again(visitor: &Visitor, path: HttpPath) -> String {
    url(path, &[(NAMED, visitor.zone.named())])
}

/// In the place of what is not found yet. `what` is a sentence.
pub(super) fn being_checked(what: &str, again: &str) -> Markup {
    html! {
        p #being-checked .note role="status" {
            (what) " "
            a href=(again) { "Load this page again" }
            " in a moment."
        }
    }
}

/// How old a finding is, and that it is looked for again if it is old.
pub(super) fn age(found: &Found<DoctorResponse>) -> Markup {
    let secs = found.age.as_secs();
    html! {
        "Checked "
        @if let Some(hours) = secs.checked_div(3_600).filter(|hours| *hours > 0) { (hours) " h ago." } @else { (secs) " s ago." }
        @if found.is_old { " It is being checked again." }
    }
}

/// A page that loads itself again while there is nothing to show, or only what is old. A failure ends that.
pub(super) fn refreshed(page: Page, again: &str, found: &Diagnosed) -> Page {
    let is_waiting = match found {
        Ok(Some(found)) => found.is_old,
        Ok(None) => true,
        Err(_) => false,
    };
    if is_waiting {
        page.refreshed(REFRESH_SECS, again)
    } else {
        page
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn found(secs: u64) -> Found<DoctorResponse> {
        let age = Duration::from_secs(secs);
        Found {
            answer: Arc::new(DoctorResponse::default()),
            age,
            is_old: age >= AGES.old,
        }
    }

    #[test]
    fn an_age_says_whether_it_is_checked_again() {
        assert_eq!(age(&found(59)).into_string(), "Checked 59 s ago.");
        assert_eq!(
            age(&found(7_300)).into_string(),
            "Checked 2 h ago. It is being checked again."
        );
    }

    #[test]
    fn a_page_loads_itself_again_until_it_has_something_young_or_fails() {
        let is_refreshed = |found: Diagnosed| {
            let page = Page::new("Overview", html! {});
            refreshed(page, "/", &found).is_refreshed()
        };
        assert!(is_refreshed(Ok(None)));
        assert!(is_refreshed(Ok(Some(found(3_600)))));
        assert!(!is_refreshed(Ok(Some(found(3_599)))));
        assert!(!is_refreshed(Err(Failure::invalid("no"))));
    }
}
