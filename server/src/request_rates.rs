//! Limits the requests a second of each caller that has a name: a key, or the subject of a client certificate.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use moka::sync::Cache;

use crate::{
    domain::{access::Caller, caller_id::CallerId},
    error::{Error, Result},
};

/// Callers that are remembered. A caller that is not remembered begins with a second's requests.
const REMEMBERED_CALLERS: u64 = 100_000;
/// A caller that was silent for this long may make a second's requests at once anyway.
const FORGET_AFTER: Duration = Duration::from_secs(10);

/// The requests a second of each caller. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RequestRates {
    limit: Option<Limit>,
}

#[derive(Clone)]
struct Limit {
    per_sec: NonZeroU32,
    callers: Cache<CallerId, Arc<DefaultDirectRateLimiter>>,
}

impl std::fmt::Debug for RequestRates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestRates")
    }
}

impl RequestRates {
    /// With this limit for each caller; 0 is none. As many may be made at once.
    pub(crate) fn new(per_sec: u32) -> Self {
        let limit = NonZeroU32::new(per_sec).map(|per_sec| Limit {
            per_sec,
            callers: Cache::builder()
                .max_capacity(REMEMBERED_CALLERS)
                .time_to_idle(FORGET_AFTER)
                .build(),
        });
        Self { limit }
    }

    /// Counts a request of a caller. Whoever needs neither key nor certificate may do everything, and is not limited.
    ///
    /// # Errors
    /// It is one too many.
    pub(crate) fn check(&self, caller: &Caller) -> Result<()> {
        let Some(limit) = &self.limit else {
            return Ok(());
        };
        let Some(id) = CallerId::of(caller) else {
            return Ok(());
        };
        let new = || Arc::new(RateLimiter::direct(Quota::per_second(limit.per_sec)));
        let rate = limit.callers.get_with(id, new);
        rate.check().map_err(|not_until| Error::TooManyRequests {
            per_sec: limit.per_sec.get(),
            retry_after: not_until.wait_time_from(DefaultClock::default().now()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_name(name: &str) -> Caller {
        Caller {
            name: name.to_owned(),
            ..Caller::anyone()
        }
    }

    #[test]
    fn each_caller_has_a_limit_of_its_own_and_anyone_has_none() {
        let rates = RequestRates::new(3);
        for caller in [with_name("a"), with_name("b")] {
            for _ in 0..3 {
                rates.check(&caller).unwrap();
            }
            let Err(Error::TooManyRequests { retry_after, .. }) = rates.check(&caller) else {
                panic!("a fourth request at once");
            };
            assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(1));
        }
        for _ in 0..10 {
            rates.check(&Caller::anyone()).unwrap();
        }
    }

    #[test]
    fn without_a_limit_no_request_is_refused() {
        let rates = RequestRates::new(0);
        for _ in 0..10_000 {
            rates.check(&with_name("a")).unwrap();
        }
    }
}
