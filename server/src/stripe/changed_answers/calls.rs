//! A call of every function that sends a request.

use std::{fmt::Debug, pin::Pin};

use http::Method;
use uuid::Uuid;

use super::{
    super::{
        Failure, Stripe, catalog::NewPrice, event_summaries::Grouping, subscriptions::CancelNow,
    },
    sample::{
        API_CALLS, CUSTOMER, LOOKUP_KEY, METER, PRICE, PRODUCT, SEATS, SUBSCRIPTION, late_event,
        period,
    },
};
use crate::domain::{
    meter::Meters,
    sender_mark::{Mark, StoredMark},
    tier::Tier,
};

/// A call that is under way.
type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A call of a function.
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) run: fn(Stripe) -> Running,
    /// The type of the objects that it lists.
    pub(super) object: Option<&'static str>,
    /// Whether another function reads its answer by the same code, and is given all variants of it.
    pub(super) is_like_another: bool,
}

/// What a function returned.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// Its debug output.
    Read(String),
    /// Why it failed.
    Refused(String),
}

impl Outcome {
    fn of<T: Debug>(result: Result<T, Failure>) -> Self {
        match result {
            Ok(read) => Self::Read(format!("{read:#?}")),
            Err(failure) => Self::Refused(failure.message().to_owned()),
        }
    }
}

impl Call {
    fn listing(self, object: &'static str) -> Self {
        Self {
            object: Some(object),
            ..self
        }
    }

    fn like_another(self) -> Self {
        Self {
            is_like_another: true,
            ..self
        }
    }
}

macro_rules! call {
    ($name:ident($($arg:expr),*)) => {
        Call {
            name: stringify!($name),
            run: |stripe: Stripe| -> Running {
                Box::pin(async move { Outcome::of(stripe.$name($($arg),*).await) })
            },
            object: None,
            is_like_another: false,
        }
    };
}

/// The calls in an order in which the fake Stripe succeeds. What they change comes first if others show it.
pub(super) fn calls() -> Vec<Call> {
    let mut calls = vec![
        call!(send(&late_event(), "late")),
        call!(write_mark(PRODUCT, &mark())),
        call!(change_items(
            SUBSCRIPTION,
            &[],
            &[SEATS.to_owned()],
            "change-1",
            "change"
        )),
        call!(create_meter("seconds", "meter")),
        call!(create_product("prod_2", "Seconds", "second", "product")),
        call!(create_price(&new_price(), "price")),
    ];
    calls.extend(reads());
    calls.extend([
        call!(cancel_at_period_end(SUBSCRIPTION, "at-end")).like_another(),
        call!(cancel_now(SUBSCRIPTION, now(), "now")).like_another(),
    ]);
    calls
}

fn reads() -> Vec<Call> {
    let account = Call {
        name: "find_account_id",
        run: |stripe: Stripe| -> Running {
            Box::pin(async move { Outcome::Read(format!("{:#?}", stripe.find_account_id().await)) })
        },
        object: None,
        is_like_another: false,
    };
    vec![
        account,
        call!(check_key()),
        call!(status_of(Method::GET, "/v1/balance")).like_another(),
        call!(find_meter_mode(METER)),
        call!(meter_id(API_CALLS)),
        call!(total(API_CALLS, CUSTOMER, period())),
        call!(totals(API_CALLS, CUSTOMER, period(), Grouping::Day)),
        call!(list_meters()).listing("CatalogMeter"),
        call!(find_product(PRODUCT)),
        call!(find_price(PRICE)),
        call!(find_price_by_key(LOOKUP_KEY)),
        call!(list_prices(METER)).listing("CatalogPrice"),
        call!(marked_products(&meters())),
        call!(find_customer(CUSTOMER)),
        call!(is_customer_deleted(CUSTOMER)),
        call!(list_subscriptions(None)).listing("Subscription"),
        call!(subscriptions_of(CUSTOMER)).like_another(),
        call!(find_subscription(SUBSCRIPTION)),
        call!(list_live_subscriptions()).listing("LiveSubscription"),
        call!(live_subscriptions_after(None, 10)).like_another(),
        call!(live_subscriptions_of(CUSTOMER)).listing("LiveSubscription"),
        call!(invoices_of(SUBSCRIPTION, period().start)).listing("Invoice"),
    ]
}

fn now() -> CancelNow {
    CancelNow {
        invoice_now: true,
        prorate: true,
    }
}

fn meters() -> Meters {
    Meters::new(vec![API_CALLS.parse().unwrap()], None).unwrap()
}

fn mark() -> StoredMark {
    StoredMark {
        database: Uuid::nil(),
        mark: Mark {
            number: 1,
            nonce: "nonce".to_owned(),
        },
        written_at: period().start,
    }
}

fn new_price() -> NewPrice<'static> {
    NewPrice {
        lookup_key: "new",
        product: PRODUCT,
        meter: METER,
        currency: "usd",
        nickname: "new",
        tiers: tiers(),
    }
}

fn tiers() -> &'static [Tier] {
    let one: Tier = "inf=0.50".parse().unwrap();
    Box::leak(Box::new([one]))
}
