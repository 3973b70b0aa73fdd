//! The calls of the proto's `UsageService`.

use super::UsageClient;
use crate::{
    AcknowledgeDifference, AcknowledgedDifference, Batch, BatchOutcome, Correct, Corrected,
    Counted, Error, ExplainInvoice, FindIncrement, ForceReport, FoundIncrement, Get, GetCall,
    GetSummary, Increment, IncrementCall, InvoiceExplanation, ListReports, ListUsage, Meter,
    Reconcile, ReconcilePage, RecorderBuilder, ReportPage, ReportRun, ResolveReport, Resolved,
    Summary, Usage, UsagePage,
    retry::{Repeatable, call_with_retry},
};

const MAX_PAGE_SIZE: usize = 1_000;

impl UsageClient {
    /// Counts one increment. The response comes only after a durable commit.
    ///
    /// An account id alone counts one unit of the default meter. After a failure,
    /// [`Error::idempotency_key`] returns the key that the next attempt must use.
    ///
    /// ```no_run
    /// # async fn example(client: usage_client::UsageClient) -> Result<(), usage_client::Error> {
    /// client.increment("acct_42").meter("tokens").quantity(1_200).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn increment(&self, increment: impl Into<Increment>) -> IncrementCall<'_> {
        IncrementCall {
            client: self,
            increment: increment.into(),
        }
    }

    pub(crate) async fn send_increment(&self, mut increment: Increment) -> Result<Counted, Error> {
        let key = increment.ensure_key().map(str::to_owned);
        let repeatable = Repeatable::always_if(key.is_some());
        let request = increment.into_wire()?;
        let response = self
            .unary(
                &self.usage,
                repeatable,
                request,
                |mut usage, request| async move { usage.increment(request).await },
            )
            .await;
        match response {
            Ok(response) => Ok(Counted {
                duplicate: response.duplicate,
                key,
            }),
            Err(error) => Err(error.with_key(key)),
        }
    }

    /// Configures a [`Recorder`](crate::Recorder), which counts without making its caller wait.
    ///
    /// `meters` are those that the program counts; an empty name is the server's default meter. The recorder asks the server
    /// for them when it starts, in the background: a meter that is not counted is logged as an error and told to
    /// [`on_wrong_meters`](RecorderBuilder::on_wrong_meters).
    pub fn recorder(&self, meters: impl IntoIterator<Item = impl Into<String>>) -> RecorderBuilder {
        let meters = meters.into_iter().map(Into::into).collect();
        RecorderBuilder::new(self.clone(), meters)
    }

    /// Counts up to 1,000 increments in one transaction, with one result per item. A rejected item does not affect
    /// the others.
    ///
    /// After a failure, [`Error::idempotency_key`] returns the batch's key, which the next attempt must use.
    pub async fn increment_batch(&self, batch: impl Into<Batch>) -> Result<BatchOutcome, Error> {
        let mut batch = batch.into();
        let key = batch.ensure_key().map(str::to_owned);
        let sent = batch.len();
        let request = batch.into_wire()?;
        let repeatable = Repeatable::always_if(key.is_some() || request.dry_run);
        self.unary(
            &self.usage,
            repeatable,
            request,
            |mut usage, request| async move { usage.increment_batch(request).await },
        )
        .await
        .and_then(|response| BatchOutcome::from_wire(response, sent, key.clone()))
        .map_err(|error| error.with_key(key))
    }

    /// Returns an account's usage in a period: all meters in the current billing period by default.
    pub fn get(&self, get: impl Into<Get>) -> GetCall<'_> {
        GetCall {
            client: self,
            get: get.into(),
        }
    }

    pub(crate) async fn send_get(&self, get: Get) -> Result<Usage, Error> {
        let request = get.into_wire()?;
        let response = self.unary(
            &self.usage,
            Repeatable::Always,
            request,
            |mut usage, request| async move { usage.get(request).await },
        );
        Usage::from_wire(response.await?)
    }

    /// Lists one page of the usage of one meter by account.
    ///
    /// The server reads the reports of all accounts for it, two such calls at a time, so allow
    /// [more time](Self::with_timeout) than for other calls if it has many.
    pub async fn list_usage(&self, query: ListUsage) -> Result<UsagePage, Error> {
        let response = self.unary(
            &self.usage,
            Repeatable::Always,
            query.into_wire()?,
            |mut usage, request| async move { usage.list_usage(request).await },
        );
        UsagePage::from_wire(response.await?)
    }

    /// Returns the usage of all accounts together in a period, and the accounts with the most.
    ///
    /// It takes as long as [`list_usage`](Self::list_usage).
    pub async fn get_summary(&self, query: GetSummary) -> Result<Summary, Error> {
        let response = self.unary(
            &self.usage,
            Repeatable::Always,
            query.into_wire()?,
            |mut usage, request| async move { usage.get_summary(request).await },
        );
        Summary::from_wire(response.await?)
    }

    /// Lists one page of usage reports, newest first.
    pub async fn list_reports(&self, filter: ListReports) -> Result<ReportPage, Error> {
        let response = self.unary(
            &self.usage,
            Repeatable::Always,
            filter.into_wire()?,
            |mut usage, request| async move { usage.list_reports(request).await },
        );
        ReportPage::from_wire(response.await?)
    }

    /// Lists up to `max` usage reports, newest first, with as many calls as that takes. The filter's page size is
    /// ignored.
    ///
    /// If there are more than `max`, the result's token continues after them. The deadline applies to each page.
    pub async fn list_all_reports(
        &self,
        filter: ListReports,
        max: usize,
    ) -> Result<ReportPage, Error> {
        let mut all = ReportPage::empty();
        let mut filter = filter;
        let mut sent = None;
        while let missing @ 1.. = max.saturating_sub(all.reports.len()) {
            let size = u32::try_from(missing.min(MAX_PAGE_SIZE)).unwrap_or(u32::MAX);
            let page = self.list_reports(filter.clone().page_size(size)).await?;
            let received = page.reports.len();
            all.reports.extend(page.reports);
            all.next_page_token = page.next_page_token;
            all.archives = page.archives;
            let Some(token) = &all.next_page_token else {
                break;
            };
            // A server that does not get on would be called forever. A page can be empty, though, where few match.
            if received > missing || sent.as_ref() == Some(token) {
                return Err(Error::malformed(format!(
                    "a page of at most {size} reports has {received} and leads to itself"
                )));
            }
            sent = Some(token.clone());
            filter = filter.page_token(token);
        }
        Ok(all)
    }

    /// Closes open reports and sends them to Stripe now, or watches a run that does.
    ///
    /// Returns as soon as the run's id is known; the deadline applies until then.
    pub async fn force_report(&self, scope: ForceReport) -> Result<ReportRun, Error> {
        let message = scope.into_wire();
        // Watching and dry runs change nothing. A second run would close what was counted since the first.
        let repeatable = Repeatable::always_if(message.dry_run || !message.run_id.is_empty());
        let attempt = |remaining| {
            let (mut usage, message) = (self.usage.clone(), message.clone());
            let opening = async move {
                let response = usage.force_report(message).await?;
                ReportRun::open(response.into_inner()).await
            };
            async move {
                let opened = tokio::time::timeout(remaining, opening).await;
                opened.map_err(|_elapsed| Error::deadline(self.timeout))?
            }
        };
        call_with_retry(self.retry, self.timeout, repeatable, attempt).await
    }

    /// Enters a correction: a separate report, sent to Stripe as a separate meter event.
    ///
    /// After a failure, [`Error::idempotency_key`] returns the key that the next attempt must use.
    pub async fn correct(&self, correction: Correct) -> Result<Corrected, Error> {
        let mut correction = correction;
        let key = correction.ensure_key().map(str::to_owned);
        let request = correction.into_wire()?;
        self.unary(
            &self.usage,
            Repeatable::Always,
            request,
            |mut usage, request| async move { usage.correct(request).await },
        )
        .await
        .and_then(|response| Corrected::from_wire(response, key.clone()))
        .map_err(|error| error.with_key(key))
    }

    /// Resolves a report that the service does not retry by itself: one that is missing, rejected, unknown or too
    /// late, or whose customer was deleted. Repeating a decision that is in force changes nothing.
    pub async fn resolve_report(&self, decision: ResolveReport) -> Result<Resolved, Error> {
        let response = self.unary(
            &self.usage,
            Repeatable::Always,
            decision.into_wire(),
            |mut usage, request| async move { usage.resolve_report(request).await },
        );
        Resolved::from_wire(response.await?)
    }

    /// Acknowledges a difference between invoices and what was reported: it is known and was dealt with. Repeating it
    /// changes nothing.
    pub async fn acknowledge_difference(
        &self,
        acknowledgement: AcknowledgeDifference,
    ) -> Result<AcknowledgedDifference, Error> {
        let response = self.unary(
            &self.usage,
            Repeatable::Always,
            acknowledgement.into_wire(),
            |mut usage, request| async move { usage.acknowledge_difference(request).await },
        );
        AcknowledgedDifference::from_wire(response.await?)
    }

    /// Compares counted usage, usage that Stripe accepted, and Stripe's own totals, for one page of accounts.
    ///
    /// The server queries Stripe for it, so allow [more time](Self::with_timeout) than for other calls.
    pub async fn reconcile(&self, reconcile: Reconcile) -> Result<ReconcilePage, Error> {
        let request = reconcile.into_wire()?;
        let response = self.unary(
            &self.usage,
            Repeatable::Always,
            request,
            |mut usage, request| async move { usage.reconcile(request).await },
        );
        ReconcilePage::from_wire(response.await?)
    }

    /// Follows a call to its invoice: finds the increment of an idempotency key, its report and meter event, and the lines
    /// of the invoices of its billing period.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound): no such key was counted, or it is no longer kept. Or the call fails.
    pub async fn find_increment(&self, find: FindIncrement) -> Result<FoundIncrement, Error> {
        let response = self.unary(
            &self.usage,
            Repeatable::Always,
            find.into_wire(),
            |mut usage, request| async move { usage.find_increment(request).await },
        );
        FoundIncrement::from_wire(response.await?)
    }

    /// Follows an invoice back to the calls: a page of its lines, with their reports and the increments behind them as long
    /// as their keys are kept.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound): no billing period of the account is known then, or no line of the invoice.
    /// Or the call fails.
    pub async fn explain_invoice(
        &self,
        explain: ExplainInvoice,
    ) -> Result<InvoiceExplanation, Error> {
        let response = self.unary(
            &self.usage,
            Repeatable::Always,
            explain.into_wire()?,
            |mut usage, request| async move { usage.explain_invoice(request).await },
        );
        InvoiceExplanation::from_wire(response.await?)
    }

    /// The same with as many calls as it takes, until at least `max_size` reports and increments were read. The pages are put
    /// together; if there are more, the result's token continues after them. The deadline applies to each page.
    ///
    /// # Errors
    /// As for [`explain_invoice`](Self::explain_invoice).
    pub async fn explain_whole_invoice(
        &self,
        explain: ExplainInvoice,
        max_size: usize,
    ) -> Result<InvoiceExplanation, Error> {
        let mut all = self.explain_invoice(explain.clone()).await?;
        while let Some(token) = all.next_page_token.clone() {
            if all.size() >= max_size {
                break;
            }
            let page = explain.clone().page_token(token.clone());
            let page = self.explain_invoice(page).await?;
            // A server that does not get on would be called forever.
            if page.next_page_token.as_ref() == Some(&token) {
                return Err(Error::malformed("a page of an explanation leads to itself"));
            }
            all.append(page);
        }
        Ok(all)
    }

    /// The meters that the server counts; with a key that is limited to meters, those.
    pub async fn list_meters(&self) -> Result<Vec<Meter>, Error> {
        let response = self.unary(
            &self.usage,
            Repeatable::Always,
            crate::proto::ListMetersRequest {},
            |mut usage, request| async move { usage.list_meters(request).await },
        );
        Ok(Meter::all_from_wire(response.await?))
    }

    /// Fails if the server does not count one of these meters, so that a program finds a misspelt or missing meter when it
    /// starts and not in its figures. An empty name is the server's default meter.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid): a meter is not counted, or the API key may not use it; the message names it and
    /// those that it may use. Or the call fails.
    pub async fn check_meters(
        &self,
        meters: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<(), Error> {
        let known = self.list_meters().await?;
        for meter in meters {
            check_meter(meter.as_ref(), &known)?;
        }
        Ok(())
    }
}

fn check_meter(meter: &str, known: &[Meter]) -> Result<(), Error> {
    let is_known = known.iter().any(|one| {
        if meter.is_empty() {
            one.is_default
        } else {
            one.name == meter
        }
    });
    if is_known {
        return Ok(());
    }
    let names: Vec<&str> = known.iter().map(|one| one.name.as_str()).collect();
    let usable = match names.as_slice() {
        [] => "no meter can be used with this API key".to_owned(),
        names => format!("the meters that can be used here are {}", names.join(", ")),
    };
    let why = if meter.is_empty() {
        format!(
            "a meter has an empty name, which stands for the server's default meter, and there is none that can be used; {usable}"
        )
    } else {
        format!(
            "the server does not count the meter {meter:?}, or this API key may not use it; {usable}"
        )
    };
    Err(Error::invalid("meter", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_that_cannot_be_used_is_told_with_those_that_can() {
        let meter = |name: &str, is_default| Meter {
            name: name.to_owned(),
            unit: String::new(),
            stripe_event_name: name.to_owned(),
            is_default,
        };
        let known = [meter("calls", true), meter("tokens", false)];
        assert!(check_meter("tokens", &known).is_ok());
        assert!(check_meter("", &known).is_ok());
        let text = |name: &str, known: &[Meter]| check_meter(name, known).unwrap_err().to_string();
        let wrong = text("token", &known);
        assert!(wrong.contains("\"token\""), "{wrong}");
        assert!(wrong.contains("calls, tokens"), "{wrong}");
        let empty = text("", &known[1..]);
        assert!(empty.contains("empty name"), "{empty}");
        let none = text("calls", &[]);
        assert!(none.contains("no meter can be used"), "{none}");
    }
}
