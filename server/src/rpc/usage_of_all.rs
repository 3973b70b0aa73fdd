//! The part of `UsageService` that shows the usage of many accounts.

use tonic::{Request, Response, Status};
use usage_proto::v1;

use super::{
    actor::caller,
    page_token,
    usage_service::{UsageRpc, quantities},
    wire,
};
use crate::{
    domain::{
        access::meter_name,
        caller_id::CallerId,
        usage_list::{AccountUsage, MAX_TOP_ACCOUNTS, UsageOrder, UsagePlace, parse_prefix},
        violation::Violation,
        window::Interval,
    },
    error::{Error, Result},
    store::usage_of_accounts::UsageFilter,
    usage_of_all::{MeterSummary, StateSums, SummaryQuery},
    usage_query::in_64_bits,
};

impl UsageRpc {
    pub(super) async fn usage_page(
        &self,
        request: Request<v1::ListUsageRequest>,
    ) -> std::result::Result<Response<v1::ListUsageResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        caller
            .check_prefix(&request.account_prefix, Some(&request.meter))
            .map_err(Error::from)?;
        let limit = page_token::page_size(request.page_size).map_err(Error::from)?;
        let order = order(request.order).map_err(Error::from)?;
        let filter = UsageFilter {
            // Also one that is not counted any more.
            meter: Some(meter_name("meter", &request.meter).map_err(Error::from)?),
            period: self.period_of_all(request.period.as_ref(), request.round_outward)?,
            prefix: parse_prefix(&request.account_prefix).map_err(Error::from)?,
        };
        let name = format!("usage {filter:?} {order:?}");
        let after = page_token::decode_as(&name, &request.page_token, UsagePlace::parse)
            .map_err(Error::from)?;
        let (period, as_of) = (filter.period, self.clock.now());
        let mut usage = self
            .usage_of_all
            .list(
                CallerId::of(&caller).as_ref(),
                filter,
                order,
                after,
                limit.saturating_add(1),
            )
            .await?;
        let has_more = u64::try_from(usage.len()).is_ok_and(|len| len > limit);
        if has_more {
            usage.pop();
        }
        let next_page_token = match usage.last() {
            Some(last) if has_more => page_token::encode(&name, &UsagePlace::of(last).to_string()),
            _ => String::new(),
        };
        let usage = usage.into_iter();
        let usage = usage.map(|one| account_usage(&request.meter, one));
        Ok(Response::new(v1::ListUsageResponse {
            usage: usage.collect::<Result<_, _>>().map_err(Error::from)?,
            next_page_token,
            period: Some(wire::period(period)),
            unit: self.usage_of_all.unit_of(&request.meter),
            as_of: Some(wire::timestamp(as_of)),
        }))
    }

    pub(super) async fn summary(
        &self,
        request: Request<v1::GetSummaryRequest>,
    ) -> std::result::Result<Response<v1::GetSummaryResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let meter = Some(request.meter.as_str()).filter(|meter| !meter.is_empty());
        caller
            .check_prefix(&request.account_prefix, meter)
            .map_err(Error::from)?;
        let meter = meter.map(|meter| meter_name("meter", meter)).transpose();
        let (granularity, wire_granularity) =
            wire::granularity(request.granularity).map_err(Error::from)?;
        let period = self.period_of_all(request.period.as_ref(), request.round_outward)?;
        let query = SummaryQuery {
            filter: UsageFilter {
                meter: meter.map_err(Error::from)?,
                period,
                prefix: parse_prefix(&request.account_prefix).map_err(Error::from)?,
            },
            granularity,
            zone: request.time_zone,
            is_rounded: request.round_outward,
            top: top_accounts(request.top_accounts).map_err(Error::from)?,
        };
        let as_of = self.clock.now();
        let caller = CallerId::of(&caller);
        let summary = self.usage_of_all.summary(caller.as_ref(), query).await?;
        let meters = summary.meters.into_iter().map(meter_summary);
        Ok(Response::new(v1::GetSummaryResponse {
            period: Some(wire::period(period)),
            granularity: wire_granularity.into(),
            time_zone: summary.zone.name().to_owned(),
            as_of: Some(wire::timestamp(as_of)),
            meters: meters.collect::<Result<_, _>>().map_err(Error::from)?,
            accounts: summary.accounts,
        }))
    }

    fn period_of_all(&self, period: Option<&v1::Period>, is_rounded: bool) -> Result<Interval> {
        let period = period.ok_or_else(|| {
            Violation::invalid("period", "period is missing: give its start and end")
        })?;
        let requested = wire::interval("period", period)?;
        self.usage_of_all.period(requested, is_rounded)
    }
}

/// The order of a request; unspecified means by quantity.
fn order(number: i32) -> std::result::Result<UsageOrder, Violation> {
    match v1::UsageOrder::try_from(number) {
        Ok(v1::UsageOrder::Unspecified | v1::UsageOrder::Quantity) => Ok(UsageOrder::Quantity),
        Ok(v1::UsageOrder::Account) => Ok(UsageOrder::Account),
        Err(_) => Err(Violation::invalid(
            "order",
            format!("order is {number}; it must be QUANTITY or ACCOUNT"),
        )),
    }
}

fn top_accounts(number: i32) -> std::result::Result<u32, Violation> {
    let top = u32::try_from(number).ok();
    top.filter(|top| *top <= MAX_TOP_ACCOUNTS).ok_or_else(|| {
        Violation::invalid(
            "top_accounts",
            format!("top_accounts is {number}; it must be 0 to {MAX_TOP_ACCOUNTS}"),
        )
    })
}

fn account_usage(meter: &str, usage: AccountUsage) -> Result<v1::AccountUsage, Violation> {
    Ok(v1::AccountUsage {
        quantity: in_64_bits(meter, usage.quantity)?,
        account_id: usage.account_id,
    })
}

fn meter_summary(meter: MeterSummary) -> Result<v1::MeterSummary, Violation> {
    let name = &*meter.meter;
    let points = meter.points.into_iter();
    let points = points.map(|(interval, states)| point(name, interval, &states));
    let top = meter.top.into_iter().map(|one| account_usage(name, one));
    Ok(v1::MeterSummary {
        meter: name.to_owned(),
        unit: meter.unit.to_string(),
        quantities: Some(quantities(name, meter.quantities)?),
        states: state_usage(name, &meter.states)?,
        points: points.collect::<Result<_, _>>()?,
        accounts: meter.accounts,
        top_accounts: top.collect::<Result<_, _>>()?,
    })
}

fn point(
    meter: &str,
    interval: Interval,
    states: &StateSums,
) -> Result<v1::SummaryPoint, Violation> {
    let total = states.values().copied().fold(0, i128::saturating_add);
    Ok(v1::SummaryPoint {
        period: Some(wire::period(interval)),
        total: in_64_bits(meter, total)?,
        states: state_usage(meter, states)?,
    })
}

fn state_usage(meter: &str, states: &StateSums) -> Result<Vec<v1::StateUsage>, Violation> {
    let states = states.iter().map(|(state, quantity)| {
        Ok(v1::StateUsage {
            state: wire::state_number(*state),
            quantity: in_64_bits(meter, *quantity)?,
        })
    });
    states.collect()
}
