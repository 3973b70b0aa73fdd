//! Tells calls of their connection, and keeps its place while one of them goes on.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use tonic::{body::Body, transport::server::TcpConnectInfo};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    connections::Activity,
    domain::{access::Requirement, method_roles::requirement},
};

/// Keeps places for the calls of the services that it wraps.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallPlaces;

impl<S> Layer<S> for CallPlaces {
    type Service = Placed<S>;

    fn layer(&self, inner: S) -> Placed<S> {
        Placed { inner }
    }
}

/// A service whose calls have places.
#[derive(Clone, Debug)]
pub(super) struct Placed<S> {
    inner: S,
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
            // What tonic stores for a plain TCP connection.
            let info = TcpConnectInfo {
                local_addr: None,
                remote_addr: Some(connection.peer()),
            };
            // What needs no key keeps no place from those who have one.
            let needs_key = requirement(request.uri().path()) != Some(Requirement::Nothing);
            let call = needs_key.then(|| Arc::new(connection.begin_call()));
            let extensions = request.extensions_mut();
            extensions.insert(info);
            if let Some(call) = call {
                // Dropped with the request if it is refused, and otherwise kept until the answer has ended.
                extensions.insert(call);
            }
        }
        self.inner.call(request)
    }
}
