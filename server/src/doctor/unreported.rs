//! Tells how old the oldest usage is that is on its way to Stripe.

use super::finding::{Finding, cause_of};
use crate::{
    domain::{DAY_MS, HOUR_MS, MINUTE_MS, Millis, SECOND_MS, period::rfc3339},
    store::Store,
    workers::{schedule::Schedule, usage_watch::oldest_unreported},
};

const CHECK: &str = "unreported usage";

/// What is too old is a finding of `reports`, `sending` or `schedule`: those say what to do.
pub(super) async fn check(store: &Store, schedule: &Schedule, now: Millis) -> Finding {
    match oldest_unreported(store, schedule.longest_gap_around(now), now).await {
        Ok(age) => Finding::ok(CHECK, fact(age, now)),
        Err(error) => Finding::unchecked(CHECK, &cause_of(&error)),
    }
}

fn fact(age: Option<Millis>, now: Millis) -> String {
    let Some(age) = age else {
        return "none is on its way to Stripe".to_owned();
    };
    format!(
        "the oldest that is on its way to Stripe was counted at {} or later, {} ago at most",
        rfc3339(now.saturating_sub(age)),
        in_words(age)
    )
}

/// A time in its two largest units.
fn in_words(time: Millis) -> String {
    let units = [
        (DAY_MS, "d"),
        (HOUR_MS, "h"),
        (MINUTE_MS, "min"),
        (SECOND_MS, "s"),
    ];
    let mut rest = time;
    let mut parts = Vec::new();
    for (length, name) in units {
        let number = rest.div_euclid(length);
        rest = rest.rem_euclid(length);
        if number > 0 || !parts.is_empty() || length == SECOND_MS {
            parts.push(format!("{number} {name}"));
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_two_units() {
        for (time, words) in [
            (999, "0 s"),
            (61_000, "1 min 1 s"),
            (2 * HOUR_MS + 3 * MINUTE_MS + 4_000, "2 h 3 min"),
            (DAY_MS, "1 d 0 h"),
        ] {
            assert_eq!(in_words(time), words);
        }
        assert_eq!(fact(None, 0), "none is on its way to Stripe");
        assert_eq!(
            fact(Some(HOUR_MS), 1_773_144_000_000),
            "the oldest that is on its way to Stripe was counted at 2026-03-10T11:00:00Z or later, 1 h 0 min ago at most"
        );
    }
}
