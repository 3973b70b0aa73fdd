//! Decides who answers a request: the services, for a path of theirs, or the paths of HTTP; and whether it may be asked by this
//! name, and by a web page of another origin.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use tower::ServiceExt as _;

use super::{
    RpcService,
    cors::{Asked, Cors},
    local_names::LocalNames,
};
use crate::{
    console::{self, Console, Place},
    contract::Contract,
    domain::http_paths::HttpPath,
    error::Error,
    request_context::{REQUEST_ID, RequestContext},
    serve,
};

/// What a socket answers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Front {
    router: Router,
    names: LocalNames,
    /// How errors are written.
    contract: Arc<Contract>,
    /// Absent where there are none.
    services: Option<Services>,
}

/// The services of a socket.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) rpc: RpcService,
    /// The origins that may call them.
    pub(super) cors: Arc<Cors>,
    /// The console, whose pages link to calls that only read.
    pub(super) console: Option<(Arc<Console>, Place)>,
}

impl Front {
    pub(super) fn new(
        router: Router,
        names: LocalNames,
        contract: Arc<Contract>,
        services: Option<Services>,
    ) -> Self {
        Self {
            router,
            names,
            contract,
            services,
        }
    }

    pub(super) async fn answer(self, mut request: Request) -> Result<Response, Infallible> {
        let is_method = is_method(request.uri().path());
        if let Some(error) = self.names.check(&request).await {
            return Ok(self.refused_by_name(error, request.headers(), is_method));
        }
        let path = request.uri().path();
        let Some(services) = self
            .services
            .filter(|_| is_method || path == HttpPath::OpenApi.name())
        else {
            return self.router.oneshot(request).await;
        };
        let Services { rpc, cors, console } = services;
        let origin = match cors.check(&request) {
            Asked::ByNoPage => None,
            Asked::ByAllowed(origin) => Some(origin),
            Asked::Answered(answer) => return Ok(*answer),
            Asked::Refused(error) => {
                let context = RequestContext::of(request.headers());
                return Ok(serve::refusal(&self.contract, error, &context));
            }
        };
        let is_of_session = match console {
            Some((console, place)) if is_method => console.identify_link(place, &mut request).await,
            _ => false,
        };
        let Ok(mut answer) = if is_method {
            rpc.oneshot(request).await
        } else {
            self.router.oneshot(request).await
        };
        cors.mark(&mut answer, origin);
        if is_of_session {
            console::protect(&mut answer);
        }
        Ok(answer)
    }

    /// The refusal of a request by the name that it asks: in the form of all errors to a call, and as text otherwise.
    fn refused_by_name(&self, error: Error, headers: &HeaderMap, is_method: bool) -> Response {
        let context = RequestContext::of(headers);
        let is_misdirected = matches!(error, Error::HostNotLocal);
        let mut answer = if is_method {
            serve::refusal(&self.contract, error, &context)
        } else {
            let mut answer = super::refusal(&error);
            let id = context.header().map(|id| (REQUEST_ID, id));
            answer.headers_mut().extend(id);
            answer
        };
        if is_misdirected {
            *answer.status_mut() = StatusCode::MISDIRECTED_REQUEST;
        }
        console::protect(&mut answer);
        answer
    }
}

/// Whether a path is that of a method, known or not: `/PACKAGE.SERVICE/METHOD`.
fn is_method(path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    let service = parts.next().unwrap_or_default();
    let has_method = parts.next().is_some_and(|method| !method.is_empty());
    service.contains('.') && has_method && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::method_roles::METHODS;

    #[test]
    fn the_paths_of_methods_are_not_those_of_http() {
        assert!(METHODS.iter().all(|(path, _)| is_method(path)));
        assert!(!HttpPath::ALL.iter().any(|path| is_method(path.name())));
        for other in ["/", "//", "/a.b", "/a.b/", "/a.b/c/d", "/a/b", ""] {
            assert!(!is_method(other), "{other}");
        }
    }
}
