//! Sessions: in the database, so that every replica knows them, and remembered for seconds.
//!
//! Whoever makes cookies up keeps no session out. A cookie of another form is none. One without the id of a valid key is refused
//! by what is known of keys, with no query of its own. Only what is left is looked up, a limited number of times for
//! each address; sessions that this process has seen before are exempt.

use std::{net::IpAddr, sync::Arc, time::Duration};

use moka::sync::Cache;

use super::address_rates::AddressRates;
use crate::{
    authentication::Authenticator,
    clock::Clock,
    domain::{
        access::Caller,
        api_key::KeyId,
        console_session::{SECRET_BYTES, SESSION_MS, SessionHash, SessionSecret},
    },
    error::{Error, Result},
    store::{Store, console_sessions::StoredSession},
};

/// Sessions that are remembered.
const REMEMBERED: u64 = 10_000;
/// For how long. A session that ends on another replica is refused after it.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
/// For how long it is remembered that a session was valid: as long as one lasts.
const VALID_FOR: Duration = Duration::from_hours(8);

pub(super) struct Sessions {
    store: Store,
    clock: Clock,
    authenticator: Authenticator,
    known: Cache<SessionHash, StoredSession>,
    /// Those that were valid. Their look-ups are not limited: only those of cookies that may have been made up are.
    valid: Cache<SessionHash, ()>,
    look_ups: AddressRates,
}

impl Sessions {
    pub(super) fn new(store: Store, clock: Clock, authenticator: Authenticator) -> Self {
        Self {
            store,
            clock,
            authenticator,
            known: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .build(),
            valid: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(VALID_FOR)
                .build(),
            look_ups: AddressRates::of_look_ups(),
        }
    }

    /// Who has signed in, at this address.
    ///
    /// # Errors
    /// The session or its key is not valid, or the database does not answer.
    pub(super) async fn caller(
        &self,
        secret: &SessionSecret,
        address: IpAddr,
    ) -> Result<Arc<Caller>> {
        if !self.authenticator.is_valid_key(secret.key()).await? {
            return Err(Error::Unauthenticated);
        }
        let session = self.find(&secret.hash(), address).await?;
        let now = self.clock.now();
        let is_valid = |of: &StoredSession| of.key == secret.key() && now < of.expires_at;
        let session = session.filter(is_valid);
        let session = session.ok_or(Error::Unauthenticated)?;
        self.authenticator.caller_of_key(session.key).await
    }

    async fn find(&self, hash: &SessionHash, address: IpAddr) -> Result<Option<StoredSession>> {
        if let Some(known) = self.known.get(hash) {
            return Ok(Some(known));
        }
        if !self.valid.contains_key(hash) && !self.look_ups.may_try(address) {
            return Err(Error::TooManyKeys);
        }
        let found = self.store.find_console_session(hash).await;
        let found = found.inspect_err(logged)?;
        if let Some(session) = found {
            self.known.insert(*hash, session);
            self.valid.insert(*hash, ());
        } else {
            self.valid.invalidate(hash);
        }
        Ok(found)
    }

    /// Begins the session of a key.
    ///
    /// # Errors
    /// The database does not answer, or the system has no random numbers.
    pub(super) async fn begin(&self, key: KeyId) -> Result<SessionSecret> {
        let mut random = [0; SECRET_BYTES];
        getrandom::fill(&mut random).map_err(|error| Error::Internal(error.to_string().into()))?;
        let secret = SessionSecret::of(key, random);
        let now = self.clock.now();
        let session = StoredSession {
            key,
            expires_at: now.saturating_add(SESSION_MS),
        };
        let hash = secret.hash();
        let created = self.store.create_console_session(&hash, session, now).await;
        created.inspect_err(logged)?;
        self.valid.insert(hash, ());
        Ok(secret)
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn end(&self, secret: &SessionSecret) -> Result<()> {
        // Without a valid key it is none, and would only cost a query.
        if !self.authenticator.is_valid_key(secret.key()).await? {
            return Ok(());
        }
        let hash = secret.hash();
        let deleted = self.store.delete_console_session(&hash).await;
        self.known.invalidate(&hash);
        self.valid.invalidate(&hash);
        deleted.inspect_err(logged)
    }
}

fn logged(error: &Error) {
    error.log();
}
