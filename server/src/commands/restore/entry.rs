//! What a restore enters as already sent.

use crate::{
    domain::{account_id::AccountId, stream::Stream},
    restore_look_up::ComparedHour,
};

/// What Stripe has of one hour beyond the database.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) account_id: AccountId,
    pub(super) stream: Stream,
    pub(super) hour: ComparedHour,
}
