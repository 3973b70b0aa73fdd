//! The job that reads invoices: it compares each ended billing period's usage in Stripe's totals with the lines of its
//! final invoices. Equal usage becomes `invoiced`; anything else is recorded, logged and counted once.
//!
//! When a period is compared next is in the database, so that the next run continues where this one ended, on whichever
//! replica. Nothing is corrected or sent. What cannot be read holds up only the periods that it may concern.

mod lines;
mod tell;

use std::{collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;

use self::{
    lines::{lines_of, unread_of},
    tell::tell,
};
use super::{
    job::{Job, Next, Spec, Turn},
    wake::Wake,
};
use crate::{
    domain::{
        DAY_MS, HOUR_MS, MINUTE_MS, Millis,
        account_id::AccountId,
        billing_period::BillingPeriod,
        invoice_comparison::{
            CLOCK_DIFFERENCE_MS, Candidate, InvoiceFinding, Judgement, LONGEST_DRAFT_MS, OLDEST_MS,
            PeriodReports, judge,
        },
        invoice_cycle::next_cycle_end,
        invoice_line::{Invoice, InvoiceLine, billed_period, split_period},
        overlapping_periods::{OtherPeriod, charged_reports, without_shared},
        price_split::{join, periods_around},
        stream::Stream,
    },
    error::{Error, Result},
    metrics,
    read_rate::ReadRate,
    store::{
        Store,
        invoice_comparison::{ComparedSubscription, ComparisonResult, Recorded},
    },
    stripe::{Failure, Stripe},
};

/// The number of periods that one run compares.
const PERIODS_PER_RUN: u64 = 200;
/// Subscriptions whose invoices are read a second.
const READS_PER_SEC: u32 = 10;
/// The wait before a subscription is read again whose invoices could not be read, and the same if Stripe refuses it.
const NO_ANSWER_WAIT_MS: Millis = 5 * MINUTE_MS;
const REFUSED_WAIT_MS: Millis = DAY_MS;
const DENIED_WAIT_MS: Millis = HOUR_MS;
/// The wait before a period is compared again whose reports changed meanwhile.
const STALE_WAIT_MS: Millis = MINUTE_MS;
/// The wait before a period is compared again of which too little is stored.
const UNKNOWN_WAIT_MS: Millis = DAY_MS;

/// Compares usage with invoices.
pub(crate) struct InvoiceComparison {
    store: Store,
    stripe: Stripe,
    interval: Duration,
    shutdown: CancellationToken,
    rate: ReadRate,
}

/// A period with its reports, the lines that bill it, and the result.
struct Judged<'a> {
    reports: PeriodReports,
    lines: Vec<(&'a Invoice, &'a InvoiceLine)>,
    judgement: Judgement,
    /// The periods of other items that may charge the usage.
    others: Vec<BillingPeriod>,
}

/// Why the comparison of a subscription stopped.
enum Stopped {
    Stripe(Failure),
    Store(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl InvoiceComparison {
    pub(crate) fn new(
        store: Store,
        stripe: Stripe,
        interval: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            store,
            stripe,
            interval,
            shutdown,
            rate: ReadRate::per_sec(READS_PER_SEC),
        }
    }

    /// Compares the due periods of one subscription. Its invoices are read first: what is confirmed meanwhile is found
    /// by the next comparison. Returns what the database refused, if it did.
    async fn compare_subscription(
        &self,
        (account_id, subscription): (&AccountId, &str),
        due: &[BillingPeriod],
        now: Millis,
    ) -> std::result::Result<Option<Error>, Stopped> {
        let oldest = due.iter().map(|period| period.period_start).min();
        let since = now.saturating_sub(OLDEST_MS).min(oldest.unwrap_or(now));
        let known = self
            .store
            .find_compared_subscription(account_id, subscription, since)
            .await;
        let known = match known {
            Ok(Some(known)) => known,
            Ok(None) => {
                let why = "its subscription is not stored";
                let later = now.saturating_add(UNKNOWN_WAIT_MS);
                self.store.delay_comparison(due, (later, why), now).await?;
                return Ok(None);
            }
            Err(error) => {
                self.delay_refused(due, &error, now).await?;
                return Ok(Some(error));
            }
        };
        // A price that was replaced is compared together with its successor.
        let around = due
            .iter()
            .flat_map(|period| periods_around(period, &known.periods));
        let oldest = due.iter().chain(around).map(|period| period.period_start);
        let Some(oldest) = oldest.min() else {
            return Ok(None);
        };
        let invoices = self
            .stripe
            .invoices_of(subscription, oldest.saturating_sub(CLOCK_DIFFERENCE_MS))
            .await
            .map_err(Stopped::Stripe)?;
        let mut refused = None;
        for period in due {
            let only = std::slice::from_ref(period);
            if let Some(unread) = unread_of(period, &known, &invoices) {
                tracing::warn!(account = %account_id, subscription, why = unread.why, "an invoice could not be read; a period that it may charge is compared later");
                let until = now.saturating_add(REFUSED_WAIT_MS);
                self.store
                    .delay_comparison(only, (until, &unread.why), now)
                    .await?;
                continue;
            }
            let compared = self.compare_period(period, &known, &invoices.items, now);
            if let Err(error) = compared.await {
                self.delay_refused(only, &error, now).await?;
                refused.get_or_insert(error);
            }
        }
        Ok(refused)
    }

    /// Delays periods whose comparison the database refused. If it refuses this too, nothing else is tried.
    async fn delay_refused(&self, due: &[BillingPeriod], error: &Error, now: Millis) -> Result<()> {
        let why = format!("the database refused: {}", error.cause());
        let first = due.first();
        tracing::error!(
            account = first.map(|period| period.account_id.as_str()),
            item = first.map(|period| period.item.as_str()),
            why,
            "a billing period could not be compared with its invoices; it is compared later"
        );
        let until = now.saturating_add(NO_ANSWER_WAIT_MS);
        self.store.delay_comparison(due, (until, &why), now).await
    }

    async fn compare_period(
        &self,
        period: &BillingPeriod,
        known: &ComparedSubscription,
        invoices: &[Invoice],
        now: Millis,
    ) -> Result<()> {
        let only = std::slice::from_ref(period);
        let is_young = now.saturating_sub(period.period_end) < LONGEST_DRAFT_MS;
        if known.ended_at.is_none() && known.synced_at < period.period_end && is_young {
            // A price may have been replaced, or the period may have been cut.
            let why = "its subscription was not read since the period's end";
            let later = now.saturating_add(NO_ANSWER_WAIT_MS);
            return self.store.delay_comparison(only, (later, why), now).await;
        }
        let Some(mut own) = self.judge_period(period, known, invoices, now).await? else {
            let why = "the meter of its subscription item is not stored";
            let later = now.saturating_add(UNKNOWN_WAIT_MS);
            return self.store.delay_comparison(only, (later, why), now).await;
        };
        own = self.judge_overlaps(period, own, known, now).await?;
        own.judgement = self.join_prices(period, &own, known, invoices, now).await?;
        let judgement = own.judgement;
        let result = ComparisonResult {
            period,
            customer: &known.customer,
            reports: &own.reports.confirmed,
            lines: &own.lines,
            judgement,
            others: &own.others,
        };
        match self.store.record_comparison(&result, now).await? {
            Recorded::Same => {}
            Recorded::Stale => {
                let why = "its reports changed while they were compared";
                let soon = now.saturating_add(STALE_WAIT_MS);
                self.store.delay_comparison(only, (soon, why), now).await?;
            }
            Recorded::New(moved) => {
                if let Some((transition, number)) = moved {
                    metrics::count_transitions(&transition, number);
                }
                tell(&result, judgement);
            }
        }
        Ok(())
    }

    /// Judges a period by itself. `None` if its meter is not known.
    async fn judge_period<'a>(
        &self,
        period: &BillingPeriod,
        known: &ComparedSubscription,
        invoices: &'a [Invoice],
        now: Millis,
    ) -> Result<Option<Judged<'a>>> {
        if period.meter.is_none() {
            return Ok(None);
        }
        let reports = self.reports_of(period, &known.customer).await?;
        let lines = lines_of(period, invoices, |line| billed_period(line, &known.periods));
        let candidate = Candidate {
            period: period.interval(),
            reports: &reports,
            invoices,
            lines: &lines,
            ended_at: known.ended_at,
            cycle_end: next_cycle_end(period, &known.periods, known.synced_at),
        };
        let judgement = judge(&candidate, now);
        Ok(Some(Judged {
            reports,
            lines,
            judgement,
            others: Vec::new(),
        }))
    }

    /// The result for a period, once it is known which of its usage the items of other subscriptions charge.
    async fn judge_overlaps<'a>(
        &self,
        period: &BillingPeriod,
        own: Judged<'a>,
        known: &ComparedSubscription,
        now: Millis,
    ) -> Result<Judged<'a>> {
        let customer = &known.customer;
        let overlapping = self.store.overlapping_periods(period, customer).await?;
        let mut others = Vec::new();
        for (other, compared) in overlapping {
            let reports = self.reports_of(&other, customer).await?;
            others.push(OtherPeriod {
                period: other,
                charged: compared.map(|compared| charged_reports(&reports, compared.invoiced)),
            });
        }
        let of = (period, own.lines.as_slice());
        let (judgement, reports) = without_shared(of, own.judgement, own.reports, &others, now);
        Ok(Judged {
            reports,
            judgement,
            others: others.into_iter().map(|other| other.period).collect(),
            ..own
        })
    }

    /// The reports of a period, whichever items charge them.
    async fn reports_of(&self, period: &BillingPeriod, customer: &str) -> Result<PeriodReports> {
        let stream = Stream {
            customer: customer.to_owned(),
            meter: period.meter.clone().unwrap_or_default(),
        };
        let time = period.interval();
        let figures = self.store.reports_to_compare(&stream, time).await?;
        Ok(PeriodReports::of(figures, time))
    }

    /// The result for a period, together with those before and after a replacement of its price.
    async fn join_prices(
        &self,
        period: &BillingPeriod,
        own: &Judged<'_>,
        known: &ComparedSubscription,
        invoices: &[Invoice],
        now: Millis,
    ) -> Result<Judgement> {
        let is_different = own
            .judgement
            .compared
            .is_some_and(|compared| compared.finding == InvoiceFinding::Differs);
        let around = periods_around(period, &known.periods);
        if !is_different || around.iter().any(|other| other.period_end > now) {
            return Ok(own.judgement);
        }
        let mut judgements = Vec::new();
        for other in &around {
            if let Some(judged) = self.judge_period(other, known, invoices, now).await? {
                let judged = self.judge_overlaps(other, judged, known, now).await?;
                judgements.push(judged.judgement);
            }
        }
        let of_other_prices = around
            .iter()
            .copied()
            .chain([period])
            .flat_map(|one| lines_of(one, invoices, |line| split_period(line, &known.periods)));
        let split = of_other_prices
            .filter(|(invoice, _)| invoice.status.is_charged())
            .try_fold(0_i64, |sum, (_, line)| sum.checked_add(line.quantity?));
        Ok(join(own.judgement, &judgements, split))
    }

    /// Delays the periods of a subscription whose invoices could not be read. Returns whether others may be.
    async fn delay(&self, failure: &Failure, due: &[BillingPeriod], now: Millis) -> Result<bool> {
        let (wait, may_go_on) = match failure {
            Failure::Denied(_) => (DENIED_WAIT_MS, false),
            failure if failure.is_undecided() => (NO_ANSWER_WAIT_MS, false),
            _ => (REFUSED_WAIT_MS, true),
        };
        let until = now.saturating_add(wait);
        let why = failure.message();
        self.store.delay_comparison(due, (until, why), now).await?;
        Ok(may_go_on)
    }
}

impl Job for InvoiceComparison {
    fn spec(&self) -> Spec {
        Spec {
            name: "invoice comparison",
            interval: self.interval,
            turn: Turn::OneReplica,
            wake: Wake::default(),
        }
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let due = self.store.periods_to_compare(now, PERIODS_PER_RUN).await?;
        let is_full = u64::try_from(due.len()).is_ok_and(|len| len >= PERIODS_PER_RUN);
        let mut by_subscription: BTreeMap<(AccountId, String), Vec<BillingPeriod>> =
            BTreeMap::new();
        for period in due {
            let subscription = period.subscription.clone().unwrap_or_default();
            let key = (period.account_id.clone(), subscription);
            by_subscription.entry(key).or_default().push(period);
        }
        let mut refused = None;
        for ((account_id, subscription), due) in by_subscription {
            let turn = self.rate.turn();
            if self.shutdown.run_until_cancelled(turn).await.is_none() {
                return Ok(Next::Wait);
            }
            let compared = self.compare_subscription((&account_id, &subscription), &due, now);
            match compared.await {
                Ok(error) => refused = refused.or(error),
                Err(Stopped::Store(error)) => return Err(error),
                Err(Stopped::Stripe(failure)) => {
                    tracing::warn!(account = %account_id, subscription, why = failure.message(), "the invoices of a subscription could not be read; they are read again later");
                    // While Stripe does not answer, it is asked once a run.
                    if !self.delay(&failure, &due, now).await? {
                        return refused.map_or(Ok(Next::Wait), Err);
                    }
                }
            }
        }
        if let Some(error) = refused {
            // The others were compared.
            return Err(error);
        }
        Ok(if is_full { Next::RunAgain } else { Next::Wait })
    }
}
