//! The look-up after a restore: compares Stripe's total of each hour with the reports of the hour, and records which of
//! them Stripe has.
//!
//! The database is read before Stripe, and nothing of the customer and meter is sent meanwhile: what arrives in between
//! makes Stripe's total larger, and then less is sent. The rule is in `domain::restore`.

use std::collections::BTreeSet;

use crate::{
    domain::{
        DAY_MS, HOUR_MS, Millis,
        report::Report,
        restore::{AtStripe, decide_hour},
        start_of,
        stream::Stream,
        window::Interval,
    },
    error::Error,
    store::{
        Store,
        restore_look_up::{AlreadySent, HourReports, LookUpResults},
    },
    stripe::{Failure, Stripe, event_summaries::Grouping},
};

/// The longest range that is read at once. Stripe's totals of its hours are one page.
const AT_ONCE_MS: Millis = 4 * DAY_MS;

/// The hours of one customer and meter to look up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookUp<'a> {
    pub(crate) store: &'a Store,
    pub(crate) stripe: &'a Stripe,
    pub(crate) stream: &'a Stream,
    pub(crate) event_name: &'a str,
    /// From one full hour to another.
    pub(crate) range: Interval,
    pub(crate) restored_at: Option<Millis>,
    /// Whether the results are recorded.
    pub(crate) records: bool,
}

/// One hour, compared.
#[derive(Clone, Debug)]
pub(crate) struct ComparedHour {
    /// Its start.
    pub(crate) hour: Millis,
    pub(crate) stripe_total: i64,
    /// What the database has of it that Stripe has too, without what was entered as already sent.
    pub(crate) known: i64,
    /// What Stripe has beyond the database.
    pub(crate) already_sent: i64,
    /// What was entered as already sent before.
    pub(crate) entered: i64,
    /// The number and total of the reports that stay undecided.
    pub(crate) undecided: (usize, i64),
    /// The number and total of the reports that are sent.
    pub(crate) to_send: (usize, i64),
    /// Whether nothing could be decided yet.
    pub(crate) has_uncertain: bool,
    /// Why reports stay undecided.
    pub(crate) why: String,
}

/// Why a look-up failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookUpError {
    #[error("{}", .0.message())]
    Stripe(Failure),
    #[error(transparent)]
    Store(#[from] Error),
}

impl LookUp<'_> {
    /// Compares every hour of the range that has reports or a total at Stripe.
    pub(crate) async fn compare(&self, now: Millis) -> Result<Vec<ComparedHour>, LookUpError> {
        let mut compared = Vec::new();
        let mut start = self.range.start;
        while start < self.range.end {
            let end = start.saturating_add(AT_ONCE_MS).min(self.range.end);
            compared.extend(self.compare_part(Interval { start, end }, now).await?);
            start = end;
        }
        Ok(compared)
    }

    async fn compare_part(
        &self,
        part: Interval,
        now: Millis,
    ) -> Result<Vec<ComparedHour>, LookUpError> {
        let (stream, event_name) = (self.stream, self.event_name);
        let hours = self.store.hours_of(stream, part, self.restored_at);
        let mut hours = hours.await?;
        let totals = self
            .stripe
            .totals(event_name, &stream.customer, part, Grouping::Hour)
            .await
            .map_err(LookUpError::Stripe)?;
        let starts: BTreeSet<Millis> = hours.keys().chain(totals.keys()).copied().collect();
        let mut compared = Vec::new();
        for start in starts {
            let reports = hours.remove(&start).unwrap_or_default();
            let Some(stripe_total) = totals.get(&start).copied().unwrap_or(Some(0)) else {
                return Err(LookUpError::Stripe(Failure::NoAnswer(
                    "Stripe's total of an hour is not a whole number below 2^53".to_owned(),
                )));
            };
            compared.push(self.compare_hour(start, reports, stripe_total, now).await?);
        }
        Ok(compared)
    }

    async fn compare_hour(
        &self,
        hour: Millis,
        reports: HourReports,
        stripe_total: i64,
        now: Millis,
    ) -> Result<ComparedHour, LookUpError> {
        let beyond = stripe_total.saturating_sub(reports.accepted);
        let candidates = reports.to_decide(self.restored_at);
        let mut result = decide_hour(beyond, &candidates);
        if reports.has_uncertain {
            result.reports = vec![AtStripe::Undecided; candidates.len()];
            // What the others may be is not entered.
            result.already_sent = result
                .already_sent
                .saturating_sub(reports.uncertain.max(0))
                .max(0);
        }
        // Stripe may have what was given up, and it is counted.
        result.already_sent = result
            .already_sent
            .saturating_sub(reports.given_up.max(0))
            .max(0);
        let why = if reports.has_uncertain {
            "another report of its hour has no final answer yet; it is looked up again in an hour"
                .to_owned()
        } else {
            format!(
                "counted before a restore, and Stripe has {beyond} more units of its hour than the database: this does not show whether Stripe has it"
            )
        };
        let mut compared = ComparedHour {
            hour,
            stripe_total,
            known: reports.accepted,
            already_sent: result.already_sent,
            entered: reports.already_sent,
            undecided: (0, 0),
            to_send: (0, 0),
            has_uncertain: reports.has_uncertain,
            why: why.clone(),
        };
        for (candidate, at_stripe) in candidates.iter().zip(&result.reports) {
            compared.add(candidate.quantity, *at_stripe);
        }
        if self.records && !candidates.is_empty() {
            let decided: Vec<(Report, AtStripe)> =
                reports.candidates.into_iter().zip(result.reports).collect();
            // Repeated usage takes the place of what was entered.
            let is_less = compared.already_sent < compared.entered
                && !compared.has_uncertain
                && compared.undecided.0 == 0;
            let first = decided.first().filter(|_| is_less);
            let already_sent = first.map(|(report, _)| AlreadySent {
                stream: self.stream,
                hour,
                account: &report.account_id,
                quantity: compared.already_sent,
            });
            let results = LookUpResults {
                reports: &decided,
                taken: reports.taken,
                why,
                already_sent,
            };
            self.store.record_look_up(&results, now).await?;
            if is_less {
                compared.entered = compared.already_sent;
            }
        }
        Ok(compared)
    }
}

impl ComparedHour {
    fn add(&mut self, quantity: i64, at_stripe: AtStripe) {
        let count = |(number, total): (usize, i64), quantity: i64| {
            (number.saturating_add(1), total.saturating_add(quantity))
        };
        match at_stripe {
            AtStripe::All => self.known = self.known.saturating_add(quantity),
            AtStripe::Nothing => self.to_send = count(self.to_send, quantity),
            AtStripe::Undecided => self.undecided = count(self.undecided, quantity),
            AtStripe::Part(part) => {
                self.known = self.known.saturating_add(part);
                self.to_send = count(self.to_send, quantity.saturating_sub(part));
            }
        }
    }
}

/// The hours from the one that contains a time to the one after now.
pub(crate) fn hours_since(at: Millis, now: Millis) -> Interval {
    let start = |at: Millis| start_of(HOUR_MS, at);
    Interval {
        start: start(at),
        end: start(now).saturating_add(HOUR_MS),
    }
}
