//! `FindIncrement` and `ExplainInvoice` of `UsageService`: from a call to its invoice, and from an invoice to its calls.

use tonic::{Request, Response, Status};
use usage_proto::v1;
use uuid::Uuid;

use super::{
    actor::caller,
    page_token,
    usage_service::{UsageRpc, check_filter},
    wire_explanation, wire_reconciliation,
};
use crate::{
    domain::{
        access::meter_name,
        account::check_stripe_id,
        account_id::AccountId,
        increment::check_key,
        violation::{Reason, Violation, quoted},
    },
    error::{Error, Result},
    explanation::{self, ExplainQuery, Place},
};

impl UsageRpc {
    pub(super) async fn find(
        &self,
        request: Request<v1::FindIncrementRequest>,
    ) -> std::result::Result<Response<v1::FindIncrementResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        if request.meter.is_empty() {
            caller.check_account(&request.account_id)
        } else {
            caller.check_usage(&request.account_id, &request.meter)
        }
        .map_err(Error::from)?;
        let account = AccountId::parse(&request.account_id).map_err(Error::from)?;
        let key = request.idempotency_key;
        if key.is_empty() {
            let why = "idempotency_key is missing; give that of the increment";
            return Err(Error::from(Violation::invalid("idempotency_key", why)).into());
        }
        check_key(&key).map_err(Error::from)?;
        // Also one that is not counted any more.
        let meter = (!request.meter.is_empty()).then(|| meter_name("meter", &request.meter));
        let meter = meter.transpose().map_err(Error::from)?;
        let with_others = caller.sees_all_accounts();
        let _turn = self.searches.take().await?;
        let found =
            explanation::find_increment(&self.store, &account, &key, meter.as_deref(), with_others);
        let found = found.await?;
        Ok(Response::new(wire_explanation::found(found)))
    }

    pub(super) async fn explain(
        &self,
        request: Request<v1::ExplainInvoiceRequest>,
    ) -> std::result::Result<Response<v1::ExplainInvoiceResponse>, Status> {
        let caller = caller(&request)?;
        check_filter(&caller, &request.get_ref().account_id)?;
        let request = request.into_inner();
        let query = query_of(&request, caller.sees_all_accounts())?;
        let limit = page_token::page_size(request.page_size).map_err(Error::from)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let name = format!("explain {query:?}");
        let place = page_token::decode(&name, &request.page_token).map_err(Error::from)?;
        let place = place
            .map(|text| Place::parse(&text).ok_or_else(wrong_token))
            .transpose()?;
        let _turn = self.explanations.take().await?;
        let now = self.clock.now();
        let page = explanation::explain(&self.store, &query, place, limit, now).await?;
        let next = page.next.map(|next| next.to_text());
        Ok(Response::new(v1::ExplainInvoiceResponse {
            lines: page.lines.into_iter().map(wire_explanation::line).collect(),
            next_page_token: next
                .map(|next| page_token::encode(&name, &next))
                .unwrap_or_default(),
        }))
    }
}

fn wrong_token() -> Error {
    let why = "page_token leads nowhere; start again without it";
    Violation::new(Reason::PageTokenInvalid, "page_token", why).into()
}

fn query_of(request: &v1::ExplainInvoiceRequest, with_others: bool) -> Result<ExplainQuery> {
    let account_id = (!request.account_id.is_empty())
        .then(|| AccountId::parse(&request.account_id))
        .transpose()?;
    let invoice = Some(&request.stripe_invoice).filter(|invoice| !invoice.is_empty());
    if let Some(invoice) = invoice {
        check_stripe_id("stripe_invoice", invoice)?;
        if request.period.is_some() {
            let why = "period and stripe_invoice are both given; give one of them";
            return Err(Violation::invalid("period", why).into());
        }
    } else if account_id.is_none() {
        let why = "account_id is missing; only with stripe_invoice it may be";
        return Err(Violation::invalid("account_id", why).into());
    }
    let report_id = (!request.report_id.is_empty())
        .then(|| Uuid::parse_str(&request.report_id))
        .transpose()
        .map_err(|_| {
            let given = quoted(&request.report_id);
            Violation::invalid("report_id", format!("report_id {given} is not a UUID"))
        })?;
    Ok(ExplainQuery {
        account_id,
        period: wire_reconciliation::period_of(request.period.as_ref())?,
        invoice: invoice.cloned(),
        report_id,
        with_increments: !request.without_increments,
        with_others,
    })
}
