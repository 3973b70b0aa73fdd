//! The control endpoints below `/control/`: JSON both ways and no authentication, so they belong on loopback only.
//! `client` and `billing_client` are their client.

pub(crate) mod client;

mod billing;
mod billing_client;
mod faults;
mod metering;
mod reply;
mod settings;
mod webhooks;

use axum::Router;
use axum::http::StatusCode;

use self::reply::ControlFailure;
use crate::state::SharedApp;

/// The routes below `/control`.
pub(crate) fn router() -> Router<SharedApp> {
    Router::new()
        .merge(settings::router())
        .merge(metering::router())
        .merge(faults::router())
        .merge(billing::router())
        .merge(webhooks::router())
        .fallback(|| async {
            ControlFailure(
                StatusCode::NOT_FOUND,
                "No such control endpoint.".to_owned(),
            )
        })
}
