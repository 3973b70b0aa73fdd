//! Who makes a call, as `serve/access.rs` found out.

use std::sync::Arc;

use tonic::Request;
use uuid::Uuid;

use crate::{
    domain::{access::Caller, audit::Actor},
    error::{Error, Result},
};

/// Names a call of an admin.
#[derive(Clone, Debug)]
pub(crate) struct CallIds {
    /// As no caller can choose it.
    pub(crate) action: Uuid,
    /// In the caller's words; empty if it said nothing.
    pub(crate) request: String,
}

/// The caller. A call whose caller was not looked up is refused.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Arc<Caller>> {
    let caller = request.extensions().get::<Arc<Caller>>();
    caller
        .cloned()
        .ok_or_else(|| Error::Internal("a call whose caller is not known".into()))
}

/// Who acts, for the record.
pub(super) fn actor<T>(request: &Request<T>) -> Result<Actor> {
    let caller = caller(request)?;
    let ids = request.extensions().get::<CallIds>().cloned();
    let ids = ids.ok_or_else(|| Error::Internal("an action whose call has no id".into()))?;
    let address = request.remote_addr();
    let address = address.map(|address| address.to_string());
    Ok(Actor::caller(
        &caller,
        address.unwrap_or_default(),
        ids.action,
        ids.request,
    ))
}
