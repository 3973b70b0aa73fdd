//! Tells calls where they come from, and keeps the place of a connection while one of them goes on.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    client_address::ClientAddress,
    connections::Activity,
    domain::{access::Requirement, method_roles::requirement, trusted_proxies::TrustedProxies},
};

/// Keeps places for the calls of the services that it wraps. The proxies may say where a call comes from.
#[derive(Clone, Debug)]
pub(super) struct CallPlaces(pub(super) TrustedProxies);

impl<S> Layer<S> for CallPlaces {
    type Service = Placed<S>;

    fn layer(&self, inner: S) -> Placed<S> {
        Placed {
            inner,
            proxies: self.0.clone(),
        }
    }
}

/// A service whose calls have places.
#[derive(Clone, Debug)]
pub(super) struct Placed<S> {
    inner: S,
    proxies: TrustedProxies,
}

impl<S> Service<Request<Body>> for Placed<S>
where
    S: Service<Request<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        if let Some(connection) = request.extensions().get::<Arc<Activity>>().cloned() {
            // Over HTTP, and for the console, it is known: they may have changed the headers.
            let address = ClientAddress::find(request.extensions()).unwrap_or_else(|| {
                ClientAddress::of(connection.peer(), request.headers(), &self.proxies)
            });
            // What needs no key keeps no place from those who have one.
            let needs_key = requirement(request.uri().path()) != Some(Requirement::Nothing);
            let call = needs_key.then(|| Arc::new(connection.begin_call()));
            let extensions = request.extensions_mut();
            extensions.insert(address);
            if let Some(call) = call {
                // Dropped with the request if it is refused, and otherwise kept until the answer has ended.
                extensions.insert(call);
            }
        }
        self.inner.call(request)
    }
}
