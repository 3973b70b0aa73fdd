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
            let has_certificates = config.tls.needs_client_certificates();
            findings.extend(check_keys(&keys, exposed(config), has_certificates));
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

fn check_keys(keys: &Keys, exposed: Option<SocketAddr>, has_certificates: bool) -> Vec<Finding> {
    if keys.total == 0 {
        return vec![match exposed {
            Some(address) if !has_certificates => Finding::bad(
                CHECK,
                format!("there is none, and whoever reaches {address} may do everything"),
                "create one with `usage-server keys create --role admin --name NAME`",
            ),
            _ if has_certificates => {
                Finding::ok(CHECK, "there is none; callers show a client certificate")
            }
            _ => Finding::ok(CHECK, "there is none; only this machine is served"),
        }];
    }
    let mut findings = Vec::new();
    if keys.admins == 0 && !has_certificates {
        let fact = if keys.valid == 0 {
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
        let severity = |exposed, certificates| check_keys(&none, exposed, certificates)[0].severity;
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
        let first = |keys: &Keys| check_keys(keys, None, false).remove(0);
        assert_eq!(first(&keys(2, 1)).severity, Severity::Ok);
        let readers = first(&keys(2, 0));
        assert_eq!(readers.severity, Severity::Bad);
        assert!(readers.fact.contains("no key of an admin"), "{readers}");
        let none = first(&keys(0, 0));
        assert!(none.fact.contains("every call is refused"), "{none}");
        let soon = Keys {
            expiring: vec!["\"backend\" (01)".to_owned()],
            ..keys(2, 1)
        };
        let soon = first(&soon);
        assert_eq!(soon.severity, Severity::Warn);
        assert!(soon.fact.contains("backend"), "{soon}");
    }
}
