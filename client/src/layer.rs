//! A tower layer that counts successful requests through a [`Recorder`].

use crate::Recorder;
use http::{HeaderMap, Response};
use pin_project_lite::pin_project;
use std::{
    borrow::Cow,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tower_layer::Layer;
use tower_service::Service;

/// What a request costs.
///
/// ```
/// use usage_client::Charge;
///
/// let tokens = Charge::new("acct_42").meter("tokens").quantity(1_200);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a charge counts nothing by itself; return it to the layer"]
pub struct Charge {
    account_id: String,
    meter: Cow<'static, str>,
    quantity: i64,
}

impl Charge {
    /// One unit of the server's default meter, used by this account.
    pub fn new(account_id: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            meter: Cow::Borrowed(""),
            quantity: 1,
        }
    }

    /// The meter.
    pub fn meter(mut self, meter: impl Into<Cow<'static, str>>) -> Self {
        self.meter = meter.into();
        self
    }

    /// The quantity: 1 to 1,000,000,000,000. The recorder drops and logs anything else.
    pub fn quantity(mut self, quantity: i64) -> Self {
        self.quantity = quantity;
        self
    }
}

/// Counts the successful requests of any tower service through a [`Recorder`], without delaying them.
///
/// Your function returns the [`Charge`] of each request before it is handled; `None` means free. After the response,
/// [`HttpSuccess`] decides whether the request is counted. Set another function with [`after`](Self::after), for example
/// to charge by the contents of the response. A request that is dropped before its response counts nothing.
///
/// ```no_run
/// # use usage_client::{Charge, Recorder, UsageLayer};
/// # fn example<B>(recorder: Recorder) {
/// let layer = UsageLayer::new(recorder, |request: &http::Request<B>| {
///     let account = request.headers().get("x-account")?.to_str().ok()?;
///     Some(Charge::new(account).meter("api_calls"))
/// });
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct UsageLayer<F, A = HttpSuccess> {
    recorder: Recorder,
    before: F,
    after: A,
}

impl<F> UsageLayer<F> {
    /// Counts the charge that `before` returns for each request that [succeeds](HttpSuccess). `before` is a function from
    /// `&Request` to `Option<Charge>`.
    pub fn new(recorder: Recorder, before: F) -> Self {
        Self {
            recorder,
            before,
            after: HttpSuccess,
        }
    }

    /// Counts the charge that `after` returns for each response. `after` is a function from the [`Charge`] and `&Response`
    /// to `Option<Charge>`. Services whose responses are not HTTP responses need it.
    pub fn after<A>(self, after: A) -> UsageLayer<F, After<A>> {
        UsageLayer {
            recorder: self.recorder,
            before: self.before,
            after: After(after),
        }
    }
}

impl<F: Clone, A: Clone, S> Layer<S> for UsageLayer<F, A> {
    type Service = UsageService<S, F, A>;

    fn layer(&self, inner: S) -> Self::Service {
        UsageService {
            inner,
            layer: self.clone(),
        }
    }
}

/// Decides after the response what a request is charged.
pub trait Decide<Res>: Clone {
    /// The charge that is recorded, if any.
    fn decide(&self, charge: Charge, response: &Res) -> Option<Charge>;
}

/// Charges successful HTTP responses: the status is below 400, and the headers contain no gRPC error. A response that
/// fails while it is streamed is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HttpSuccess;

impl<B> Decide<Response<B>> for HttpSuccess {
    fn decide(&self, charge: Charge, response: &Response<B>) -> Option<Charge> {
        let is_error = response.status().as_u16() >= 400 || is_grpc_failure(response.headers());
        (!is_error).then_some(charge)
    }
}

/// A gRPC error has the HTTP status 200 and this header.
fn is_grpc_failure(headers: &HeaderMap) -> bool {
    let status = headers.get("grpc-status");
    status.is_some_and(|status| status.as_bytes() != b"0")
}

/// Decides with a function; see [`UsageLayer::after`].
#[derive(Debug, Clone, Copy)]
pub struct After<A>(A);

impl<Res, A> Decide<Res> for After<A>
where
    A: Fn(Charge, &Res) -> Option<Charge> + Clone,
{
    fn decide(&self, charge: Charge, response: &Res) -> Option<Charge> {
        self.0(charge, response)
    }
}

/// A service whose requests are counted; see [`UsageLayer`].
#[derive(Debug, Clone)]
pub struct UsageService<S, F, A = HttpSuccess> {
    inner: S,
    layer: UsageLayer<F, A>,
}

impl<S, F, A, Req> Service<Req> for UsageService<S, F, A>
where
    S: Service<Req>,
    F: Fn(&Req) -> Option<Charge>,
    A: Decide<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Counting<S::Future, A>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let charge = (self.layer.before)(&request);
        Counting {
            answer: self.inner.call(request),
            charge: charge.map(|charge| {
                let recorder = self.layer.recorder.clone();
                (charge, recorder, self.layer.after.clone())
            }),
        }
    }
}

pin_project! {
    /// The response future of a [`UsageService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct Counting<T, A> {
        #[pin]
        answer: T,
        charge: Option<(Charge, Recorder, A)>,
    }
}

impl<T, A, Res, E> Future for Counting<T, A>
where
    T: Future<Output = Result<Res, E>>,
    A: Decide<Res>,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context));
        if let Ok(response) = &answer
            && let Some((charge, recorder, after)) = this.charge.take()
            && let Some(charge) = after.decide(charge, response)
        {
            recorder.record(&charge.account_id, &charge.meter, charge.quantity);
        }
        Poll::Ready(answer)
    }
}
