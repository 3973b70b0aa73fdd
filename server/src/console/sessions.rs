//! Sessions: in the database, so that every replica knows them, and remembered for seconds.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;

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
/// Sessions that are looked up in the database a second: cookies that were made up cost no more.
const LOOK_UPS_PER_SEC: NonZeroU32 = NonZeroU32::new(200).unwrap();

pub(super) struct Sessions {
    store: Store,
    clock: Clock,
    authenticator: Authenticator,
    known: Cache<SessionHash, StoredSession>,
    look_ups: DefaultDirectRateLimiter,
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
            look_ups: RateLimiter::direct(Quota::per_second(LOOK_UPS_PER_SEC)),
        }
    }

    /// Who has signed in.
    ///
    /// # Errors
    /// The session or its key is not valid, or the database does not answer.
    pub(super) async fn caller(&self, secret: &SessionSecret) -> Result<Arc<Caller>> {
        let session = self.find(&secret.hash()).await?;
        let now = self.clock.now();
        let session = session.filter(|session| now < session.expires_at);
        let session = session.ok_or(Error::Unauthenticated)?;
        self.authenticator.caller_of_key(session.key).await
    }

    async fn find(&self, hash: &SessionHash) -> Result<Option<StoredSession>> {
        if let Some(known) = self.known.get(hash) {
            return Ok(Some(known));
        }
        if self.look_ups.check().is_err() {
            return Err(Error::TooManyKeys);
        }
        let found = self.store.find_console_session(hash).await;
        let found = found.inspect_err(logged)?;
        if let Some(session) = found {
            self.known.insert(*hash, session);
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
        let secret = SessionSecret::of(random);
        let now = self.clock.now();
        let session = StoredSession {
            key,
            expires_at: now.saturating_add(SESSION_MS),
        };
        let hash = secret.hash();
        let created = self.store.create_console_session(&hash, session, now).await;
        created.inspect_err(logged)?;
        Ok(secret)
    }

    /// Ends a session.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn end(&self, secret: &SessionSecret) -> Result<()> {
        let hash = secret.hash();
        let deleted = self.store.delete_console_session(&hash).await;
        self.known.invalidate(&hash);
        deleted.inspect_err(logged)
    }
}

fn logged(error: &Error) {
    error.log();
}
