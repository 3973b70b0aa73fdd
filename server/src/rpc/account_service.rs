//! `AccountService`: the billing of accounts, and changes of their subscriptions.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use usage_proto::v1::{
    self, account_service_server::AccountService, cancel_subscription_request::When,
    put_account_request::Billing as WireBilling,
};

use super::{
    account_deletion::ExportStream,
    actor::{actor, caller},
    audit_json,
    auditor::{Action, Auditor, Changed, why},
    page_token, to_its_end, wire,
};
use crate::{
    clock::Clock,
    domain::{
        access::Caller,
        account::{Account, Billing, check_stripe_id},
        account_id::AccountId,
        audit::Actor,
        billing_period::BillingPeriod,
        correction::check_requested_by,
        invoice_draft::InvoiceState,
        subscription::SyncedSubscription,
        subscription_change::SubscriptionChange,
        violation::Violation,
        window::Slots,
    },
    error::{Error, Result},
    store::{
        Store,
        accounts::{AccountPut, PutAccount, UnbilledUsage},
    },
    workers::{
        subscription_change::{SubscriptionChanges, abort::Aborted, change::RequestedChange},
        subscription_sync::{CheckedLink, SubscriptionSync},
    },
};

/// The maximum number of billing periods in the response for one account, newest first.
const MAX_PERIODS: usize = 100;
/// Prices that one plan change may name.
const MAX_PRICES: usize = 20;

/// Serves `usage.v1.AccountService`.
#[derive(Clone, Debug)]
pub(crate) struct AccountRpc {
    pub(crate) store: Store,
    /// Absent when the service runs without a Stripe key.
    pub(crate) subscription_sync: Option<SubscriptionSync>,
    pub(crate) subscription_changes: Option<Arc<SubscriptionChanges>>,
    pub(crate) slots: Slots,
    pub(crate) clock: Clock,
    pub(crate) auditor: Auditor,
    /// Ends exports.
    pub(crate) shutdown: CancellationToken,
    /// A permit for each export that runs.
    pub(crate) exports: Arc<Semaphore>,
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

fn parse_put(request: v1::PutAccountRequest) -> std::result::Result<PutAccount, Violation> {
    let mut put = PutAccount {
        account_id: AccountId::parse(&request.account_id)?,
        billing: Billing::Free,
        current_period: None,
        live: None,
        bill_from: None,
        etag: (!request.etag.is_empty()).then_some(request.etag),
        validate_only: request.validate_only,
        watch: None,
    };
    match request.billing {
        None => Err(Violation::invalid(
            "billing",
            "billing is missing: give stripe or free",
        )),
        Some(WireBilling::Free(_)) => Ok(put),
        Some(WireBilling::Stripe(stripe)) => {
            check_stripe_id("stripe.customer", &stripe.customer)?;
            if !stripe.subscription.is_empty() {
                check_stripe_id("stripe.subscription", &stripe.subscription)?;
            }
            put.current_period = stripe
                .current_period
                .as_ref()
                .map(|period| wire::interval("stripe.current_period", period))
                .transpose()?;
            put.bill_from = stripe
                .bill_from
                .as_ref()
                .map(|from| wire::millis("stripe.bill_from", from))
                .transpose()?;
            put.billing = Billing::Stripe {
                customer: stripe.customer,
                subscription: (!stripe.subscription.is_empty()).then_some(stripe.subscription),
            };
            Ok(put)
        }
    }
}

fn account(account: Account, synced: Option<v1::Subscription>) -> v1::Account {
    let etag = account.etag();
    let valid_from = wire::timestamp(account.link.valid_from);
    let billing = match account.link.billing {
        Billing::Free => v1::account::Billing::Free(v1::FreeBilling {}),
        // On the wire, the subscription's status shows whether it has ended.
        Billing::Stripe {
            customer,
            subscription,
        }
        | Billing::Ended {
            customer,
            subscription,
            ..
        } => v1::account::Billing::Stripe(v1::StripeBilling {
            customer,
            subscription: subscription.unwrap_or_default(),
            current_period: account.current_period.map(wire::period),
            bill_from: Some(valid_from),
        }),
    };
    v1::Account {
        account_id: account.id.into(),
        billing: Some(billing),
        etag,
        valid_from: Some(valid_from),
        updated_at: Some(wire::timestamp(account.link.recorded_at)),
        subscription: synced,
    }
}

fn with_subscription(
    of: Account,
    mut rows: Vec<(SyncedSubscription, Vec<BillingPeriod>)>,
) -> v1::Account {
    rows.retain(|(row, _)| Some(row.customer.as_str()) == of.link.billing.customer());
    // The live subscription that the link follows, else another one, else the one that ended last.
    rows.sort_by_key(|(row, _)| {
        let is_live = row.ended_at.is_none();
        (
            is_live,
            is_live && !row.is_companion,
            row.ended_at,
            row.synced_at,
        )
    });
    account(of, rows.pop().map(subscription))
}

/// A synced subscription with its billing periods.
fn subscription((row, mut periods): (SyncedSubscription, Vec<BillingPeriod>)) -> v1::Subscription {
    periods.sort_by_key(|period| std::cmp::Reverse(period.period_start));
    periods.truncate(MAX_PERIODS);
    v1::Subscription {
        subscription: row.subscription,
        status: row.status.name().to_owned(),
        billing_mode: row.billing_mode.name().to_owned(),
        periods: periods.into_iter().map(billing_period).collect(),
        cancel_at: row.cancel_at.map(wire::timestamp),
        ended_at: row.ended_at.map(wire::timestamp),
        synced_at: Some(wire::timestamp(row.synced_at)),
    }
}

fn billing_period(row: BillingPeriod) -> v1::BillingPeriod {
    let period = row.interval();
    let state = match row.invoice_state {
        InvoiceState::Unknown => v1::InvoiceState::Unspecified,
        InvoiceState::Draft { .. } => v1::InvoiceState::Draft,
        InvoiceState::Final => v1::InvoiceState::Final,
    };
    v1::BillingPeriod {
        item: row.item,
        price: row.price.unwrap_or_default(),
        meter: row.meter.unwrap_or_default(),
        period: Some(wire::period(period)),
        invoice: row.invoice.unwrap_or_default(),
        invoice_state: state.into(),
    }
}

fn unbilled_usage(usage: UnbilledUsage) -> v1::UnbilledUsage {
    v1::UnbilledUsage {
        meter: usage.meter,
        quantity: usage.quantity,
    }
}

fn change(change: SubscriptionChange) -> v1::SubscriptionChange {
    v1::SubscriptionChange {
        id: change.id.to_string(),
        subscription: change.subscription,
        boundary: Some(wire::timestamp(change.boundary_at)),
        finished_at: change.finished_at.map(wire::timestamp),
        requested_by: change.requested_by,
    }
}

fn check_prices(prices: &[String]) -> std::result::Result<(), Violation> {
    if !(1..=MAX_PRICES).contains(&prices.len()) {
        return Err(Violation::invalid(
            "prices",
            format!("prices has {} items; give 1 to {MAX_PRICES}", prices.len()),
        ));
    }
    prices
        .iter()
        .try_for_each(|price| check_stripe_id("prices", price))
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

    async fn wire_by_id(&self, account_id: &AccountId) -> Result<v1::Account> {
        self.to_wire(find(&self.store, account_id).await?).await
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
                changes.ok_or(Error::ReportingDisabled)?,
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
        let account_id = request.into_inner().account_id;
        caller.check_account(&account_id).map_err(Error::from)?;
        let account_id = AccountId::parse(&account_id).map_err(Error::from)?;
        Ok(Response::new(v1::GetAccountResponse {
            account: Some(self.wire_by_id(&account_id).await?),
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
            Ok((account_id, changes.ok_or(Error::ReportingDisabled)?))
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
        const FILTER: &str = "accounts";
        caller(&request)?.check_everything().map_err(Error::from)?;
        let request = request.into_inner();
        if !request.stripe_customer.is_empty() {
            let customer = request.stripe_customer.as_str();
            check_stripe_id("stripe_customer", customer).map_err(Error::from)?;
            let found = self.store.find_accounts_of_customer(customer).await?;
            return Ok(Response::new(v1::ListAccountsResponse {
                accounts: self.to_wire_all(found).await?,
                next_page_token: String::new(),
            }));
        }
        let limit = page_token::page_size(request.page_size).map_err(Error::from)?;
        let after = page_token::decode(FILTER, &request.page_token)
            .map_err(Error::from)?
            .unwrap_or_default();
        let mut accounts = self
            .store
            .list_accounts(&after, limit.saturating_add(1))
            .await?;
        let has_more = u64::try_from(accounts.len()).is_ok_and(|len| len > limit);
        if has_more {
            accounts.pop();
        }
        let next_page_token = match accounts.last() {
            Some(last) if has_more => page_token::encode(FILTER, &last.id),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListAccountsResponse {
            accounts: self.to_wire_all(accounts).await?,
            next_page_token,
        }))
    }
}

async fn find(store: &Store, account_id: &AccountId) -> Result<Account> {
    store
        .find_account(account_id)
        .await?
        .ok_or_else(|| Error::AccountNotFound(account_id.to_string()))
}
