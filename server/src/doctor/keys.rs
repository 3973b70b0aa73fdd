//! Checks API keys: whether there are any, whether one is valid, and which expire soon.

use std::net::SocketAddr;

use super::{
    DoctorConfig,
    finding::{Finding, cause_of, first_names},
};
use crate::{
    domain::{
        DAY_MS, Millis,
        access::Role,
        api_key::{ApiKey, KeyId},
        period::rfc3339,
    },
    error::Result,
    store::Store,
};

const CHECK: &str = "api keys";
const PAGE: u64 = 1_000;
/// More keys are not read.
const MAX_KEYS: usize = 20_000;
/// Keys that expire within this time are named, and those that expired as long ago.
const SOON_MS: Millis = 14 * DAY_MS;
const RENEW: &str = "create a new key with `usagectl keys create`, use it, then revoke the old one";

/// What counts of all keys.
#[derive(Debug, Default, PartialEq, Eq)]
struct Keys {
    total: usize,
    valid: usize,
    /// Valid keys of admins, without limits.
    admins: usize,
    expiring: Vec<String>,
    expired: Vec<String>,
}

/// What client certificates do instead of keys.
#[derive(Clone, Copy, Debug, Default)]
struct Certificates {
    are_needed: bool,
    /// Whether a subject has a role.
    have_roles: bool,
    /// Whether a subject has the role of an admin.
    have_admin: bool,
}

impl Keys {
    fn add(&mut self, key: &ApiKey, now: Millis) {
        self.total = self.total.saturating_add(1);
        let name = |at| format!("{:?} ({}, {})", key.key.name, key.id, rfc3339(at));
        if key.is_valid_at(now) {
            self.valid = self.valid.saturating_add(1);
            if key.key.role == Role::Admin && key.key.scope.is_unlimited() {
                self.admins = self.admins.saturating_add(1);
            }
            let soon = now.saturating_add(SOON_MS);
            let expires = key.key.expires_at.filter(|at| *at <= soon);
            self.expiring.extend(expires.map(name));
        } else if key.revoked_at.is_none() {
            let lately = now.saturating_sub(SOON_MS);
            let expired = key.key.expires_at.filter(|at| *at >= lately);
            self.expired.extend(expired.map(name));
        }
    }
}

pub(super) async fn check(
    store: &Store,
    config: &DoctorConfig,
    now: Millis,
    findings: &mut Vec<Finding>,
) {
    match read(store, now).await {
        Err(error) => findings.push(Finding::unchecked(CHECK, &cause_of(&error))),
        Ok(keys) => {
            let roles = config.tls.client_roles().unwrap_or_default();
            let certificates = Certificates {
                are_needed: config.tls.needs_client_certificates(),
                have_roles: !roles.is_empty(),
                have_admin: roles.has_admin(),
            };
            findings.extend(check_keys(&keys, exposed(config), certificates));
        }
    }
}

async fn read(store: &Store, now: Millis) -> Result<Keys> {
    let mut keys = Keys::default();
    let mut after: Option<KeyId> = None;
    while keys.total < MAX_KEYS {
        let page = store.list_api_keys(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for key in &page {
            keys.add(key, now);
        }
    }
    Ok(keys)
}

/// The first address that other machines can reach, of those that keys protect.
fn exposed(config: &DoctorConfig) -> Option<SocketAddr> {
    let addresses = [Some(config.addresses.listen), config.addresses.http()];
    let mut addresses = addresses.into_iter().flatten();
    addresses.find(|address| !address.ip().to_canonical().is_loopback())
}

fn check_keys(
    keys: &Keys,
    exposed: Option<SocketAddr>,
    certificates: Certificates,
) -> Vec<Finding> {
    if keys.total == 0 {
        return vec![match exposed {
            Some(address) if !certificates.are_needed => Finding::bad(
                CHECK,
                format!("there is none, and whoever reaches {address} may do everything"),
                "create one with `usage-server keys create --role admin --name NAME`",
            ),
            _ if certificates.are_needed => {
                Finding::ok(CHECK, "there is none; callers show a client certificate")
            }
            _ => Finding::ok(CHECK, "there is none; only this machine is served"),
        }];
    }
    let mut findings = Vec::new();
    // A certificate without a role is no alternative to a key.
    if keys.admins == 0 && !certificates.have_admin {
        let fact = if keys.valid == 0 && !certificates.have_roles {
            "none is valid, so every call is refused"
        } else {
            "no key of an admin is valid"
        };
        findings.push(Finding::bad(
            CHECK,
            fact,
            "create one on the database with `usage-server keys create --role admin --name NAME`",
        ));
    }
    for (names, fact) in [
        (&keys.expiring, "they expire within 14 days"),
        (&keys.expired, "they have expired within the last 14 days"),
    ] {
        if !names.is_empty() {
            let fact = format!("{fact}: {}", first_names(names, names.len()));
            findings.push(Finding::warn(CHECK, fact, RENEW));
        }
    }
    if findings.is_empty() {
        let more = if keys.total >= MAX_KEYS {
            "at least "
        } else {
            ""
        };
        findings.push(Finding::ok(
            CHECK,
            format!("{more}{} are valid", keys.valid),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn no_key_is_bad_only_where_others_can_reach_the_service() {
        let none = Keys::default();
        let address = Some("0.0.0.0:50051".parse().unwrap());
        let severity = |exposed, are_needed| {
            let certificates = Certificates {
                are_needed,
                ..Certificates::default()
            };
            check_keys(&none, exposed, certificates)[0].severity
        };
        assert_eq!(severity(None, false), Severity::Ok);
        assert_eq!(severity(address, false), Severity::Bad);
        assert_eq!(severity(address, true), Severity::Ok);
    }

    #[test]
    fn keys_are_told_of_before_none_is_left() {
        let keys = |valid, admins| Keys {
            total: 2,
            valid,
            admins,
            ..Keys::default()
        };
        let first = |keys: &Keys| check_keys(keys, None, Certificates::default()).remove(0);
        assert_eq!(first(&keys(2, 1)).severity, Severity::Ok);
        let readers = first(&keys(2, 0));
        assert_eq!(readers.severity, Severity::Bad);
        assert!(readers.fact.contains("no key of an admin"), "{readers}");
        let none = first(&keys(0, 0));
        assert!(none.fact.contains("is refused"), "{none}");
        // Certificates are an alternative only where one of them is an admin's.
        for (have_admin, expected) in [(false, Severity::Bad), (true, Severity::Ok)] {
            let certificates = Certificates {
                are_needed: true,
                have_roles: have_admin,
                have_admin,
            };
            let found = check_keys(&keys(0, 0), None, certificates).remove(0);
            assert_eq!(found.severity, expected, "{found}");
        }
        let soon = Keys {
            expiring: vec!["\"backend\" (01)".to_owned()],
            ..keys(2, 1)
        };
        let soon = first(&soon);
        assert_eq!(soon.severity, Severity::Warn);
        assert!(soon.fact.contains("backend"), "{soon}");
    }
}
