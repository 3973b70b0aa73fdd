//! Counting requests of a tower service: a layer that hands what succeeded to a [`Recorder`].

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
#[must_use = "nothing is counted before the layer has it"]
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

    /// What was used.
    pub fn meter(mut self, meter: impl Into<Cow<'static, str>>) -> Self {
        self.meter = meter.into();
        self
    }

    /// How much: 1 to 1,000,000,000,000. The recorder drops and logs anything else.
    pub fn quantity(mut self, quantity: i64) -> Self {
        self.quantity = quantity;
        self
    }
}

/// Counts the successful requests of any tower service through a [`Recorder`], without making them wait.
///
/// A function of yours says before each request whom it is charged to, and how much; none is free. After the
/// answer [`HttpSuccess`] decides whether it counts, or a function given to [`after`](Self::after), which may
/// also charge by what the answer holds. A request that is given up before its answer counts nothing.
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
    /// Charges as `before` says whatever [succeeds](HttpSuccess). It is a function from `&Request` to
    /// `Option<Charge>`.
    pub fn new(recorder: Recorder, before: F) -> Self {
        Self {
            recorder,
            before,
            after: HttpSuccess,
        }
    }

    /// Charges as `after` says, once the answer is there: it is a function from the [`Charge`] and `&Response`
    /// to `Option<Charge>`. Services that do not answer with HTTP need one.
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

/// Decides after an answer what its request is charged.
pub trait Decide<Res>: Clone {
    /// The charge that is recorded, if any.
    fn decide(&self, charge: Charge, response: &Res) -> Option<Charge>;
}

/// Charges an HTTP answer that is no error: its status is below 400, and where it is gRPC's, its headers tell of
/// no failure. What fails while an answer streams has been charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HttpSuccess;

impl<B> Decide<Response<B>> for HttpSuccess {
    fn decide(&self, charge: Charge, response: &Response<B>) -> Option<Charge> {
        let is_error = response.status().as_u16() >= 400 || is_grpc_failure(response.headers());
        (!is_error).then_some(charge)
    }
}

/// gRPC answers a failure with status 200 and this header.
fn is_grpc_failure(headers: &HeaderMap) -> bool {
    let status = headers.get("grpc-status");
    status.is_some_and(|status| status.as_bytes() != b"0")
}

/// Decides by a function; see [`UsageLayer::after`].
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
    /// The answer of a [`UsageService`].
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
