//! The calls of the proto's `AccountService`.

use super::UsageClient;
use crate::{
    AbortSubscriptionChange, Account, AccountExport, AccountHistory, AccountPage, AccountPut,
    CancelSubscription, ChangePlan, Changed, DeleteAccount, DeletedAccount, Error, ListAccounts,
    Period, PutAccount, proto,
    retry::{Repeatable, call_with_retry},
    wire::period_to_wire,
};
use std::time::Duration;

/// The minimum deadline for changing a subscription: Stripe must show all earlier usage first.
const MIN_CHANGE_TIMEOUT: Duration = Duration::from_mins(5);

impl UsageClient {
    /// Links an account to a Stripe customer, or marks it as free. A request that matches the account's current
    /// billing changes nothing. The result says which usage from before the link is not billed, and whether Stripe could
    /// not be asked about the customer.
    pub async fn put_account(&self, account: PutAccount) -> Result<AccountPut, Error> {
        let request = account.into_wire()?;
        // A first attempt that took effect would have changed the etag.
        let repeatable = Repeatable::always_if(request.etag.is_empty());
        let response = self.unary(
            &self.accounts,
            repeatable,
            request,
            |mut accounts, request| async move { accounts.put_account(request).await },
        );
        AccountPut::from_wire(response.await?)
    }

    /// Returns one account; [`NotFound`](crate::ErrorKind::NotFound) if it was never put.
    pub async fn get_account(&self, account_id: impl Into<String>) -> Result<Account, Error> {
        let request = proto::GetAccountRequest {
            account_id: account_id.into(),
            history: None,
        };
        let response = self.unary(
            &self.accounts,
            Repeatable::Always,
            request,
            |mut accounts, request| async move { accounts.get_account(request).await },
        );
        Account::from_wire(response.await?.account)
    }

    /// What the billing of an account was in a period, and how its subscription was changed;
    /// [`NotFound`](crate::ErrorKind::NotFound) if it was never put.
    pub async fn account_history(
        &self,
        account_id: impl Into<String>,
        period: Period,
    ) -> Result<AccountHistory, Error> {
        let request = proto::GetAccountRequest {
            account_id: account_id.into(),
            history: Some(period_to_wire(period, "history.start", "history.end")?),
        };
        let response = self.unary(
            &self.accounts,
            Repeatable::Always,
            request,
            |mut accounts, request| async move { accounts.get_account(request).await },
        );
        AccountHistory::from_wire(response.await?.history.unwrap_or_default())
    }

    /// Lists one page of the accounts that were put, ordered by id.
    pub async fn list_accounts(&self, page: ListAccounts) -> Result<AccountPage, Error> {
        let response = self.unary(
            &self.accounts,
            Repeatable::Always,
            page.into_wire(),
            |mut accounts, request| async move { accounts.list_accounts(request).await },
        );
        AccountPage::from_wire(response.await?)
    }

    /// Switches an account's subscription to other prices, immediately. Earlier usage is charged at the old prices.
    ///
    /// Waits until Stripe shows all earlier usage, so its deadline is at least 5 minutes. Safe to retry at any
    /// time.
    pub async fn change_plan(&self, change: ChangePlan) -> Result<Changed, Error> {
        let response = self.unary_within(
            self.timeout.max(MIN_CHANGE_TIMEOUT),
            &self.accounts,
            Repeatable::Always,
            change.into_wire(),
            |mut accounts, request| async move { accounts.change_plan(request).await },
        );
        let response = response.await?;
        Changed::from_wire(response.change, response.account)
    }

    /// Cancels an account's subscription, immediately or at the end of its billing period.
    ///
    /// Its deadline is at least 5 minutes, as for [`change_plan`](Self::change_plan). Safe to retry at any time.
    pub async fn cancel_subscription(&self, cancel: CancelSubscription) -> Result<Changed, Error> {
        let response = self.unary_within(
            self.timeout.max(MIN_CHANGE_TIMEOUT),
            &self.accounts,
            Repeatable::Always,
            cancel.into_wire(),
            |mut accounts, request| async move { accounts.cancel_subscription(request).await },
        );
        let response = response.await?;
        Changed::from_wire(response.change, response.account)
    }

    /// Aborts the change of an account's subscription that is in progress. Everything is as before the change, and calls
    /// that wait for it fail with [`ChangeAborted`](crate::Reason::ChangeAborted).
    ///
    /// A change that Stripe has made is not aborted:
    /// [`SubscriptionNotChangeable`](crate::Reason::SubscriptionNotChangeable). To find out, the call may take half a
    /// minute; its deadline is at least 5 minutes, as for [`change_plan`](Self::change_plan). Safe to retry at any time.
    pub async fn abort_subscription_change(
        &self,
        abort: AbortSubscriptionChange,
    ) -> Result<Changed, Error> {
        let response = self.unary_within(
            self.timeout.max(MIN_CHANGE_TIMEOUT),
            &self.accounts,
            Repeatable::Always,
            abort.into_wire(),
            |mut accounts, request| async move { accounts.abort_subscription_change(request).await },
        );
        let response = response.await?;
        Changed::from_wire(response.change, response.account)
    }

    /// Exports everything that is stored of an account. The deadline applies until the export begins.
    pub async fn export_account(
        &self,
        account_id: impl Into<String>,
    ) -> Result<AccountExport, Error> {
        let message = proto::ExportAccountRequest {
            account_id: account_id.into(),
        };
        let attempt = |remaining| {
            let (mut accounts, message) = (self.accounts.clone(), message.clone());
            let opening = async move {
                let response = accounts.export_account(message).await?;
                Ok::<_, Error>(AccountExport::open(response.into_inner()))
            };
            async move {
                let opened = tokio::time::timeout(remaining, opening).await;
                opened.map_err(|_elapsed| Error::deadline(self.timeout))?
            }
        };
        call_with_retry(self.retry, self.timeout, Repeatable::Always, attempt).await
    }

    /// Deletes an account: its rows get a random token in the place of its id. The Stripe customer stays as it is.
    ///
    /// Refused with [`AccountNotDeletable`](crate::Reason::AccountNotDeletable) while usage of it is not billed; a dry run lists
    /// why. Safe to retry at any time. The rows of a large account take a while, so its deadline is at least 5 minutes.
    pub async fn delete_account(&self, delete: DeleteAccount) -> Result<DeletedAccount, Error> {
        let response = self.unary_within(
            self.timeout.max(MIN_CHANGE_TIMEOUT),
            &self.accounts,
            Repeatable::Always,
            delete.into_wire(),
            |mut accounts, request| async move { accounts.delete_account(request).await },
        );
        DeletedAccount::from_wire(response.await?)
    }
}
