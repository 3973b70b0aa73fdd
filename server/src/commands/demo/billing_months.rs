//! The demo's second part: months pass, and all counted usage reaches a final invoice.

use std::{io::Write, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::Control;
use usage_client::{
    Batch, CancelSubscription, ChangePlan, Increment, InvoiceState, ListReports, ReportState,
    SubscriptionChange, UsageClient,
};

use super::{
    accounts::{FREE, LINKED, METERS},
    error::{DemoError, Result},
    invoices::Invoices,
    plans::PRO,
    tables::MAX_REPORTS,
    time::Time,
};

/// When the usage of the days before is counted, in days after the start of a month.
const USAGE_DAYS: [i64; 3] = [9, 19, 27];
/// The usage of the days of a week, in percent.
const WEEK: [i64; 7] = [90, 110, 120, 105, 95, 40, 30];
/// Slightly longer than the service waits before it closes a period.
const AFTER_CLOSING: TimeDelta = TimeDelta::minutes(6);
/// Slightly longer than an invoice is a draft.
const AFTER_DRAFT: TimeDelta = TimeDelta::minutes(70);
/// Slightly longer than the time between two verifications.
const BETWEEN_VERIFICATIONS: TimeDelta = TimeDelta::minutes(61);
/// Verifications after which Stripe's totals have what was sent: events of the last minutes wait for the next one.
const MAX_VERIFICATIONS: u32 = 8;
/// How long a verification may take, in real time.
const VERIFICATION_TIMEOUT: Duration = Duration::from_secs(3);

/// Dependencies of the billing months.
pub(super) struct BillingMonths<'a> {
    client: &'a UsageClient,
    control: &'a Control,
    time: &'a Time,
    invoices: Invoices,
}

impl<'a> BillingMonths<'a> {
    pub(super) fn new(client: &'a UsageClient, control: &'a Control, time: &'a Time) -> Self {
        Self {
            client,
            control,
            time,
            invoices: Invoices::default(),
        }
    }

    /// Two periods end, a plan changes, one subscription is cancelled now and one at its period's end.
    pub(super) async fn run(mut self, out: &mut (dyn Write + Send)) -> Result<()> {
        let [(first, _), (second, _)] = LINKED;
        self.pass_a_month(out).await?;
        let end = self.pass_a_month(out).await?;
        self.change_plan(first, out, end).await?;
        self.cancel_now(second, out).await?;
        self.cancel_at_period_end(first, out).await
    }

    /// Usage on both sides of a period's end is charged on two invoices. Returns the period's end.
    async fn pass_a_month(&mut self, out: &mut (dyn Write + Send)) -> Result<DateTime<Utc>> {
        let [(first, _), (second, _)] = LINKED;
        let start = self.time.now();
        let end = self.period_end(first).await?;
        // Every day from the first one on has usage.
        let last = end.signed_duration_since(start).num_days();
        let mut counted = -1;
        for days in USAGE_DAYS.into_iter().chain([last]) {
            let new = days.saturating_sub(counted);
            if new > 0 {
                self.move_to(later(start, TimeDelta::days(days))?).await?;
                self.count_days(first, new, [1_200, 30_000]).await?;
                self.count_days(second, new, [700, 9_000]).await?;
                self.count_days(FREE, new, [60, 400]).await?;
                counted = days;
            }
        }
        self.move_to(end).await?;
        self.count_at(
            first,
            METERS[0].0,
            7,
            later(end, TimeDelta::milliseconds(-1))?,
        )
        .await?;
        self.count_at(first, METERS[0].0, 20, end).await?;
        for account in [first, second] {
            self.wait_until_invoiced(account, end).await?;
        }
        writeln!(
            out,
            "\nA month passes. The billing periods end at {}, inside an hour: {first} uses 7\n\
             in the last millisecond before, and 20 at that time. Five minutes later the service closes and\n\
             sends the usage before it, and an hour later the invoices are final. (The first two are for\n\
             seats, prepaid when the subscriptions started.)",
            end.format("%m-%d %H:%M:%S")
        )?;
        self.print_invoices(out).await?;
        Ok(end)
    }

    /// Usage before a plan change is charged at the old price.
    async fn change_plan(
        &mut self,
        account: &str,
        out: &mut (dyn Write + Send),
        since: DateTime<Utc>,
    ) -> Result<()> {
        self.move_to(later(since, TimeDelta::days(10))?).await?;
        self.count_days(account, 11, [1_300, 24_000]).await?;
        self.count_days(FREE, 11, [60, 400]).await?;
        let change = ChangePlan::new(account, PRO).requested_by("demo");
        let changed = self
            .time
            .until_answered("a plan change", self.client.change_plan(change))
            .await??;
        let (boundary, changed_at) = boundary(changed.change)?;
        writeln!(
            out,
            "\n{account} changes to {PRO} (ChangePlan) at {boundary}. Its earlier usage is sent to\n\
             Stripe first and invoiced at the old price:"
        )?;
        self.print_invoices(out).await?;
        self.count(account, [2_000, 5_000]).await?;
        self.wait_until_verified(account, changed_at).await
    }

    /// Usage is charged on a last invoice, and prepaid seats are credited.
    async fn cancel_now(&mut self, account: &str, out: &mut (dyn Write + Send)) -> Result<()> {
        self.move_to(later(self.time.now(), TimeDelta::days(4))?)
            .await?;
        let [(first, _), _] = LINKED;
        self.count_days(first, 4, [1_900, 20_000]).await?;
        self.count_days(FREE, 4, [60, 400]).await?;
        self.count_days(account, 15, [450, 6_000]).await?;
        let cancel = CancelSubscription::now(account)
            .invoice_now(true)
            .prorate(true)
            .requested_by("demo");
        let changed = self
            .time
            .until_answered("a cancel", self.client.cancel_subscription(cancel))
            .await??;
        let (boundary, cancelled_at) = boundary(changed.change)?;
        writeln!(
            out,
            "\n{account} is cancelled at {boundary} (CancelSubscription: now, with invoice_now and\n\
             prorate). Its usage is invoiced, and prepaid seats are credited:"
        )?;
        self.print_invoices(out).await?;
        self.wait_until_verified(account, cancelled_at).await
    }

    /// The remaining usage is charged on the invoice of the last period.
    async fn cancel_at_period_end(
        &mut self,
        account: &str,
        out: &mut (dyn Write + Send),
    ) -> Result<()> {
        let cancel = CancelSubscription::at_period_end(account).requested_by("demo");
        let changed = self
            .time
            .until_answered("a cancel", self.client.cancel_subscription(cancel))
            .await??;
        let end = changed
            .account
            .subscription
            .and_then(|subscription| subscription.cancel_at)
            .ok_or_else(|| DemoError::unexpected("the subscription has no end"))?;
        let before = self.time.now();
        let days = end.signed_duration_since(before).num_days();
        self.move_to(later(before, TimeDelta::days(days))?).await?;
        self.count_days(account, days, [2_100, 28_000]).await?;
        self.count_days(FREE, days, [60, 400]).await?;
        self.move_to(end).await?;
        self.wait_until_invoiced(account, end).await?;
        writeln!(
            out,
            "\n{account} is cancelled at its period's end, uses more until then, and gets its last invoice:"
        )?;
        self.print_invoices(out).await
    }

    /// Moves the clocks. If midnight passes, waits until the scheduled report is sent.
    async fn move_to(&self, at: DateTime<Utc>) -> Result<()> {
        let before = self.time.now().date_naive();
        self.time.move_to(at).await?;
        if at.date_naive() != before {
            let waiting = [ReportState::Open, ReportState::Closed, ReportState::Sending];
            self.wait_until_none(waiting.to_vec(), "the nightly report")
                .await?;
        }
        Ok(())
    }

    /// Waits until the service has sent the usage of a period that ended, its invoice is final, and Stripe's totals were seen to
    /// have the usage. Days pass next, and the comparison with the invoice would not wait for the totals that long.
    async fn wait_until_invoiced(&self, account: &str, end: DateTime<Utc>) -> Result<()> {
        self.move_at_least_to(later(end, AFTER_CLOSING)?).await?;
        self.time
            .until("the usage of an ended period", || async move {
                let all = ListReports::new().account(account);
                let reports = self.list(all).await?;
                let mut own = reports.iter().filter(|report| report.window.start < end);
                Ok(own.all(|report| report.reported).then_some(()))
            })
            .await?;
        self.move_at_least_to(later(end, AFTER_DRAFT)?).await?;
        self.time
            .until("a final invoice", || async move {
                let known = self.client.get_account(account).await?;
                let periods = known.subscription.map(|known| known.periods);
                let mut ended = periods
                    .iter()
                    .flatten()
                    .filter(|period| period.period.end == end);
                Ok(ended
                    .all(|period| period.invoice_state == InvoiceState::Final)
                    .then_some(()))
            })
            .await?;
        self.wait_until_verified(account, end).await
    }

    /// Lets hours pass until Stripe's totals were seen to have an account's usage of before a time.
    async fn wait_until_verified(&self, account: &str, before: DateTime<Utc>) -> Result<()> {
        for _ in 0..MAX_VERIFICATIONS {
            let seen = self.time.until("Stripe's totals", || async move {
                let accepted = ListReports::new()
                    .account(account)
                    .states([ReportState::Accepted]);
                let waiting = self.list(accepted).await?;
                let lacks = waiting.iter().any(|report| report.window.start < before);
                Ok((!lacks).then_some(()))
            });
            if let Ok(seen) = tokio::time::timeout(VERIFICATION_TIMEOUT, seen).await {
                return seen;
            }
            let next = later(self.time.now(), BETWEEN_VERIFICATIONS)?;
            self.move_at_least_to(next).await?;
        }
        Err(DemoError::unexpected(format!(
            "Stripe's totals do not have the usage of {account}"
        )))
    }

    /// Moves the clocks unless they are already later.
    async fn move_at_least_to(&self, at: DateTime<Utc>) -> Result<()> {
        let sent = [ReportState::Closed, ReportState::Sending];
        self.wait_until_none(sent.to_vec(), "reports to be sent")
            .await?;
        if self.time.now() < at {
            self.move_to(at).await?;
        }
        Ok(())
    }

    async fn wait_until_none(&self, states: Vec<ReportState>, what: &str) -> Result<()> {
        self.time
            .until(what, || async {
                let found = ListReports::new().states(states.clone()).page_size(1);
                let page = self.client.list_reports(found).await?;
                Ok(page.reports.is_empty().then_some(()))
            })
            .await
    }

    async fn list(&self, filter: ListReports) -> Result<Vec<usage_client::UsageReport>> {
        let listed = self.client.list_all_reports(filter, MAX_REPORTS).await?;
        Ok(listed.reports)
    }

    /// Counts usage of each meter now and at this time of the days before, more on some days than on others.
    async fn count_days(&self, account: &str, days: i64, quantities: [i64; 2]) -> Result<()> {
        let now = self.time.now();
        let mut batch = Vec::new();
        for (day, percent) in (0..days).zip(WEEK.into_iter().cycle()) {
            let at = later(now, TimeDelta::days(day.saturating_neg()))?;
            for ((meter, _), quantity) in METERS.into_iter().zip(quantities) {
                let quantity = quantity.saturating_mul(percent).div_euclid(100);
                let increment = Increment::new(account).meter(meter);
                batch.push(increment.quantity(quantity).timestamp(at));
            }
        }
        let batch = batch.into_iter().collect::<Batch>();
        self.client.increment_batch(batch).await?;
        Ok(())
    }

    /// Counts usage of each meter now.
    async fn count(&self, account: &str, quantities: [i64; 2]) -> Result<()> {
        let now = self.time.now();
        for ((meter, _), quantity) in METERS.into_iter().zip(quantities) {
            self.count_at(account, meter, quantity, now).await?;
        }
        Ok(())
    }

    async fn count_at(
        &self,
        account: &str,
        meter: &str,
        quantity: i64,
        at: DateTime<Utc>,
    ) -> Result<()> {
        let increment = Increment::new(account)
            .meter(meter)
            .quantity(quantity)
            .timestamp(at);
        self.client.increment(increment).await?;
        Ok(())
    }

    /// The end of the account's current billing period.
    async fn period_end(&self, account: &str) -> Result<DateTime<Utc>> {
        let now = self.time.now();
        let known = self.client.get_account(account).await?;
        known
            .subscription
            .into_iter()
            .flat_map(|subscription| subscription.periods)
            .map(|period| period.period)
            .find(|period| period.start <= now && now < period.end)
            .map(|period| period.end)
            .ok_or_else(|| {
                DemoError::unexpected(format!("{account} has no current billing period"))
            })
    }

    async fn print_invoices(&mut self, out: &mut (dyn Write + Send)) -> Result<()> {
        let table = self
            .invoices
            .new_invoices(self.client, self.control)
            .await?;
        writeln!(out, "{table}")?;
        Ok(())
    }
}

fn later(at: DateTime<Utc>, by: TimeDelta) -> Result<DateTime<Utc>> {
    at.checked_add_signed(by)
        .ok_or_else(|| DemoError::unexpected("the time is outside the calendar"))
}

/// The boundary of a change, as text and as a time.
fn boundary(change: Option<SubscriptionChange>) -> Result<(String, DateTime<Utc>)> {
    let change = change.ok_or_else(|| DemoError::unexpected("nothing was changed"))?;
    let text = change.boundary.format("%m-%d %H:%M:%S%.3f").to_string();
    Ok((text, change.boundary))
}
