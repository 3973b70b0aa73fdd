//! The parameters that creating a subscription, updating it and changing its items have in common.

use crate::api_version::ApiVersion;
use crate::errors::StripeError;
use crate::metadata::MetadataChange;
use crate::params::Params;

/// A change to the item with this id; without an id, a new item.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) id: Option<String>,
    pub(crate) price: Option<String>,
    pub(crate) quantity: Option<i64>,
    pub(crate) deleted: bool,
    pub(crate) metadata: MetadataChange,
}

/// How a change is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    None,
    Create,
    Invoice,
}

/// When a change takes effect, and whether it is prorated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proration {
    pub(crate) behavior: Behavior,
    /// The time from which licensed items are prorated.
    pub(crate) date: i64,
    pub(crate) at: i64,
}

impl Change {
    /// Takes `price`, `quantity` and `metadata`.
    pub(crate) fn take(params: &mut Params) -> Result<Change, StripeError> {
        let quantity = params.integer("quantity")?;
        if quantity.is_some_and(|quantity| quantity < 0) {
            return Err(
                StripeError::invalid("Invalid non-negative integer").param(params.name("quantity"))
            );
        }
        Ok(Change {
            id: None,
            price: params.text("price")?,
            quantity,
            deleted: false,
            metadata: MetadataChange::take(params)?,
        })
    }

    /// Takes an entry of `items` of an update.
    pub(crate) fn of_update(mut params: Params) -> Result<Change, StripeError> {
        let id = params.text("id")?;
        let deleted = params.boolean("deleted")?.unwrap_or(false);
        // The usage of a meter belongs to the customer: clearing an item's usage has no effect on it.
        params.boolean("clear_usage")?;
        let change = Change {
            id,
            deleted,
            ..Change::take(&mut params)?
        };
        params.finish()?;
        Ok(change)
    }
}

impl Proration {
    /// Takes `proration_behavior` and `proration_date`.
    pub(crate) fn take(params: &mut Params, at: i64) -> Result<Proration, StripeError> {
        let names = ["create_prorations", "none", "always_invoice"];
        let behavior = match params.one_of("proration_behavior", &names)? {
            Some("none") => Behavior::None,
            Some("always_invoice") => Behavior::Invoice,
            _ => Behavior::Create,
        };
        Ok(Proration {
            behavior,
            date: params.integer("proration_date")?.unwrap_or(at),
            at,
        })
    }
}

/// Payment is not modelled: an invoice stays open, as with a payment that takes days, and no subscription becomes
/// `incomplete` or `past_due` for it. So what says how a failed payment is treated is refused, but for the default, with
/// which callers cannot mean more than Stripe does anyway.
pub(crate) fn check_payment_params(params: &mut Params) -> Result<(), StripeError> {
    check_collection(params)?;
    params.one_of_supported(
        "payment_behavior",
        &["allow_incomplete"],
        &[
            "default_incomplete",
            "error_if_incomplete",
            "pending_if_incomplete",
        ],
    )?;
    Ok(())
}

/// Takes the other parameters of payment. `off_session` changes nothing without a payment.
pub(crate) fn check_collection(params: &mut Params) -> Result<(), StripeError> {
    params.one_of_supported(
        "collection_method",
        &["charge_automatically"],
        &["send_invoice"],
    )?;
    params.boolean("off_session")?;
    Ok(())
}

/// Takes the change of the anchor: `billing_cycle_anchor[type]`, or under older versions `billing_cycle_anchor`.
pub(crate) fn take_anchor(
    params: &mut Params,
    version: ApiVersion,
) -> Result<Option<&'static str>, StripeError> {
    let types = ["now", "unchanged"];
    if !version.typed_anchors {
        return params.one_of("billing_cycle_anchor", &types);
    }
    let Some(mut anchor) = params.nested("billing_cycle_anchor")? else {
        return Ok(None);
    };
    let kind = anchor
        .one_of("type", &types)?
        .ok_or_else(|| StripeError::missing_param("billing_cycle_anchor[type]"))?;
    anchor.finish()?;
    Ok(Some(kind))
}

/// Takes `billing_mode`, and returns its type.
pub(crate) fn billing_mode(params: &mut Params) -> Result<Option<&'static str>, StripeError> {
    let Some(mut mode) = params.nested("billing_mode")? else {
        return Ok(None);
    };
    let kind = mode
        .one_of("type", &["classic", "flexible"])?
        .ok_or_else(|| StripeError::missing_param("billing_mode[type]"))?;
    if let Some(mut flexible) = mode.nested("flexible")? {
        flexible.one_of_supported("proration_discounts", &["included"], &["itemized"])?;
        flexible.finish()?;
    }
    mode.finish()?;
    Ok(Some(kind))
}
