//! Shadow mode: the comparison with what another integration sent, and the moment from which on this service bills.

use tonic::{Request, Response, Status};
use usage_proto::v1;

use super::{
    actor::{actor, caller},
    audit_json,
    auditor::Changed,
    operations_service::OperationsRpc,
    page_token, to_its_end, wire,
};
use crate::{
    domain::{
        Millis,
        account::check_stripe_id,
        billing_start::BillingStart,
        correction::check_requested_by,
        shadow::{ShadowFinding, can_be_compared, days_to_compare},
        violation::Violation,
        window::Interval,
    },
    error::{Error, Result},
    shadow_comparison::{Place, ShadowDay, ShadowQuery},
};

/// Customers on a page if the request does not say: each needs a request to Stripe for each meter.
const DEFAULT_CUSTOMERS: u64 = 20;
/// Customers on the largest page.
const MAX_CUSTOMERS: u64 = 100;
/// The two parts of a comparison, in a token.
const LINKED: &str = "linked";
const UNLINKED: &str = "unlinked";

impl OperationsRpc {
    pub(super) async fn compare(
        &self,
        request: Request<v1::CompareShadowRequest>,
    ) -> std::result::Result<Response<v1::CompareShadowResponse>, Status> {
        caller(&request)?.check_everything().map_err(Error::from)?;
        let request = request.into_inner();
        let now = self.store.shared_now().await?;
        let query = query(&request, now).map_err(Error::from)?;
        let limit = page_size(request.page_size).map_err(Error::from)?;
        // The days of a first page stay those of the next ones also when a day begins.
        let filter = format!(
            "shadow {:?} {:?} {:?} {}",
            request.from, request.until, query.customer, query.only_differences
        );
        let position = page_token::decode(&filter, &request.page_token).map_err(Error::from)?;
        let position = position.as_deref().map(|text| {
            let parsed = parse_position(text);
            parsed.ok_or_else(|| Error::from(page_token::invalid()))
        });
        let position = position.transpose()?;
        let (days, place) = position.unwrap_or((query.days, Place::Linked(String::new())));
        let query = ShadowQuery { days, ..query };
        let found = self.shadow.page(&query, place, limit, now).await?;
        let start = self.store.billing_start().await?;
        let next = found
            .next
            .map(|place| page_token::encode(&filter, &position_text(days, &place)));
        Ok(Response::new(v1::CompareShadowResponse {
            days: found.days.into_iter().map(day).collect(),
            next_page_token: next.unwrap_or_default(),
            from: Some(wire::timestamp(days.start)),
            until: Some(wire::timestamp(days.end)),
            shadow: start.is_elsewhere(now),
            bill_from: named(start),
            unlinked_error: found.unlinked_error.unwrap_or_default(),
        }))
    }

    pub(super) async fn switch(
        &self,
        request: Request<v1::SwitchBillingRequest>,
    ) -> std::result::Result<Response<v1::SwitchBillingResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let action = audit_json::switch_billing(actor, &request);
        let checked = || {
            caller.check_everything()?;
            check_requested_by(&request.requested_by)?;
            let at = request.bill_from.as_ref();
            let at = at.ok_or_else(|| Violation::invalid("bill_from", "bill_from is missing"))?;
            Ok(wire::millis("bill_from", at)?)
        };
        let at: Millis = self.auditor.checked(&action, checked()).await?;
        // The database's clock is read here, and carried on below.
        let read_at = self.store.shared_now().await?;
        let store = self.store.clone();
        let named_at = Box::pin(async move {
            let clock = || store.last_known_now().max(read_at);
            store.name_billing_start(at, clock).await
        });
        let changed = move |before: &BillingStart| Changed {
            before: Some(audit_json::billing_start(*before)),
            after: Some(audit_json::billing_start(BillingStart::At(at))),
            failed_after: None,
        };
        let named_at = self.auditor.clone().record(action, named_at, changed);
        let before = to_its_end(named_at).await?;
        Ok(Response::new(v1::SwitchBillingResponse {
            bill_from: Some(wire::timestamp(at)),
            former_bill_from: named(before),
        }))
    }
}

fn query(request: &v1::CompareShadowRequest, now: Millis) -> Result<ShadowQuery, Violation> {
    let millis = |field: &str, at: &Option<_>| {
        let at = at.as_ref().map(|at| wire::millis(field, at));
        at.transpose()
    };
    let from = millis("from", &request.from)?;
    let until = millis("until", &request.until)?;
    let customer = &request.stripe_customer;
    if !customer.is_empty() {
        check_stripe_id("stripe_customer", customer)?;
    }
    Ok(ShadowQuery {
        days: days_to_compare(from, until, now)?,
        customer: (!customer.is_empty()).then(|| customer.clone()),
        only_differences: request.only_differences,
    })
}

fn page_size(requested: i32) -> Result<u64, Violation> {
    match u64::try_from(requested) {
        Ok(0) => Ok(DEFAULT_CUSTOMERS),
        Ok(size) => Ok(size.min(MAX_CUSTOMERS)),
        Err(_) => Err(Violation::invalid(
            "page_size",
            format!(
                "page_size is {requested}; it must be 0 for {DEFAULT_CUSTOMERS}, or 1 to {MAX_CUSTOMERS}"
            ),
        )),
    }
}

/// The days of a page and its place, for its token.
fn position_text(days: Interval, place: &Place) -> String {
    let (kind, after) = match place {
        Place::Linked(after) => (LINKED, after),
        Place::Unlinked(after) => (UNLINKED, after),
    };
    format!("{} {} {kind} {after}", days.start, days.end)
}

/// The same, as in a token. Whoever calls can make a token, so it is checked.
fn parse_position(text: &str) -> Option<(Interval, Place)> {
    let mut parts = text.splitn(4, ' ');
    let start = parts.next()?.parse().ok()?;
    let end = parts.next()?.parse().ok()?;
    let days = Interval { start, end };
    let place = match (parts.next()?, parts.next()?.to_owned()) {
        (LINKED, after) => Place::Linked(after),
        (UNLINKED, after) => {
            check_stripe_id("page_token", &after).ok()?;
            Place::Unlinked(after)
        }
        _ => return None,
    };
    can_be_compared(days).then_some((days, place))
}

fn named(start: BillingStart) -> Option<prost_types::Timestamp> {
    match start {
        BillingStart::At(at) => Some(wire::timestamp(at)),
        BillingStart::Always | BillingStart::NotNamed => None,
    }
}

fn day(day: ShadowDay) -> v1::ShadowDay {
    let finding = match day.finding {
        ShadowFinding::Equal => v1::ShadowFinding::Equal,
        ShadowFinding::Differs => v1::ShadowFinding::Differs,
        ShadowFinding::OnlyHere => v1::ShadowFinding::OnlyHere,
        ShadowFinding::OnlyAtStripe => v1::ShadowFinding::OnlyAtStripe,
        ShadowFinding::Unreadable => v1::ShadowFinding::Unreadable,
    };
    let (stripe_total, stripe_error) = match day.stripe_total {
        Ok(total) => (Some(total), String::new()),
        Err(why) => (None, why),
    };
    v1::ShadowDay {
        stripe_customer: day.customer,
        meter: day.meter,
        day: Some(wire::timestamp(day.day)),
        counted: day.counted,
        stripe_total,
        stripe_error,
        finding: finding.into(),
        preliminary: day.is_preliminary,
        account_ids: day.accounts.into_iter().map(String::from).collect(),
        unlinked: day.is_unlinked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DAY_MS, shadow::MAX_DAYS};

    #[test]
    fn a_position_has_whole_days_and_not_too_many() {
        let day = 20_000 * DAY_MS;
        let parse =
            |start: Millis, end: Millis| parse_position(&format!("{start} {end} linked cus_a b"));
        let days = Interval {
            start: day,
            end: day + MAX_DAYS * DAY_MS,
        };
        assert_eq!(
            parse(days.start, days.end),
            Some((days, Place::Linked("cus_a b".to_owned())))
        );
        for place in [
            Place::Linked("cus_a".to_owned()),
            Place::Unlinked("sub_a".to_owned()),
        ] {
            let text = position_text(days, &place);
            assert_eq!(parse_position(&text), Some((days, place)));
        }
        let of_others = ["unlinked ", "unlinked sub a", "other sub_a"];
        for text in of_others.map(|text| format!("{} {} {text}", days.start, days.end)) {
            assert_eq!(parse_position(&text), None, "{text}");
        }
        assert_eq!(parse(day, day + (MAX_DAYS + 1) * DAY_MS), None);
        assert_eq!(parse(day, day), None);
        assert_eq!(parse(day + DAY_MS, day), None);
        assert_eq!(parse(day + 1, day + DAY_MS + 1), None);
        assert_eq!(parse(day, day + DAY_MS + 1), None);
        assert_eq!(parse(Millis::MIN, Millis::MAX), None);
        assert_eq!(parse_position(&format!("{day} {day}")), None);
    }
}
