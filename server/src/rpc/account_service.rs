//! `AccountService`: whom accounts bill to.

use tonic::{Request, Response, Status};
use usage_proto::v1::{
    self, account_service_server::AccountService, put_account_request::Billing as WireBilling,
};

use super::{page_token, wire};
use crate::{
    clock::Clock,
    error::{Error, Result},
    store::{
        Store,
        accounts::{Account, PutAccount},
    },
    usage::{
        account::{Billing, check_stripe_id},
        increment::check_account_id,
        refusal::Refusal,
        window::Slots,
    },
};

/// Serves `usage.v1.AccountService`.
#[derive(Debug)]
pub(crate) struct AccountRpc {
    pub(crate) store: Store,
    pub(crate) slots: Slots,
    pub(crate) clock: Clock,
}

fn parse_put(request: v1::PutAccountRequest) -> std::result::Result<PutAccount, Refusal> {
    check_account_id(&request.account_id)?;
    let mut put = PutAccount {
        account_id: request.account_id,
        billing: Billing::Free,
        current_period: None,
        bill_from: None,
        etag: (!request.etag.is_empty()).then_some(request.etag),
    };
    match request.billing {
        None => Err(Refusal::invalid(
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

fn account(account: Account) -> v1::Account {
    let etag = account.etag();
    let valid_from = wire::timestamp(account.link.valid_from);
    let billing = match account.link.billing {
        Billing::Free => v1::account::Billing::Free(v1::FreeBilling {}),
        // The contract's subscription status says whether it ended.
        Billing::Stripe {
            customer,
            subscription,
        }
        | Billing::Ended {
            customer,
            subscription,
        } => v1::account::Billing::Stripe(v1::StripeBilling {
            customer,
            subscription: subscription.unwrap_or_default(),
            current_period: account.current_period.map(wire::period),
            bill_from: Some(valid_from),
        }),
    };
    v1::Account {
        account_id: account.id,
        billing: Some(billing),
        etag,
        valid_from: Some(valid_from),
        updated_at: Some(wire::timestamp(account.link.recorded_at)),
    }
}

#[tonic::async_trait]
impl AccountService for AccountRpc {
    async fn put_account(
        &self,
        request: Request<v1::PutAccountRequest>,
    ) -> std::result::Result<Response<v1::PutAccountResponse>, Status> {
        let put = parse_put(request.into_inner()).map_err(Error::from)?;
        let put = self
            .store
            .put_account(&put, self.slots, || self.clock.now())
            .await?;
        Ok(Response::new(v1::PutAccountResponse {
            account: Some(account(put)),
        }))
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> std::result::Result<Response<v1::GetAccountResponse>, Status> {
        let account_id = request.into_inner().account_id;
        let found = find(&self.store, &account_id).await?;
        Ok(Response::new(v1::GetAccountResponse {
            account: Some(account(found)),
        }))
    }

    async fn list_accounts(
        &self,
        request: Request<v1::ListAccountsRequest>,
    ) -> std::result::Result<Response<v1::ListAccountsResponse>, Status> {
        const FILTER: &str = "accounts";
        let request = request.into_inner();
        let limit = page_token::page_size(request.page_size).map_err(Error::from)?;
        let after = page_token::decode(FILTER, &request.page_token)
            .map_err(Error::from)?
            .unwrap_or_default();
        let mut accounts = self
            .store
            .list_accounts(&after, limit.saturating_add(1))
            .await?;
        let more = u64::try_from(accounts.len()).is_ok_and(|len| len > limit);
        if more {
            accounts.pop();
        }
        let next_page_token = match accounts.last() {
            Some(last) if more => page_token::encode(FILTER, &last.id),
            _ => String::new(),
        };
        let accounts = accounts.into_iter().map(account).collect();
        Ok(Response::new(v1::ListAccountsResponse {
            accounts,
            next_page_token,
        }))
    }
}

async fn find(store: &Store, account_id: &str) -> Result<Account> {
    check_account_id(account_id)?;
    store
        .find_account(account_id)
        .await?
        .ok_or_else(|| Error::AccountNotFound(account_id.to_owned()))
}
