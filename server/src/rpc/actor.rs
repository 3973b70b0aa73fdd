//! Who makes a call, as `serve/access.rs` found out.

use std::sync::Arc;

use tonic::Request;
use uuid::Uuid;

use crate::{
    authentication::KnownCaller,
    client_address::ClientAddress,
    domain::{access::Caller, audit::Actor},
    error::{Error, Result},
    request_context::RequestContext,
};

/// Names a call of an admin, as no caller can choose it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActionId(pub(crate) Uuid);

/// The caller. A call whose caller was not looked up is refused.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Arc<Caller>> {
    let caller = request.extensions().get::<Arc<Caller>>();
    caller
        .cloned()
        .ok_or_else(|| Error::Internal("a call whose caller is not known".into()))
}

/// Whether a page of the console makes a call: it knows who calls before.
pub(crate) fn is_in_console(extensions: &http::Extensions) -> bool {
    extensions.get::<KnownCaller>().is_some()
}

/// Who acts, for the record.
pub(super) fn actor<T>(request: &Request<T>) -> Result<Actor> {
    let caller = caller(request)?;
    let action = request.extensions().get::<ActionId>();
    let action = action.ok_or_else(|| Error::Internal("an action whose call has no id".into()))?;
    // tonic stores what was in the extensions of the HTTP request.
    let address = ClientAddress::text_of(request.extensions());
    let id = RequestContext::id_of(request.extensions())?.to_string();
    Ok(Actor::caller(&caller, address, action.0, id)
        .in_console(is_in_console(request.extensions())))
}
