//! Limits what callers without a valid key or session make the server do: those of one address, and all.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;

use crate::connections::host_of;

/// Attempts to sign in that fail, from one address: at once, and a minute.
const AT_ONCE: NonZeroU32 = NonZeroU32::new(10).unwrap();
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();
/// And in all: at once, and a second.
const ALL_AT_ONCE: NonZeroU32 = NonZeroU32::new(100).unwrap();
const ALL_PER_SEC: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Look-ups a second of sessions of a valid key that may have been made up: from one address, and in all.
const LOOK_UPS: NonZeroU32 = NonZeroU32::new(20).unwrap();
const ALL_LOOK_UPS: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// Addresses that are remembered.
const ADDRESSES: u64 = 100_000;
/// An address that was silent for this long may do as much as a new one anyway.
const FORGET_AFTER: Duration = Duration::from_mins(1);

pub(super) struct AddressRates {
    all: DefaultDirectRateLimiter,
    of_address: Quota,
    addresses: Cache<IpAddr, Arc<DefaultDirectRateLimiter>>,
}

impl AddressRates {
    /// Of attempts to sign in that fail.
    pub(super) fn of_sign_ins() -> Self {
        Self::new(
            Quota::per_second(ALL_PER_SEC).allow_burst(ALL_AT_ONCE),
            Quota::per_minute(PER_MINUTE).allow_burst(AT_ONCE),
        )
    }

    /// Of look-ups of sessions.
    pub(super) fn of_look_ups() -> Self {
        Self::new(Quota::per_second(ALL_LOOK_UPS), Quota::per_second(LOOK_UPS))
    }

    fn new(all: Quota, of_address: Quota) -> Self {
        Self {
            all: RateLimiter::direct(all),
            of_address,
            addresses: Cache::builder()
                .max_capacity(ADDRESSES)
                .time_to_idle(FORGET_AFTER)
                .build(),
        }
    }

    /// Counts an attempt, and says whether it may be made. One that its address may not make takes nothing from others.
    pub(super) fn may_try(&self, address: IpAddr) -> bool {
        let new = || Arc::new(RateLimiter::direct(self.of_address));
        let of_address = self.addresses.get_with(host_of(address), new);
        of_address.check().is_ok() && self.all.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_limit_and_a_network_of_ipv6_is_one_address() {
        let rates = AddressRates::of_sign_ins();
        let tries = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            (0..20).filter(|_| rates.may_try(address)).count()
        };
        assert!((10..=11).contains(&tries("192.0.2.1")));
        assert!((10..=11).contains(&tries("2001:db8::1")));
        assert!(tries("2001:db8::2") <= 1);
        assert!((10..=11).contains(&tries("192.0.2.2")));
    }

    #[test]
    fn all_addresses_together_have_a_limit() {
        let rates = AddressRates::of_sign_ins();
        let tried = (0..200_u32).filter(|number| {
            let address = IpAddr::from((number << 8).to_be_bytes());
            rates.may_try(address)
        });
        assert!((100..=110).contains(&tried.count()));
    }

    #[test]
    fn look_ups_of_one_address_leave_those_of_others() {
        let rates = AddressRates::of_look_ups();
        let tries = |address: [u8; 4]| {
            let tried = (0..100).filter(|_| rates.may_try(address.into()));
            tried.count()
        };
        assert!((20..=25).contains(&tries([192, 0, 2, 1])));
        assert!((20..=25).contains(&tries([192, 0, 2, 2])));
    }
}
