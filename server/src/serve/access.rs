//! Decides whether a call is made: who calls, and whether the role suffices for the method.
//!
//! Which accounts and meters the caller may reach is checked where the request is read, in `rpc`.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower_layer::Layer;
use tower_service::Service;
use uuid::Uuid;

use crate::{
    authentication::{Authenticator, KnownCaller},
    client_address::ClientAddress,
    connections::Activity,
    domain::{
        access::{Caller, Requirement, Role},
        audit::Actor,
        method_roles::requirement,
    },
    error::{Error, Result},
    request_context::RequestContext,
    request_rates::RequestRates,
    rpc::{
        actor::{ActionId, is_in_console},
        auditor::Auditor,
    },
};

/// Checks the calls of the services that it wraps.
#[derive(Clone, Debug)]
pub(super) struct AccessCheck {
    pub(super) authenticator: Authenticator,
    pub(super) auditor: Auditor,
    pub(super) rates: RequestRates,
}

impl<S> Layer<S> for AccessCheck {
    type Service = Checked<S>;

    fn layer(&self, inner: S) -> Checked<S> {
        Checked {
            inner,
            check: self.clone(),
        }
    }
}

/// A service whose callers are known.
#[derive(Clone, Debug)]
pub(super) struct Checked<S> {
    inner: S,
    check: AccessCheck,
}

impl<S> Service<Request<Body>> for Checked<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let requirement = requirement(request.uri().path());
        if requirement == Some(Requirement::Nothing) {
            return Box::pin(self.inner.call(request));
        }
        // The one that is ready.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let check = self.check.clone();
        Box::pin(async move {
            match check.allow(&mut request, requirement).await {
                Ok(()) => inner.call(request).await,
                Err(error) => Ok(Status::from(error).into_http()),
            }
        })
    }
}

impl AccessCheck {
    /// Stores the caller in the request, if the call may be made.
    async fn allow(
        &self,
        request: &mut Request<Body>,
        requirement: Option<Requirement>,
    ) -> Result<()> {
        let connection = request.extensions().get::<Arc<Activity>>().cloned();
        let certificate = connection.as_ref().and_then(|of| of.client_certificate());
        let known = request.extensions().get::<KnownCaller>();
        let caller = if let Some(KnownCaller(caller)) = known {
            let caller = Arc::clone(caller);
            // A file of many calls goes on for minutes, and its key may be revoked meanwhile.
            if !self.authenticator.is_still_valid(&caller).await? {
                return Err(Error::Unauthenticated);
            }
            caller
        } else {
            let authenticating = self
                .authenticator
                .authenticate(request.headers(), certificate);
            authenticating.await?
        };
        self.rates.check(&caller)?;
        let path = request.uri().path();
        let Some(requirement) = requirement else {
            return Err(Error::unknown_method(path));
        };
        let is_for_admins = requirement == Requirement::Role(Role::Admin);
        let action = is_for_admins.then(|| ActionId(Uuid::now_v7()));
        // That there is no key yet may be seconds old.
        if is_for_admins && caller.is_anyone() && self.authenticator.has_keys_now().await? {
            return Err(Error::Unauthenticated);
        }
        if let Err(denial) = caller.check_role(requirement) {
            let denied = Error::PermissionDenied(denial);
            if let Some(action) = action {
                let actor = actor(&caller, request, action)?;
                let method = path.rsplit('/').next().unwrap_or_default().to_owned();
                self.auditor.refused(&actor, &method, &denied).await;
            }
            return Err(denied);
        }
        let extensions = request.extensions_mut();
        extensions.insert(caller);
        if let Some(action) = action {
            extensions.insert(action);
        }
        Ok(())
    }
}

fn actor(caller: &Caller, request: &Request<Body>, action: ActionId) -> Result<Actor> {
    let address = ClientAddress::text_of(request.extensions());
    let id = RequestContext::id_of(request.extensions())?.to_string();
    let actor = Actor::caller(caller, address, action.0, id);
    Ok(actor.in_console(is_in_console(request.extensions())))
}
