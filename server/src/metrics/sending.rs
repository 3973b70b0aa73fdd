//! Whether usage reaches Stripe: what pauses it on this replica, and when Stripe last accepted an event.

use ::metrics::{Unit, describe_gauge, gauge};

use super::seconds;
use crate::domain::Millis;

/// 1 while this replica does not send, by `reason`; else 0: see [`PausedBy`].
const PAUSED: &str = "usage_sending_paused";
/// When Stripe last accepted a meter event of any replica, within some seconds; 0 before the first one.
const ACCEPTED: &str = "usage_last_accepted_timestamp_seconds";

/// What pauses sending.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PausedBy {
    /// A pause that is stored in the database, until a command ends it: on every replica.
    Database,
    /// The key of this replica belongs to another Stripe account.
    OtherAccount,
    /// Stripe refused the key of this replica, and has not accepted an event since.
    RefusedKey,
    /// Another integration bills by this database, and no moment is named from which this service does.
    NoMoment,
}

impl PausedBy {
    const ALL: [Self; 4] = [
        Self::Database,
        Self::OtherAccount,
        Self::RefusedKey,
        Self::NoMoment,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::OtherAccount => "other_account",
            Self::RefusedKey => "refused_key",
            Self::NoMoment => "no_moment",
        }
    }
}

pub(super) fn describe() {
    describe_gauge!(
        PAUSED,
        "Whether this replica does not send to Stripe, by reason"
    );
    describe_gauge!(
        ACCEPTED,
        Unit::Seconds,
        "When Stripe last accepted a meter event of any replica"
    );
}

pub(super) fn start() {
    for reason in PausedBy::ALL {
        sending_paused(reason, false);
    }
    gauge!(ACCEPTED).set(0);
}

/// Shows whether something pauses sending.
pub(crate) fn sending_paused(reason: PausedBy, is_paused: bool) {
    gauge!(PAUSED, "reason" => reason.name()).set(u8::from(is_paused));
}

/// Shows when a meter event was accepted.
pub(crate) fn accepted_at(at: Millis) {
    gauge!(ACCEPTED).set(seconds(at));
}
