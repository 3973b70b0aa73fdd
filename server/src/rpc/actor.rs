//! Who makes a call, as `serve/access.rs` found out.

use std::sync::Arc;

use tonic::Request;

use crate::{
    domain::{access::Caller, audit::Actor},
    error::{Error, Result},
    request_context::RequestContext,
};

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
    Ok(Actor {
        key: caller.key,
        name: caller.name.clone(),
        address: request
            .remote_addr()
            .map(|address| address.to_string())
            .unwrap_or_default(),
        // tonic stores what was in the extensions of the HTTP request.
        request_id: RequestContext::id_of(request.extensions())?.to_string(),
    })
}
