//! Bytes that calls make the service hold, with the limits of one caller and of all together.
//!
//! Whoever can reach the socket can make calls that need no key, such as health checks. They have a small pool of their own,
//! so that they take nothing from callers with a key.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;

use crate::{
    connections::{HeldBytes, OwnBytes},
    domain::{access::Caller, caller_id::CallerId},
};

/// Callers that are remembered, for longer than anything of theirs may be held while they make no call.
const REMEMBERED_CALLERS: u64 = 100_000;
const FORGET_AFTER: Duration = Duration::from_mins(10);

/// How much a pool holds, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of all callers.
    pub(super) all: usize,
    /// Of one caller.
    pub(super) of_caller: usize,
    /// What a caller may have to use the last part of the pool.
    pub(super) small: usize,
    /// That part: callers that have more leave it to the others.
    pub(super) kept_for_small: usize,
    /// What each caller may have, whatever the others do.
    pub(super) always: usize,
}

/// What many callers hold, with its limits.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) held: HeldBytes,
    limits: Limits,
}

/// A limit would be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// The bytes that would be held.
    pub(super) held: usize,
    pub(super) limit: usize,
}

/// One pool of callers, and one of those who are not looked up. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pools {
    pub(super) callers: Arc<Pool>,
    pub(super) strangers: Arc<Pool>,
    /// What each caller with a key or a certificate holds, over all its connections.
    named: Cache<CallerId, Arc<HeldBytes>>,
}

/// What one call holds, until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    own: Arc<HeldBytes>,
    pool: Arc<Pool>,
    bytes: usize,
}

impl Pool {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            held: HeldBytes::default(),
            limits,
        }
    }
}

impl Pools {
    pub(super) fn new(callers: Limits, strangers: Limits) -> Self {
        Self {
            callers: Arc::new(Pool::new(callers)),
            strangers: Arc::new(Pool::new(strangers)),
            named: Cache::builder()
                .max_capacity(REMEMBERED_CALLERS)
                .time_to_idle(FORGET_AFTER)
                .build(),
        }
    }

    /// The share of a call, which holds nothing yet. It counts for its caller; without a key or a certificate for its
    /// connection, and without a caller for what its connection holds of strangers.
    pub(super) fn share(&self, caller: Option<&Caller>, connection: &OwnBytes) -> Share {
        let Some(caller) = caller else {
            return Share::new(&connection.of_strangers, &self.strangers);
        };
        match CallerId::of(caller) {
            Some(id) => Share::new(&self.named.get_with(id, Arc::default), &self.callers),
            None => Share::new(&connection.of_callers, &self.callers),
        }
    }
}

impl Share {
    pub(super) fn new(own: &Arc<HeldBytes>, pool: &Arc<Pool>) -> Self {
        Self {
            own: Arc::clone(own),
            pool: Arc::clone(pool),
            bytes: 0,
        }
    }

    /// Another one of the same caller, which holds nothing yet.
    pub(super) fn another(&self) -> Self {
        Self::new(&self.own, &self.pool)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds more, or nothing more if a limit would be exceeded.
    pub(super) fn try_add(&mut self, bytes: usize) -> Result<(), Full> {
        let limits = &self.pool.limits;
        let own = self.own.try_add(bytes, limits.of_caller);
        let own = own.map_err(|held| Full {
            held,
            limit: limits.of_caller,
        })?;
        let limit = match own {
            always if always <= limits.always => usize::MAX,
            small if small <= limits.small => limits.all,
            _ => limits.all.saturating_sub(limits.kept_for_small),
        };
        if let Err(held) = self.pool.held.try_add(bytes, limit) {
            self.own.remove(bytes);
            return Err(Full { held, limit });
        }
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// Holds more, whatever the limits.
    pub(super) fn add(&mut self, bytes: usize) {
        self.own.add(bytes);
        self.pool.held.add(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Holds nothing any more.
    pub(super) fn release(&mut self) {
        self.own.remove(self.bytes);
        self.pool.held.remove(self.bytes);
        self.bytes = 0;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        all: 100,
        of_caller: 60,
        small: 10,
        kept_for_small: 30,
        always: 2,
    };

    fn pools() -> Pools {
        Pools::new(
            LIMITS,
            Limits {
                all: 20,
                of_caller: 10,
                small: 10,
                kept_for_small: 0,
                always: 2,
            },
        )
    }

    fn with_certificate(name: &str) -> Caller {
        Caller {
            name: name.to_owned(),
            ..Caller::anyone()
        }
    }

    fn full(held: usize, limit: usize) -> Result<(), Full> {
        Err(Full { held, limit })
    }

    #[test]
    fn a_caller_has_one_limit_over_all_its_connections() {
        let pools = pools();
        let [first, second] = [OwnBytes::default(), OwnBytes::default()];
        let caller = with_certificate("a");
        let mut one = pools.share(Some(&caller), &first);
        let mut two = pools.share(Some(&caller), &second);
        one.try_add(40).unwrap();
        assert_eq!(two.try_add(21), full(61, 60));
        two.try_add(20).unwrap();
        one.release();
        two.try_add(40).unwrap();
        // Without a name it is that of a connection.
        drop(two);
        let anyone = Caller::anyone();
        let mut one = pools.share(Some(&anyone), &first);
        let mut two = pools.share(Some(&anyone), &second);
        one.try_add(35).unwrap();
        two.try_add(35).unwrap();
        assert_eq!(pools.share(Some(&anyone), &first).try_add(30), full(65, 60));
    }

    #[test]
    fn large_callers_leave_the_last_part_to_small_ones_and_each_has_a_little_always() {
        let pools = pools();
        let connection = OwnBytes::default();
        let mut shares: Vec<Share> = ["a", "b", "c"]
            .iter()
            .map(|name| pools.share(Some(&with_certificate(name)), &connection))
            .collect();
        shares[0].try_add(60).unwrap();
        assert_eq!(shares[1].try_add(11), full(71, 70));
        shares[1].try_add(10).unwrap();
        shares[2].try_add(10).unwrap();
        for name in ["d", "e"] {
            let mut share = pools.share(Some(&with_certificate(name)), &connection);
            share.try_add(10).unwrap();
            shares.push(share);
        }
        let mut last = pools.share(Some(&with_certificate("f")), &connection);
        assert_eq!(last.try_add(3), full(103, 100));
        last.try_add(2).unwrap();
        assert_eq!(last.try_add(1), full(103, 100));
        last.add(50);
        assert_eq!(last.bytes(), 52);
        shares.push(last);
        drop(shares);
        assert_eq!(pools.callers.held.try_add(0, usize::MAX), Ok(0));
    }

    #[test]
    fn strangers_take_nothing_from_callers_also_on_their_connections() {
        let pools = pools();
        let connection = OwnBytes::default();
        let anyone = Caller::anyone();
        let mut of_caller = pools.share(Some(&anyone), &connection);
        of_caller.try_add(50).unwrap();
        let mut others = Vec::new();
        for _ in 0..2 {
            let other = OwnBytes::default();
            let mut stranger = pools.share(None, &other);
            stranger.try_add(10).unwrap();
            assert_eq!(stranger.another().try_add(1), full(11, 10));
            others.push(stranger);
        }
        // A check on a connection that has none fits all the same.
        let mut check = pools.share(None, &connection);
        check.try_add(2).unwrap();
        assert_eq!(check.try_add(1), full(23, 20));
        of_caller.try_add(10).unwrap();
    }
}
