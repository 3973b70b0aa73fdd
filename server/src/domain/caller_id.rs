//! Which caller a request counts for, where callers share something that is limited.

use super::{
    access::{Caller, CallerKind},
    api_key::KeyId,
};

/// A caller that has a name. Keys may have the same name; a certificate has no key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CallerId {
    /// An API key.
    Key(KeyId),
    /// The subject of a client certificate.
    Certificate(String),
}

impl CallerId {
    /// Absent of a caller that needs neither.
    pub fn of(caller: &Caller) -> Option<Self> {
        match caller.kind() {
            CallerKind::Key(key) => Some(Self::Key(key)),
            CallerKind::Anyone => None,
            CallerKind::Certificate => Some(Self::Certificate(caller.name.clone())),
        }
    }
}
