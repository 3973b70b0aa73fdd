//! The job that reads invoices: it compares each ended billing period's usage in Stripe's totals with the lines of its
//! final invoices. Equal usage becomes `invoiced`; anything else is recorded, logged and counted once.
//!
//! When a period is compared next is in the database, so that the next run continues where this one ended, on whichever
//! replica. Nothing is corrected or sent.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio_util::sync::CancellationToken;

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
            CLOCK_DIFFERENCE_MS, Candidate, Compared, InvoiceFinding, Judgement, OLDEST_MS,
            PeriodReports, judge,
        },
        invoice_line::{Invoice, InvoiceLine, billed_period},
        period::rfc3339,
        stream::Stream,
    },
    error::{Error, Result},
    metrics,
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

/// Compares usage with invoices.
pub(crate) struct InvoiceComparison {
    store: Store,
    stripe: Stripe,
    interval: Duration,
    shutdown: CancellationToken,
    rate: DefaultDirectRateLimiter,
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
        let per_second = NonZeroU32::new(READS_PER_SEC).unwrap_or(NonZeroU32::MIN);
        Self {
            store,
            stripe,
            interval,
            shutdown,
            rate: RateLimiter::direct(Quota::per_second(per_second)),
        }
    }

    /// Compares the due periods of one subscription. Its invoices are read first: what is confirmed meanwhile is found
    /// by the next comparison.
    async fn compare_subscription(
        &self,
        (account_id, subscription): (&AccountId, &str),
        due: &[BillingPeriod],
        now: Millis,
    ) -> std::result::Result<(), Stopped> {
        let since = now.saturating_sub(OLDEST_MS);
        let known = self
            .store
            .find_compared_subscription(account_id, subscription, since)
            .await?;
        let oldest = due.iter().map(|period| period.period_start).min();
        let (Some(known), Some(oldest)) = (known, oldest) else {
            return Ok(self.store.delay_comparison(due, None, now).await?);
        };
        let invoices = self
            .stripe
            .invoices_of(subscription, oldest.saturating_sub(CLOCK_DIFFERENCE_MS))
            .await
            .map_err(Stopped::Stripe)?;
        if let Some(unreadable) = invoices.unreadable.first() {
            // It may be the invoice of any of these periods.
            let failure = Failure::Refused(unreadable.to_string());
            return Err(Stopped::Stripe(failure));
        }
        for period in due {
            let invoices = &invoices.items;
            self.compare_period(period, &known, invoices, now).await?;
        }
        Ok(())
    }

    async fn compare_period(
        &self,
        period: &BillingPeriod,
        known: &ComparedSubscription,
        invoices: &[Invoice],
        now: Millis,
    ) -> Result<()> {
        let only = std::slice::from_ref(period);
        let Some(meter) = period.meter.as_deref() else {
            return self.store.delay_comparison(only, None, now).await;
        };
        let time = period.interval();
        let stream = Stream {
            customer: known.customer.clone(),
            meter: meter.to_owned(),
        };
        let figures = self.store.reports_to_compare(&stream, time).await?;
        let reports = PeriodReports::of(figures, time);
        let lines = lines_of(period, &known.periods, invoices);
        let judgement = judge(
            &Candidate {
                period: time,
                reports: &reports,
                invoices,
                lines: &lines,
                ended_at: known.ended_at,
            },
            now,
        );
        let result = ComparisonResult {
            period,
            customer: &known.customer,
            reports: &reports.confirmed,
            lines: &lines,
            judgement,
        };
        match self.store.record_comparison(&result, now).await? {
            Recorded::Same => {}
            Recorded::Stale => {
                let soon = Some(now.saturating_add(STALE_WAIT_MS));
                self.store.delay_comparison(only, soon, now).await?;
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

    /// Delays the periods of a subscription whose invoices could not be read. Returns whether others may be.
    async fn delay(&self, failure: &Failure, due: &[BillingPeriod], now: Millis) -> Result<bool> {
        let (wait, may_go_on) = match failure {
            Failure::Denied(_) => (DENIED_WAIT_MS, false),
            failure if failure.is_undecided() => (NO_ANSWER_WAIT_MS, false),
            _ => (REFUSED_WAIT_MS, true),
        };
        let until = Some(now.saturating_add(wait));
        self.store.delay_comparison(due, until, now).await?;
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
        for ((account_id, subscription), due) in by_subscription {
            let turn = self.rate.until_ready();
            if self.shutdown.run_until_cancelled(turn).await.is_none() {
                return Ok(Next::Wait);
            }
            let compared = self.compare_subscription((&account_id, &subscription), &due, now);
            match compared.await {
                Ok(()) => {}
                Err(Stopped::Store(error)) => return Err(error),
                Err(Stopped::Stripe(failure)) => {
                    tracing::warn!(account = %account_id, subscription, why = failure.message(), "the invoices of a subscription could not be read; they are read again later");
                    // While Stripe does not answer, it is asked once a run.
                    if !self.delay(&failure, &due, now).await? {
                        return Ok(Next::Wait);
                    }
                }
            }
        }
        Ok(if is_full { Next::RunAgain } else { Next::Wait })
    }
}

/// The lines that bill the usage of a period, with their invoices.
fn lines_of<'a>(
    period: &BillingPeriod,
    periods: &[BillingPeriod],
    invoices: &'a [Invoice],
) -> Vec<(&'a Invoice, &'a InvoiceLine)> {
    let all = invoices
        .iter()
        .flat_map(|invoice| invoice.lines.iter().map(move |line| (invoice, line)));
    all.filter(|(_, line)| {
        billed_period(line, periods).is_some_and(|billed| {
            billed.item == period.item && billed.period_start == period.period_start
        })
    })
    .collect()
}

/// Logs and counts a new difference.
fn tell(result: &ComparisonResult<'_>, judgement: Judgement) {
    let Some(Compared {
        finding,
        reported,
        invoiced,
    }) = judgement.compared
    else {
        return;
    };
    if finding == InvoiceFinding::Equal {
        return;
    }
    metrics::invoice_difference(finding);
    let mut invoices: Vec<&str> = result
        .lines
        .iter()
        .map(|(invoice, _)| invoice.id.as_str())
        .collect();
    invoices.dedup();
    let period = result.period;
    tracing::error!(
        account = %period.account_id,
        customer = result.customer,
        meter = period.meter,
        item = period.item,
        price = period.price,
        start = %rfc3339(period.period_start),
        end = %rfc3339(period.period_end),
        finding = finding.name(),
        reported,
        invoiced,
        invoices = invoices.join(" "),
        "invoices do not charge what was reported; nothing is corrected automatically"
    );
}
