//! `AccountService`: the billing of accounts, and changes of their subscriptions.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use usage_proto::v1::{
    self, account_service_server::AccountService, cancel_subscription_request::When,
};

use super::{
    account_deletion::ExportStream,
    actor::{actor, caller},
    audit_json,
    auditor::{Action, Auditor, Changed, why},
    page_token, recent_usage, to_its_end,
    wire_account::{
        self, change, check_prices, parse_history, parse_put, unbilled_usage, with_subscription,
    },
};
use crate::{
    clock::Clock,
    domain::{
        access::Caller,
        account::{Account, check_stripe_id},
        account_id::AccountId,
        audit::Actor,
        billing_period::BillingPeriod,
        correction::check_requested_by,
        period::parse_zone,
        subscription::SyncedSubscription,
        subscription_change::SubscriptionChange,
        usage_list::parse_prefix,
        violation::Violation,
        window::Slots,
    },
    error::{Error, Result},
    read_turns::ReadTurns,
    store::{
        Store,
        account_list::{AccountRange, ListedAccounts},
        accounts::{AccountPut, PutAccount},
    },
    workers::{
        subscription_change::{SubscriptionChanges, abort::Aborted, change::RequestedChange},
        subscription_sync::{CheckedLink, SubscriptionSync},
    },
};

/// What page tokens of linked accounts are for, and those of all accounts.
const LINKED: &str = "accounts";
const ALL: &str = "accounts and counted";

/// Serves `usage.v1.AccountService`.
#[derive(Clone, Debug)]
pub(crate) struct AccountRpc {
    pub(crate) store: Store,
    /// Absent when the service runs without a Stripe key.
    pub(crate) subscription_sync: Option<SubscriptionSync>,
    /// Absent also while the service only reads from Stripe.
    pub(crate) subscription_changes: Option<Arc<SubscriptionChanges>>,
    pub(crate) slots: Slots,
    pub(crate) clock: Clock,
    pub(crate) auditor: Auditor,
    /// Ends exports.
    pub(crate) shutdown: CancellationToken,
    /// A permit for each export that runs.
    pub(crate) exports: Arc<Semaphore>,
    /// The turns of reads of recent usage.
    pub(crate) recent_usage: ReadTurns,
}

/// Who requests a change.
struct Requester {
    caller: Arc<Caller>,
    actor: Actor,
}

impl Requester {
    fn of<T>(request: &Request<T>) -> Result<Self> {
        Ok(Self {
            caller: caller(request)?,
            actor: actor(request)?,
        })
    }
}

impl AccountRpc {
    /// An account on the wire, with its subscription.
    async fn to_wire(&self, of: Account) -> Result<v1::Account> {
        let rows = self
            .store
            .stored_subscriptions(&[&of.id], self.clock.now())
            .await?;
        Ok(with_subscription(of, rows))
    }

    async fn to_wire_all(&self, all: Vec<Account>) -> Result<Vec<v1::Account>> {
        let ids: Vec<&AccountId> = all.iter().map(|account| &account.id).collect();
        let rows = self
            .store
            .stored_subscriptions(&ids, self.clock.now())
            .await?;
        let mut by_account: HashMap<AccountId, Vec<(SyncedSubscription, Vec<BillingPeriod>)>> =
            HashMap::new();
        for row in rows {
            by_account
                .entry(row.0.account_id.clone())
                .or_default()
                .push(row);
        }
        let accounts = all.into_iter().map(|of| {
            let rows = by_account.remove(&of.id).unwrap_or_default();
            with_subscription(of, rows)
        });
        Ok(accounts.collect())
    }

    /// The recent usage of the accounts of a page, if it is asked for.
    async fn recent_usage(
        &self,
        request: &v1::ListAccountsRequest,
        accounts: &[v1::Account],
        counted: &[String],
    ) -> Result<Vec<v1::RecentUsage>> {
        if !request.include_usage {
            return Ok(Vec::new());
        }
        let zone = parse_zone(&request.time_zone)?;
        let calendar = recent_usage::Calendar::new(self.clock.now(), zone, self.slots);
        let of = (&self.store, &self.recent_usage);
        recent_usage::read(of, accounts, counted, calendar).await
    }

    async fn wire_by_id(&self, account_id: &AccountId) -> Result<v1::Account> {
        self.to_wire(find(&self.store, account_id).await?).await
    }

    /// Why the service changes no subscription.
    fn no_changes(&self) -> Error {
        match self.subscription_sync {
            Some(_) => Error::OnlyReads,
            None => Error::ReportingDisabled,
        }
    }

    /// Changes the subscription of an account, on behalf of who the request says. Waits for the result, also if the caller
    /// is gone meanwhile.
    async fn change(
        &self,
        Requester { caller, actor }: Requester,
        action: Action,
        (account, stated): (String, String),
        requested: Result<RequestedChange>,
    ) -> Result<(Option<SubscriptionChange>, v1::Account)> {
        let checked = || {
            caller.check_account(&account)?;
            let account_id = AccountId::parse(&account)?;
            let requested = requested?;
            check_requested_by(&stated)?;
            let changes = self.subscription_changes.clone();
            Ok((
                account_id,
                requested,
                changes.ok_or_else(|| self.no_changes())?,
            ))
        };
        let checked = self.auditor.checked(&action, checked()).await;
        let (account_id, requested, changes) = checked?;
        let (by, id) = (actor.requester(&stated), account_id.clone());
        let changing = Box::pin(async move { changes.change(&id, requested, by).await });
        let auditor = self.auditor.clone();
        let changing = auditor.record(action, changing, audit_json::changed_subscription);
        let done = to_its_end(changing).await?;
        Ok((done.change, self.wire_by_id(&account_id).await?))
    }

    /// Puts an account. If the request has no `bill_from`, Stripe's subscription decides the time from which a new link
    /// bills.
    ///
    /// The second result is that of following the subscription, which failed after the account was put.
    async fn put(&self, mut put: PutAccount) -> Result<(AccountPut, Result<()>)> {
        let CheckedLink { live, watch } = match &self.subscription_sync {
            Some(sync) => sync.check_link(&put.account_id, &put.billing).await?,
            None => CheckedLink::UNVERIFIED,
        };
        put.live.clone_from(&live);
        put.watch = watch;
        let done = self
            .store
            .put_account(&put, self.slots, || self.clock.now())
            .await?;
        let followed = match live.filter(|_| !put.validate_only) {
            None => Ok(()),
            Some(followed) => {
                let now = self.clock.now();
                let applied =
                    self.store
                        .apply_followed(&put.account_id, &followed, self.slots, now);
                applied.await.map(drop)
            }
        };
        Ok((done, followed))
    }
}

#[tonic::async_trait]
impl AccountService for AccountRpc {
    async fn put_account(
        &self,
        request: Request<v1::PutAccountRequest>,
    ) -> std::result::Result<Response<v1::PutAccountResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::put_account(actor, &request);
        let checked = || {
            caller.check_account(&request.account_id)?;
            Ok(parse_put(request)?)
        };
        let put = self.auditor.checked(&action, checked()).await?;
        let (rpc, auditor, is_preview) = (self.clone(), self.auditor.clone(), put.validate_only);
        let put = Box::pin(async move { rpc.put(put).await });
        let changed = |(done, followed): &(AccountPut, Result<()>)| Changed {
            before: done.before.as_ref().map(audit_json::account),
            after: Some(audit_json::account(&done.account)),
            failed_after: followed.as_ref().err().map(|error| {
                let why = why(error);
                format!("the account is put; following its subscription failed: {why}")
            }),
        };
        let (done, followed) = to_its_end(async move {
            if is_preview {
                return put.await;
            }
            auditor.record(action, put, changed).await
        })
        .await?;
        // The caller repeats the call, which changes nothing more of the account.
        followed?;
        let account = if is_preview {
            self.to_wire(done.account).await?
        } else {
            self.wire_by_id(&done.account.id).await?
        };
        Ok(Response::new(v1::PutAccountResponse {
            account: Some(account),
            not_billed: done.not_billed.into_iter().map(unbilled_usage).collect(),
            unverified: done.is_unverified,
        }))
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> std::result::Result<Response<v1::GetAccountResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        caller
            .check_account(&request.account_id)
            .map_err(Error::from)?;
        let account_id = AccountId::parse(&request.account_id).map_err(Error::from)?;
        let period = request.history.as_ref();
        let period = period.map(parse_history).transpose();
        let period = period.map_err(Error::from)?;
        let account = self.wire_by_id(&account_id).await?;
        let history = match period {
            Some(period) => {
                let found = self.store.account_history(&account_id, period).await?;
                Some(wire_account::history(found))
            }
            None => None,
        };
        Ok(Response::new(v1::GetAccountResponse {
            account: Some(account),
            history,
        }))
    }

    async fn change_plan(
        &self,
        request: Request<v1::ChangePlanRequest>,
    ) -> std::result::Result<Response<v1::ChangePlanResponse>, Status> {
        let by = Requester::of(&request)?;
        let request = request.into_inner();
        let action = audit_json::change_plan(by.actor.clone(), &request);
        let (account_id, stated) = (request.account_id, request.requested_by);
        let requested = check_prices(&request.prices)
            .map(|()| RequestedChange::Prices(request.prices))
            .map_err(Error::from);
        let (done, account) = self
            .change(by, action, (account_id, stated), requested)
            .await?;
        Ok(Response::new(v1::ChangePlanResponse {
            change: done.map(change),
            account: Some(account),
        }))
    }

    async fn cancel_subscription(
        &self,
        request: Request<v1::CancelSubscriptionRequest>,
    ) -> std::result::Result<Response<v1::CancelSubscriptionResponse>, Status> {
        let by = Requester::of(&request)?;
        let request = request.into_inner();
        let action = audit_json::cancel(by.actor.clone(), &request);
        let requested = match request.when {
            None => {
                let message = "when is missing: give now or at_period_end";
                Err(Violation::invalid("when", message).into())
            }
            Some(When::Now(now)) => Ok(RequestedChange::CancelNow {
                invoice_now: now.invoice_now.unwrap_or(true),
                prorate: now.prorate,
            }),
            Some(When::AtPeriodEnd(_)) => Ok(RequestedChange::CancelAtPeriodEnd),
        };
        let of = (request.account_id, request.requested_by);
        let (done, account) = self.change(by, action, of, requested).await?;
        Ok(Response::new(v1::CancelSubscriptionResponse {
            change: done.map(change),
            account: Some(account),
        }))
    }

    async fn abort_subscription_change(
        &self,
        request: Request<v1::AbortSubscriptionChangeRequest>,
    ) -> std::result::Result<Response<v1::AbortSubscriptionChangeResponse>, Status> {
        let Requester { caller, actor } = Requester::of(&request)?;
        let request = request.into_inner();
        let action = audit_json::abort(actor.clone(), &request);
        let checked = || {
            caller.check_account(&request.account_id)?;
            let account_id = AccountId::parse(&request.account_id)?;
            check_requested_by(&request.requested_by)?;
            let changes = self.subscription_changes.clone();
            Ok((account_id, changes.ok_or_else(|| self.no_changes())?))
        };
        let (account_id, changes) = self.auditor.checked(&action, checked()).await?;
        let by = actor.requester(&request.requested_by);
        let id = account_id.clone();
        let aborted = Box::pin(async move { changes.abort(&id, &by).await });
        let effect = |aborted: &Aborted| Changed {
            before: Some(audit_json::change(&aborted.before)),
            after: aborted.after.as_ref().map(audit_json::change),
            failed_after: None,
        };
        let aborted = self.auditor.clone().record(action, aborted, effect);
        let aborted = to_its_end(aborted).await?;
        let aborted = aborted.after.unwrap_or(aborted.before);
        Ok(Response::new(v1::AbortSubscriptionChangeResponse {
            change: Some(change(aborted)),
            account: Some(self.wire_by_id(&account_id).await?),
        }))
    }

    type ExportAccountStream = ExportStream;

    async fn export_account(
        &self,
        request: Request<v1::ExportAccountRequest>,
    ) -> std::result::Result<Response<Self::ExportAccountStream>, Status> {
        self.export(request).await
    }

    async fn delete_account(
        &self,
        request: Request<v1::DeleteAccountRequest>,
    ) -> std::result::Result<Response<v1::DeleteAccountResponse>, Status> {
        self.delete(request).await
    }

    async fn list_accounts(
        &self,
        request: Request<v1::ListAccountsRequest>,
    ) -> std::result::Result<Response<v1::ListAccountsResponse>, Status> {
        caller(&request)?.check_everything().map_err(Error::from)?;
        let request = request.into_inner();
        if !request.stripe_customer.is_empty() && request.include_counted {
            let message = "include_counted cannot be given with stripe_customer: a customer has linked accounts only";
            return Err(Error::from(Violation::invalid("include_counted", message)).into());
        }
        if !request.stripe_customer.is_empty() && !request.account_prefix.is_empty() {
            let message = "account_prefix cannot be given with stripe_customer; give one of them";
            return Err(Error::from(Violation::invalid("account_prefix", message)).into());
        }
        if !request.stripe_customer.is_empty() {
            let customer = request.stripe_customer.as_str();
            check_stripe_id("stripe_customer", customer).map_err(Error::from)?;
            let found = self.store.find_accounts_of_customer(customer).await?;
            let accounts = self.to_wire_all(found).await?;
            let usage = self.recent_usage(&request, &accounts, &[]).await?;
            return Ok(Response::new(v1::ListAccountsResponse {
                accounts,
                next_page_token: String::new(),
                counted: Vec::new(),
                usage,
            }));
        }
        let mut limit = page_token::page_size(request.page_size).map_err(Error::from)?;
        if request.include_usage {
            limit = limit.min(recent_usage::MAX_ACCOUNTS);
        }
        let prefix = parse_prefix(&request.account_prefix).map_err(Error::from)?;
        let filter = if request.include_counted { ALL } else { LINKED };
        let filter = format!("{filter} {prefix}");
        let after = page_token::decode(&filter, &request.page_token)
            .map_err(Error::from)?
            .unwrap_or_default();
        let range = AccountRange {
            after: &after,
            prefix: &prefix,
        };
        let ListedAccounts {
            linked,
            counted,
            next,
        } = if request.include_counted {
            self.store.list_all_accounts(&range, limit).await?
        } else {
            self.store.list_linked_accounts(&range, limit).await?
        };
        let next_page_token = next.map(|last| page_token::encode(&filter, &last));
        let accounts = self.to_wire_all(linked).await?;
        let usage = self.recent_usage(&request, &accounts, &counted).await?;
        Ok(Response::new(v1::ListAccountsResponse {
            accounts,
            next_page_token: next_page_token.unwrap_or_default(),
            counted,
            usage,
        }))
    }
}

async fn find(store: &Store, account_id: &AccountId) -> Result<Account> {
    store
        .find_account_in_one_state(account_id)
        .await?
        .ok_or_else(|| Error::AccountNotFound(account_id.to_string()))
}
