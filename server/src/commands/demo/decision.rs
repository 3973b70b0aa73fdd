//! A report that waits for a decision, for whoever looks at the console.

use fake_stripe::Fault;
use usage_client::{ForceReport, Increment, ListReports, ReportState};

use super::{
    Demo,
    accounts::{LINKED, METERS},
    error::Result,
    plans,
};

/// What the report contains.
const QUANTITY: i64 = 1_234;
/// What Stripe says of it.
const CODE: &str = "parameter_invalid_integer";
const REFUSAL: &str = "payload[value]: this meter takes no more than 1000 at a time.";
/// The path of the requests that send usage.
const METER_EVENTS: &str = "/v1/billing/meter_events";

impl Demo {
    /// Subscribes the first account again, so that usage is billed, and lets Stripe reject a report of it. Returns a line that
    /// says so.
    pub(super) async fn leave_a_decision(&self) -> Result<String> {
        let (account, _) = LINKED[0];
        let (meter, _) = METERS[0];
        self.subscribe_again(account).await?;
        let increment = Increment::new(account).meter(meter).quantity(QUANTITY);
        let increment = increment.timestamp(self.time.now());
        self.client.increment(increment).await?;
        let refuse = Fault::status(400).with_error(CODE, REFUSAL);
        let refuse = refuse.on_path(METER_EVENTS);
        self.fake_stripe.control().script(refuse).await?;
        let mut run = self.client.force_report(ForceReport::all()).await?;
        while run.next().await?.is_some() {}
        let report = self
            .time
            .until("a report that waits for a decision", || async {
                let rejected = ListReports::new().states(vec![ReportState::Rejected]);
                let mut found = self.client.list_reports(rejected).await?.reports;
                Ok(found.pop())
            })
            .await?;
        Ok(format!(
            "waiting for a decision: one report of {} with {} {}, which Stripe rejected",
            report.account_id, report.quantity, report.meter
        ))
    }

    async fn subscribe_again(&self, account: &str) -> Result<()> {
        let id = plans::subscribe_again(&self.fake_stripe.control()).await?;
        self.time
            .until("the new subscription", || async {
                let known = self.client.get_account(account).await?;
                let is_new = known.subscription.is_some_and(|known| known.id == id);
                Ok(is_new.then_some(()))
            })
            .await
    }
}
