//! The client: one connection, one method a call of the contract.
//!
//! Each method turns its argument into the wire's message, sends it under a deadline and turns the
//! answer into plain values. What the values mean is in the rooms that own them.

use crate::{
    Account, AccountPage, Batch, BatchOutcome, CancelSubscription, ChangePlan, Changed, Correct,
    Corrected, Counted, Error, ForceReport, Get, GetCall, Increment, IncrementCall, ListAccounts,
    ListReports, PutAccount, Reconcile, ReconcilePage, RecorderBuilder, ReportPage, ReportRun,
    ResolveReport, Resolved, Retry, Usage, UsageClientBuilder, proto,
    retry::{Repeatable, until_done},
};
use proto::{
    account_service_client::AccountServiceClient, usage_service_client::UsageServiceClient,
};
use std::time::Duration;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a change of a subscription is waited for at least: usage has to show at Stripe first.
const CHANGE_TIMEOUT: Duration = Duration::from_mins(5);
/// Longer deadlines do not fit into the header that carries them.
const MAX_TIMEOUT: Duration = Duration::from_hours(24);
const MAX_PAGE_SIZE: usize = 1_000;

/// Adds to each call who makes it.
#[derive(Clone)]
struct Authorize(Option<MetadataValue<Ascii>>);

impl Interceptor for Authorize {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.0 {
            let own = authorization.clone();
            request.metadata_mut().insert("authorization", own);
        }
        Ok(request)
    }
}

type Connection = InterceptedService<Channel, Authorize>;

/// A connection to usage-billing.
///
/// Cloning is cheap, and all clones share the connection: keep one and clone it wherever it is
/// needed. A lost connection is made again by the next call, and what failed is [repeated](Retry).
#[derive(Clone)]
pub struct UsageClient {
    usage: UsageServiceClient<Connection>,
    accounts: AccountServiceClient<Connection>,
    timeout: Duration,
    retry: Retry,
}

impl std::fmt::Debug for UsageClient {
    /// Never shows a token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsageClient")
            .field("timeout", &self.timeout)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl UsageClient {
    /// Connects to a server such as `http://127.0.0.1:50051`, and fails if none is there.
    ///
    /// Without a scheme, `http://` is meant. More servers, TLS and tokens: [`builder`](Self::builder).
    pub async fn connect(endpoint: impl Into<String>) -> Result<Self, Error> {
        Self::builder(endpoint).connect().await
    }

    /// As [`connect`](Self::connect), but the first call makes the connection, so that the server may
    /// start later than its caller.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn connect_lazy(endpoint: impl Into<String>) -> Result<Self, Error> {
        Self::builder(endpoint).connect_lazy()
    }

    /// Sets up a client of this server.
    pub fn builder(endpoint: impl Into<String>) -> UsageClientBuilder {
        UsageClientBuilder::new(endpoint.into())
    }

    /// A client over a channel that the caller has set up.
    pub fn from_channel(channel: Channel) -> Self {
        Self::over(channel, None)
    }

    pub(crate) fn over(channel: Channel, authorization: Option<MetadataValue<Ascii>>) -> Self {
        let connection = InterceptedService::new(channel, Authorize(authorization));
        Self {
            usage: UsageServiceClient::new(connection.clone()),
            accounts: AccountServiceClient::new(connection),
            timeout: DEFAULT_TIMEOUT,
            retry: Retry::default(),
        }
    }

    /// How calls that failed are made again from now on. Clones that exist already keep their way.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The deadline of each call from now on, all its attempts included, at most a day; 10 seconds unless set. Clones
    /// that exist already keep theirs.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(MAX_TIMEOUT);
        self
    }

    /// Counts one increment. The answer comes only after a durable commit.
    ///
    /// An account's id alone counts one unit of the default meter. On failure
    /// [`Error::idempotency_key`] has the key that the next attempt must carry.
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
        let answer = self.unary(repeatable, request, |request| {
            let mut usage = self.usage.clone();
            async move { usage.increment(request).await }
        });
        match answer.await {
            Ok(response) => Ok(Counted {
                duplicate: response.duplicate,
                key,
            }),
            Err(error) => Err(error.with_key(key)),
        }
    }

    /// Sets up a [`Recorder`](crate::Recorder), which counts without making its caller wait.
    pub fn recorder(&self) -> RecorderBuilder {
        RecorderBuilder::new(self.clone())
    }

    /// Counts up to 1,000 increments in one transaction, with one result an item: a bad item never
    /// costs the good ones.
    ///
    /// On failure [`Error::idempotency_key`] has the batch's key, which the next attempt must carry.
    pub async fn increment_batch(&self, batch: impl Into<Batch>) -> Result<BatchOutcome, Error> {
        let mut batch = batch.into();
        let key = batch.ensure_key().map(str::to_owned);
        let sent = batch.len();
        let repeatable = Repeatable::always_if(key.is_some());
        let request = batch.into_wire()?;
        self.unary(repeatable, request, |request| {
            let mut usage = self.usage.clone();
            async move { usage.increment_batch(request).await }
        })
        .await
        .and_then(|response| BatchOutcome::from_wire(response, sent, key.clone()))
        .map_err(|error| error.with_key(key))
    }

    /// Shows an account's usage in a period; all meters in the current billing period unless said otherwise.
    pub fn get(&self, get: impl Into<Get>) -> GetCall<'_> {
        GetCall {
            client: self,
            get: get.into(),
        }
    }

    pub(crate) async fn send_get(&self, get: Get) -> Result<Usage, Error> {
        let request = get.into_wire()?;
        let response = self.unary(Repeatable::Always, request, |request| {
            let mut usage = self.usage.clone();
            async move { usage.get(request).await }
        });
        Usage::from_wire(response.await?)
    }

    /// Lists one page of usage reports, newest first.
    pub async fn list_reports(&self, filter: ListReports) -> Result<ReportPage, Error> {
        let request = filter.into_wire();
        let response = self.unary(Repeatable::Always, request, |request| {
            let mut usage = self.usage.clone();
            async move { usage.list_reports(request).await }
        });
        ReportPage::from_wire(response.await?)
    }

    /// Lists usage reports, newest first, page after page, up to `max` of them. The filter's own page
    /// size is not used.
    ///
    /// Where there are more than `max`, the answer's token goes on from there. The deadline is for
    /// each page.
    pub async fn list_all_reports(
        &self,
        filter: ListReports,
        max: usize,
    ) -> Result<ReportPage, Error> {
        let mut all = ReportPage::empty();
        let mut filter = filter;
        while let room @ 1.. = max.saturating_sub(all.reports.len()) {
            let size = u32::try_from(room.min(MAX_PAGE_SIZE)).unwrap_or(u32::MAX);
            let page = self.list_reports(filter.clone().page_size(size)).await?;
            let came = page.reports.len();
            all.reports.extend(page.reports);
            all.next_page_token = page.next_page_token;
            let Some(token) = &all.next_page_token else {
                break;
            };
            // Else a server that hands out empty pages would be asked for ever.
            if came == 0 || came > room {
                return Err(Error::malformed(format!(
                    "a page of {size} has {came} reports, and another is to follow"
                )));
            }
            filter = filter.page_token(token);
        }
        Ok(all)
    }

    /// Closes what counts and follows it to Stripe, or watches a run that does.
    ///
    /// Returns when the run has named itself; the deadline holds until then.
    pub async fn force_report(&self, scope: ForceReport) -> Result<ReportRun, Error> {
        let message = scope.into_wire();
        // Watching and asking change nothing; another run closes what has been counted since.
        let repeatable = Repeatable::always_if(message.dry_run || !message.run_id.is_empty());
        let attempt = |left| {
            let (mut usage, message) = (self.usage.clone(), message.clone());
            let opening = async move {
                let response = usage.force_report(message).await?;
                ReportRun::open(response.into_inner()).await
            };
            async move {
                let opened = tokio::time::timeout(left, opening).await;
                opened.map_err(|_elapsed| Error::deadline(self.timeout))?
            }
        };
        until_done(self.retry, self.timeout, repeatable, attempt).await
    }

    /// Enters a correction: a report of its own, reported to Stripe as its own meter event.
    ///
    /// On failure [`Error::idempotency_key`] has the key that the next attempt must carry.
    pub async fn correct(&self, correction: Correct) -> Result<Corrected, Error> {
        let mut correction = correction;
        let key = correction.ensure_key().map(str::to_owned);
        let request = correction.into_wire()?;
        self.unary(Repeatable::Always, request, |request| {
            let mut usage = self.usage.clone();
            async move { usage.correct(request).await }
        })
        .await
        .and_then(|response| Corrected::from_wire(response, key.clone()))
        .map_err(|error| error.with_key(key))
    }

    /// Decides on a report that is short, rejected, parked, unknown or missed. Deciding the same again while
    /// it stands changes nothing.
    pub async fn resolve_report(&self, decision: ResolveReport) -> Result<Resolved, Error> {
        let request = decision.into_wire();
        let response = self.unary(Repeatable::Always, request, |request| {
            let mut usage = self.usage.clone();
            async move { usage.resolve_report(request).await }
        });
        Resolved::from_wire(response.await?)
    }

    /// Puts what was counted, what was reported and what Stripe holds side by side, one page of accounts.
    ///
    /// Stripe is asked meanwhile: give it [more time](Self::with_timeout) than other calls.
    pub async fn reconcile(&self, question: Reconcile) -> Result<ReconcilePage, Error> {
        let request = question.into_wire()?;
        let response = self.unary(Repeatable::Always, request, |request| {
            let mut usage = self.usage.clone();
            async move { usage.reconcile(request).await }
        });
        ReconcilePage::from_wire(response.await?)
    }

    /// Links an account to a Stripe customer, or says that it is free. Putting what is already so
    /// changes nothing.
    pub async fn put_account(&self, account: PutAccount) -> Result<Account, Error> {
        let request = account.into_wire()?;
        // After a first attempt that took effect, the etag would be another.
        let repeatable = Repeatable::always_if(request.etag.is_empty());
        let response = self.unary(repeatable, request, |request| {
            let mut accounts = self.accounts.clone();
            async move { accounts.put_account(request).await }
        });
        Account::from_wire(response.await?.account)
    }

    /// Reads one account; [`NotFound`](crate::ErrorKind::NotFound) when nobody has put it.
    pub async fn get_account(&self, account_id: impl Into<String>) -> Result<Account, Error> {
        let request = proto::GetAccountRequest {
            account_id: account_id.into(),
        };
        let response = self.unary(Repeatable::Always, request, |request| {
            let mut accounts = self.accounts.clone();
            async move { accounts.get_account(request).await }
        });
        Account::from_wire(response.await?.account)
    }

    /// Moves an account's subscription to other prices, now. Usage from before is charged by the old ones
    /// and shown by Stripe before anything changes; safe to retry at any point.
    pub async fn change_plan(&self, change: ChangePlan) -> Result<Changed, Error> {
        let request = change.into_wire();
        let patience = self.timeout.max(CHANGE_TIMEOUT);
        let response = self.within(patience, Repeatable::Always, request, |request| {
            let mut accounts = self.accounts.clone();
            async move { accounts.change_plan(request).await }
        });
        let response = response.await?;
        Changed::from_wire(response.change, response.account)
    }

    /// Cancels an account's subscription, now or at its period's end; safe to retry at any point.
    pub async fn cancel_subscription(&self, cancel: CancelSubscription) -> Result<Changed, Error> {
        let request = cancel.into_wire();
        let patience = self.timeout.max(CHANGE_TIMEOUT);
        let response = self.within(patience, Repeatable::Always, request, |request| {
            let mut accounts = self.accounts.clone();
            async move { accounts.cancel_subscription(request).await }
        });
        let response = response.await?;
        Changed::from_wire(response.change, response.account)
    }

    /// Lists one page of the accounts that were put, ordered by their id.
    pub async fn list_accounts(&self, page: ListAccounts) -> Result<AccountPage, Error> {
        let request = page.into_wire();
        let response = self.unary(Repeatable::Always, request, |request| {
            let mut accounts = self.accounts.clone();
            async move { accounts.list_accounts(request).await }
        });
        AccountPage::from_wire(response.await?)
    }

    async fn unary<Q, A, F>(
        &self,
        repeatable: Repeatable,
        message: Q,
        call: impl Fn(Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.within(self.timeout, repeatable, message, call).await
    }

    /// As [`unary`](Self::unary), with another deadline.
    async fn within<Q, A, F>(
        &self,
        patience: Duration,
        repeatable: Repeatable,
        message: Q,
        call: impl Fn(Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let attempt = |left| once(left, patience, message.clone(), &call);
        until_done(self.retry, patience, repeatable, attempt).await
    }
}

/// One attempt under what is left of a deadline. The header tells the server when nobody waits any more; our
/// own clock also covers the time in which there is no connection to send it over.
async fn once<Q, A, F>(
    left: Duration,
    patience: Duration,
    message: Q,
    call: &impl Fn(Request<Q>) -> F,
) -> Result<A, Error>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(left);
    match tokio::time::timeout(left, call(request)).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_elapsed) => Err(Error::deadline(patience)),
    }
}

#[cfg(test)]
mod tests;
