//! The client's tower layer around real servers: only successful requests are counted.

use std::time::Duration;

use axum::{Router, extract::Request, http::StatusCode, response::IntoResponse, routing::get};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use usage_client::{Charge, Recorder, UsageLayer};

use crate::support::world::{TIMEOUT, World, on_both_engines, within};

on_both_engines!(
    an_api_is_billed_by_the_call_that_succeeds,
    a_response_can_set_its_quantity,
    a_grpc_service_is_billed_by_the_call_that_succeeds,
);

fn recorder(world: &World) -> Recorder {
    let recorder = world.client().recorder(["api_calls"]);
    recorder
        .interval(Duration::from_millis(10))
        .start()
        .unwrap()
}

/// The account is taken from a header.
fn account<B>(request: &Request<B>) -> Option<Charge> {
    let account = request.headers().get("x-account")?.to_str().ok()?;
    Some(Charge::new(account).meter("api_calls"))
}

/// Serves an app. Returns its address.
async fn serve(app: Router) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, serving)
}

async fn call(address: &str, path: &str, account: Option<&str>) -> StatusCode {
    let mut request = reqwest::Client::new().get(format!("{address}{path}"));
    if let Some(account) = account {
        request = request.header("x-account", account);
    }
    let answer = within("an answer", request.send()).await.unwrap();
    StatusCode::from_u16(answer.status().as_u16()).unwrap()
}

async fn an_api_is_billed_by_the_call_that_succeeds(world: World) {
    let recorder = recorder(&world);
    let app = Router::new()
        .route("/good", get(async || "good"))
        .route("/moved", get(async || (StatusCode::NO_CONTENT, "")))
        .route("/refused", get(async || StatusCode::UNPROCESSABLE_ENTITY))
        .route("/broken", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .layer(UsageLayer::new(recorder.clone(), account));
    let (address, serving) = serve(app).await;
    for (path, account, status) in [
        ("/good", Some("acct"), 200),
        ("/good", Some("acct"), 200),
        ("/good", Some("other"), 200),
        ("/moved", Some("acct"), 204),
        ("/good", None, 200),
        ("/refused", Some("acct"), 422),
        ("/broken", Some("acct"), 500),
        ("/missing", Some("acct"), 404),
    ] {
        assert_eq!(call(&address, path, account).await, status, "{path}");
    }
    let stats = recorder.shutdown(TIMEOUT).await.unwrap();
    serving.abort();
    assert_eq!(stats.counted.calls, 4);
    assert_eq!(world.usage("acct").await.0, 3);
    assert_eq!(world.usage("other").await.0, 1);
    world.finish().await;
}

async fn a_response_can_set_its_quantity(world: World) {
    #[derive(Clone, Copy)]
    struct Tokens(i64);

    let recorder = recorder(&world);
    let layer = UsageLayer::new(recorder.clone(), account).after(
        |charge: Charge, response: &axum::response::Response| {
            let Tokens(tokens) = response.extensions().get()?;
            Some(charge.meter("tokens").quantity(*tokens))
        },
    );
    let app = Router::new()
        .route(
            "/long",
            get(async || {
                let mut answer = "a long one".into_response();
                answer.extensions_mut().insert(Tokens(1_200));
                answer
            }),
        )
        .route("/free", get(async || "free"))
        .layer(layer);
    let (address, serving) = serve(app).await;
    for path in ["/long", "/free"] {
        assert_eq!(call(&address, path, Some("acct")).await, 200);
    }
    assert!(recorder.shutdown(TIMEOUT).await.unwrap().is_complete());
    serving.abort();
    assert_eq!(world.usage_of("acct", "tokens").await.0, 1_200);
    assert_eq!(world.usage_of("acct", "api_calls").await.0, 0);
    world.finish().await;
}

async fn a_grpc_service_is_billed_by_the_call_that_succeeds(world: World) {
    let recorder = recorder(&world);
    let (_reporter, health) = tonic_health::server::health_reporter();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let charge = |_: &Request<tonic::body::Body>| Some(Charge::new("acct").meter("api_calls"));
    let server = tonic::transport::Server::builder()
        .layer(UsageLayer::new(recorder.clone(), charge))
        .add_service(health)
        .serve_with_incoming(TcpListenerStream::new(listener));
    let serving = tokio::spawn(server);
    let channel = Channel::from_shared(address).unwrap().connect_lazy();
    let mut client = HealthClient::new(channel);
    for (service, is_known) in [("", true), ("unknown.Service", false), ("", true)] {
        let service = service.to_owned();
        let answer = within("an answer", client.check(HealthCheckRequest { service })).await;
        assert_eq!(answer.is_ok(), is_known);
    }
    let stats = recorder.shutdown(TIMEOUT).await.unwrap();
    serving.abort();
    assert_eq!(stats.counted.calls, 2);
    assert_eq!(world.usage("acct").await.0, 2);
    world.finish().await;
}
