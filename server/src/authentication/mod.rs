//! Who calls: finds the key of a call, in a cache whose entries are seconds old at most, or in the database.
//!
//! A key that is revoked, on whichever replica, is refused 5 s later at the latest. While the database does not answer,
//! calls go on for that time, and are then refused with `UNAVAILABLE`: never allowed, and never told that the key is wrong.

mod key_reads;
mod known_ids;
mod young_value;

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{HeaderMap, header};
use moka::sync::Cache;
use tokio::sync::Semaphore;

use self::{
    key_reads::KeyReads,
    known_ids::{Known, KnownIds, MAX_IDS},
    young_value::YoungValue,
};
use crate::{
    clock::Clock,
    domain::{
        HOUR_MS,
        access::{Caller, CallerKind},
        api_key::{ApiKey, KeyId, PresentedKey, SecretHash},
        client_certificate::{ClientCertificate, ClientRoles},
    },
    error::{Error, Result},
    store::Store,
};

/// Keys that are remembered. A key that is used often keeps its place, whatever others are tried.
const REMEMBERED_KEYS: u64 = 10_000;
/// Ids of keys that are looked up one by one a second, where there are too many to know all.
const FIRST_LOOK_UPS_PER_SEC: u32 = 500;
/// Calls that wait for an answer of the database. It is slow then, or does not answer.
const WAITING_CALLS: usize = 16_384;

/// Who makes a request, where this program has found that out before: in the extensions of a request, which no caller can
/// write.
#[derive(Clone, Debug)]
pub(crate) struct KnownCaller(pub(crate) Arc<Caller>);

/// Finds out who calls. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Authenticator {
    shared: Arc<SharedState>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authenticator")
    }
}

struct SharedState {
    store: Store,
    clock: Clock,
    /// With any, every caller needs a key or a certificate that has one.
    client_roles: ClientRoles,
    /// Whether a key was ever created. Once it is, it stays so.
    has_keys: AtomicBool,
    /// The same as last read, while it is not so.
    read_has_keys: Arc<YoungValue<bool>>,
    ids: Arc<KnownIds>,
    keys: Cache<KeyId, Arc<YoungValue<Option<Arc<KnownKey>>>>>,
    first_look_ups: DefaultDirectRateLimiter,
    reads: Arc<KeyReads>,
    waiting: Semaphore,
    anyone: Arc<Caller>,
}

/// A key as it was read.
#[derive(Debug)]
struct KnownKey {
    key: ApiKey,
    hash: SecretHash,
    caller: Arc<Caller>,
    /// Whether its use is recorded.
    is_use_noted: AtomicBool,
}

impl Authenticator {
    pub(crate) fn new(store: Store, clock: Clock, client_roles: ClientRoles) -> Self {
        let per_sec = NonZeroU32::new(FIRST_LOOK_UPS_PER_SEC).unwrap_or(NonZeroU32::MIN);
        let shared = SharedState {
            store,
            clock,
            client_roles,
            has_keys: AtomicBool::new(false),
            read_has_keys: Arc::default(),
            ids: Arc::default(),
            keys: Cache::new(REMEMBERED_KEYS),
            first_look_ups: RateLimiter::direct(Quota::per_second(per_sec)),
            reads: Arc::default(),
            waiting: Semaphore::new(WAITING_CALLS),
            anyone: Arc::new(Caller::anyone()),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Who makes a call with these headers over a connection with this client certificate. A key comes before the
    /// certificate: several programs may share one.
    ///
    /// # Errors
    /// There are keys or roles of certificates, and the call has none that is valid; or the database does not answer.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Arc<Caller>> {
        let shared = &self.shared;
        let has_roles = !shared.client_roles.is_empty();
        if has_roles && !headers.contains_key(header::AUTHORIZATION) {
            let caller = certificate.and_then(|of| shared.client_roles.caller_of(of));
            return caller.map(Arc::new).ok_or(Error::Unauthenticated);
        }
        if !has_roles && !self.has_keys().await? {
            return Ok(Arc::clone(&shared.anyone));
        }
        let presented = presented_key(headers).ok_or(Error::Unauthenticated)?;
        self.caller_of_presented(&presented).await
    }

    /// Who calls with a key that was checked before, if it is still valid.
    ///
    /// # Errors
    /// The key is not valid any more, or the database does not answer.
    pub(crate) async fn caller_of_key(&self, id: KeyId) -> Result<Arc<Caller>> {
        let now = self.shared.clock.now();
        let known = self.known_key(id).await?;
        let known = known.filter(|known| known.key.is_valid_at(now));
        let known = known.ok_or(Error::Unauthenticated)?;
        self.note_use(&known, now);
        Ok(Arc::clone(&known.caller))
    }

    /// Who presents the text of a key.
    ///
    /// # Errors
    /// The key is not valid, or the database does not answer.
    pub(crate) async fn caller_of_text(&self, text: &str) -> Result<Arc<Caller>> {
        let presented = PresentedKey::parse(text.trim()).ok_or(Error::Unauthenticated)?;
        self.caller_of_presented(&presented).await
    }

    async fn caller_of_presented(&self, presented: &PresentedKey) -> Result<Arc<Caller>> {
        let known = self.known_key(presented.id).await?;
        let now = self.shared.clock.now();
        let is_valid = |known: &KnownKey| {
            let is_right = known.hash.matches(&presented.hash);
            is_right && known.key.is_valid_at(now)
        };
        let known = known.filter(|known| is_valid(known));
        let known = known.ok_or(Error::Unauthenticated)?;
        self.note_use(&known, now);
        Ok(Arc::clone(&known.caller))
    }

    /// Whether who made a call may still make it: its key was not revoked and has not expired. A connection whose client
    /// certificate is not valid any more is closed.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn is_still_valid(&self, caller: &Caller) -> Result<bool> {
        match caller.kind() {
            CallerKind::Anyone => Ok(!self.has_keys().await?),
            CallerKind::Certificate => Ok(true),
            CallerKind::Key(id) => self.is_valid_key(id).await,
        }
    }

    /// Whether this is the id of a key that is valid. An id that was made up costs no query of its own.
    ///
    /// # Errors
    /// The database does not answer, or too many ids are asked for that are not known.
    pub(crate) async fn is_valid_key(&self, id: KeyId) -> Result<bool> {
        let known = self.known_key(id).await?;
        let now = self.shared.clock.now();
        Ok(known.is_some_and(|known| known.key.is_valid_at(now)))
    }

    /// Whether callers need neither a key nor a certificate.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn lets_anyone_call(&self) -> Result<bool> {
        Ok(self.shared.client_roles.is_empty() && !self.has_keys().await?)
    }

    /// Whether a key was ever created.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn has_keys(&self) -> Result<bool> {
        let shared = &self.shared;
        if shared.has_keys.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let authenticator = self.clone();
        let read = |_| {
            Ok(async move {
                let read = authenticator.shared.store.has_api_keys().await;
                read.inspect_err(logged)
            })
        };
        let has_keys = shared.read_has_keys.get(&shared.waiting, read).await?;
        if has_keys {
            self.key_created();
        }
        Ok(has_keys)
    }

    /// The same, as the database says now.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn has_keys_now(&self) -> Result<bool> {
        let shared = &self.shared;
        if shared.has_keys.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let has_keys = shared.store.has_api_keys().await?;
        if has_keys {
            self.key_created();
        }
        Ok(has_keys)
    }

    /// From now on, every call needs a key.
    pub(crate) fn key_created(&self) {
        self.shared.has_keys.store(true, Ordering::Relaxed);
    }

    /// Reads a key again at its next use.
    pub(crate) fn forget(&self, id: KeyId) {
        self.shared.keys.invalidate(&id);
    }

    async fn known_key(&self, id: KeyId) -> Result<Option<Arc<KnownKey>>> {
        let shared = &self.shared;
        let value = match shared.keys.get(&id) {
            Some(value) => value,
            // An id of no key takes no place from those that are remembered.
            None => match self.look_up_id(id).await? {
                Known::NoKey => return Ok(None),
                Known::Perhaps if shared.first_look_ups.check().is_err() => {
                    return Err(Error::TooManyKeys);
                }
                Known::Key | Known::Perhaps => shared.keys.get_with(id, Arc::default),
            },
        };
        let is_known = value.latest().is_some_and(|found| found.is_some());
        let begin = |is_first: bool| {
            if !is_first && !is_known && shared.first_look_ups.check().is_err() {
                return Err(Error::TooManyKeys);
            }
            let authenticator = self.clone();
            let read = move |ids: Vec<KeyId>| {
                let authenticator = authenticator.clone();
                async move {
                    let read = authenticator.shared.store.find_api_keys(&ids).await;
                    read.inspect_err(logged)
                }
            };
            let found = shared.reads.begin(id, read)?;
            Ok(async move {
                Ok(found.await?.map(|found| {
                    Arc::new(KnownKey {
                        caller: Arc::new(found.key.caller()),
                        key: found.key,
                        hash: found.hash,
                        is_use_noted: AtomicBool::new(false),
                    })
                }))
            })
        };
        value.get(&shared.waiting, begin).await
    }

    async fn look_up_id(&self, id: KeyId) -> Result<Known> {
        let authenticator = self.clone();
        let read = || async move {
            let limit = MAX_IDS.saturating_add(1);
            let read = authenticator.shared.store.api_key_ids(limit).await;
            read.inspect_err(logged)
        };
        self.shared.ids.look_up(id, read).await
    }

    /// Records that a key is used, at most once an hour, without delaying the call.
    fn note_use(&self, known: &KnownKey, now: i64) {
        let last = known.key.last_used_at;
        if last.is_some_and(|last| now < last.saturating_add(HOUR_MS))
            || known.is_use_noted.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let (store, id) = (self.shared.store.clone(), known.key.id);
        tokio::spawn(async move {
            if let Err(error) = store.note_api_key_use(id, now).await {
                tracing::debug!(error = error.cause(), "the use of a key is not recorded");
            }
        });
    }
}

/// The key in `authorization: Bearer KEY`.
fn presented_key(headers: &HeaderMap) -> Option<PresentedKey> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?;
    // Of two, it would not be clear who calls.
    if values.next().is_some() {
        return None;
    }
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    PresentedKey::parse(key.trim())
}

/// The callers get [`Error::KeysUnreadable`], which names the line of the log that this causes.
fn logged(error: &Error) {
    error.log();
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::domain::api_key::{KeyText, RANDOM_BYTES};

    fn headers(values: &[String]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_key_is_read_from_one_bearer_header() {
        let text = KeyText::of([7; RANDOM_BYTES]);
        let key = text.reveal();
        for (values, is_key) in [
            (vec![format!("Bearer {key}")], true),
            (vec![format!("bearer {key} ")], true),
            (vec![format!("Basic {key}")], false),
            (vec![key.to_owned()], false),
            (vec![format!("Bearer {key}"); 2], false),
            (vec!["Bearer ".to_owned()], false),
            (vec![], false),
        ] {
            assert_eq!(
                presented_key(&headers(&values)).is_some(),
                is_key,
                "{values:?}"
            );
        }
    }
}
