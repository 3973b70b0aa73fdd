//! The demo's second act: months pass, and everything that was counted reaches a final invoice.

use std::io::Write;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::Control;
use usage_client::{
    CancelSubscription, ChangePlan, Increment, InvoiceState, ListReports, ReportState,
    SubscriptionChange, UsageClient,
};

use super::{LINKED, METERS, invoices::Invoices, plans::PRO, time::Time};

/// On which days of a month something is used, counted from its start.
const BUSY_DAYS: [i64; 2] = [9, 19];
/// A little longer than it takes until the service closes what was used in a period that ended.
const AFTER_CLOSING: TimeDelta = TimeDelta::minutes(6);
/// A little longer than an invoice is a draft.
const AFTER_DRAFT: TimeDelta = TimeDelta::minutes(70);

/// What the act plays with.
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

    /// A period ends, a plan changes, one subscription is cancelled at once and one at its period's end.
    pub(super) async fn play(mut self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let [(first, _), (second, _)] = LINKED;
        let end = self.a_month_passes(out).await?;
        self.a_plan_changes(first, out, end).await?;
        self.one_is_cancelled(second, out).await?;
        self.one_ends_with_its_period(first, out).await
    }

    /// Usage on both sides of a period's end lands on two invoices; answers that end.
    async fn a_month_passes(
        &mut self,
        out: &mut (dyn Write + Send),
    ) -> anyhow::Result<DateTime<Utc>> {
        let [(first, _), (second, _)] = LINKED;
        let start = self.time.now();
        for days in BUSY_DAYS {
            self.go_to(later(start, TimeDelta::days(days))?).await?;
            self.count(first, [1_200, 30_000]).await?;
            self.count(second, [700, 9_000]).await?;
        }
        let end = self.period_end(first).await?;
        self.go_to(end).await?;
        self.count_at(
            first,
            METERS[0].0,
            7,
            later(end, TimeDelta::milliseconds(-1))?,
        )
        .await?;
        self.count_at(first, METERS[0].0, 20, end).await?;
        for account in [first, second] {
            self.is_charged(account, end).await?;
        }
        writeln!(
            out,
            "\nA month passes. The billing periods end at {}, inside an hour: {first} uses 7\n\
             in the last millisecond before, and 20 at that moment. Five minutes later the service closes and\n\
             sends what was used until then, and an hour later the invoices are final. (The first two are of\n\
             seats, paid ahead when the subscriptions began.)",
            end.format("%m-%d %H:%M:%S")
        )?;
        self.show_invoices(out).await?;
        Ok(end)
    }

    /// What was used before a change is charged by the plan that it was used under.
    async fn a_plan_changes(
        &mut self,
        account: &str,
        out: &mut (dyn Write + Send),
        since: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        self.go_to(later(since, TimeDelta::days(10))?).await?;
        self.count(account, [900, 12_000]).await?;
        let change = ChangePlan::new(account, PRO).requested_by("demo");
        let changed = self
            .time
            .until_answered("a plan change", self.client.change_plan(change))
            .await?
            .context("cannot change a plan")?;
        let boundary = boundary(changed.change)?;
        writeln!(
            out,
            "\n{account} changes to {PRO} (ChangePlan) at {boundary}. What it used before is at\n\
             Stripe first, and is invoiced by the old price:"
        )?;
        self.show_invoices(out).await?;
        self.count(account, [2_000, 5_000]).await
    }

    /// Usage goes on a last invoice, and what was paid ahead for seats is given back.
    async fn one_is_cancelled(
        &mut self,
        account: &str,
        out: &mut (dyn Write + Send),
    ) -> anyhow::Result<()> {
        self.go_to(later(self.time.now(), TimeDelta::days(4))?)
            .await?;
        self.count(account, [450, 6_000]).await?;
        let cancel = CancelSubscription::now(account)
            .invoice_now(true)
            .prorate(true)
            .requested_by("demo");
        let changed = self
            .time
            .until_answered("a cancel", self.client.cancel_subscription(cancel))
            .await?
            .context("cannot cancel a subscription")?;
        let boundary = boundary(changed.change)?;
        writeln!(
            out,
            "\n{account} is cancelled at {boundary} (CancelSubscription: now, with invoice_now and\n\
             prorate). Its usage is invoiced, and what was paid ahead for seats is given back:"
        )?;
        self.show_invoices(out).await
    }

    /// The rest is on the invoice of the last period.
    async fn one_ends_with_its_period(
        &mut self,
        account: &str,
        out: &mut (dyn Write + Send),
    ) -> anyhow::Result<()> {
        let cancel = CancelSubscription::at_period_end(account).requested_by("demo");
        let changed = self
            .time
            .until_answered("a cancel", self.client.cancel_subscription(cancel))
            .await?
            .context("cannot cancel a subscription")?;
        let end = changed
            .account
            .subscription
            .and_then(|subscription| subscription.cancel_at)
            .context("the subscription does not end")?;
        self.go_to(later(end, TimeDelta::days(-2))?).await?;
        self.count(account, [3_100, 8_000]).await?;
        self.go_to(end).await?;
        self.is_charged(account, end).await?;
        writeln!(
            out,
            "\n{account} is cancelled at its period's end, uses more until then, and gets its last invoice:"
        )?;
        self.show_invoices(out).await
    }

    /// Moves the clocks; what is reported by the schedule on the way has arrived in the end.
    async fn go_to(&self, at: DateTime<Utc>) -> anyhow::Result<()> {
        let before = self.time.now().date_naive();
        self.time.move_to(at).await?;
        if at.date_naive() != before {
            let waiting = [ReportState::Open, ReportState::Closed, ReportState::Sending];
            self.until_none_is(waiting.to_vec(), "the nightly report")
                .await?;
        }
        Ok(())
    }

    /// Waits until what was used in a period that ended has been sent by the service's own clock, and its
    /// invoice is final.
    async fn is_charged(&self, account: &str, end: DateTime<Utc>) -> anyhow::Result<()> {
        self.ahead_to(later(end, AFTER_CLOSING)?).await?;
        self.time
            .until("the usage of a period that ended", || async move {
                let all = ListReports::new().account(account);
                let reports = self.list(all).await?;
                let mut own = reports.iter().filter(|report| report.window.start < end);
                Ok(own.all(|report| report.reported).then_some(()))
            })
            .await?;
        self.ahead_to(later(end, AFTER_DRAFT)?).await?;
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
            .await
    }

    /// Moves the clocks, unless they are there already.
    async fn ahead_to(&self, at: DateTime<Utc>) -> anyhow::Result<()> {
        let sent = [ReportState::Closed, ReportState::Sending];
        self.until_none_is(sent.to_vec(), "reports that are on their way")
            .await?;
        if self.time.now() < at {
            self.go_to(at).await?;
        }
        Ok(())
    }

    async fn until_none_is(&self, states: Vec<ReportState>, what: &str) -> anyhow::Result<()> {
        self.time
            .until(what, || async {
                let found = ListReports::new().states(states.clone()).page_size(1);
                let page = self.client.list_reports(found).await?;
                Ok(page.reports.is_empty().then_some(()))
            })
            .await
    }

    async fn list(&self, filter: ListReports) -> anyhow::Result<Vec<usage_client::UsageReport>> {
        let listed = self
            .client
            .list_all_reports(filter, super::tables::REPORTS_READ)
            .await
            .context("cannot list reports")?;
        Ok(listed.reports)
    }

    /// Counts usage of each meter now.
    async fn count(&self, account: &str, quantities: [i64; 2]) -> anyhow::Result<()> {
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
    ) -> anyhow::Result<()> {
        let increment = Increment::new(account)
            .meter(meter)
            .quantity(quantity)
            .timestamp(at);
        self.client
            .increment(increment)
            .await
            .context("cannot count")?;
        Ok(())
    }

    /// When the account's present billing period ends.
    async fn period_end(&self, account: &str) -> anyhow::Result<DateTime<Utc>> {
        let now = self.time.now();
        let known = self.client.get_account(account).await?;
        known
            .subscription
            .into_iter()
            .flat_map(|subscription| subscription.periods)
            .map(|period| period.period)
            .find(|period| period.start <= now && now < period.end)
            .map(|period| period.end)
            .with_context(|| format!("no billing period of {account} is known"))
    }

    async fn show_invoices(&mut self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let table = self.invoices.fresh(self.client, self.control).await?;
        writeln!(out, "{table}")?;
        Ok(())
    }
}

fn later(at: DateTime<Utc>, by: TimeDelta) -> anyhow::Result<DateTime<Utc>> {
    at.checked_add_signed(by)
        .context("the story leaves the calendar")
}

/// The moment from which on a change applies.
fn boundary(change: Option<SubscriptionChange>) -> anyhow::Result<String> {
    let change = change.context("nothing was changed")?;
    Ok(change.boundary.format("%m-%d %H:%M:%S%.3f").to_string())
}
