//! Who may do what: roles, the limits of a key, and whether a caller may make a call.
//!
//! A denial never depends on what exists: it is decided from the caller and the request alone.

use super::{
    account_id::AccountId,
    api_key::KeyId,
    meter::MAX_NAME_CHARS,
    names::names,
    violation::{Reason, Violation, quoted},
};

/// The accounts, prefixes or meters that one key can be limited to.
pub const MAX_SCOPE_ITEMS: usize = 100;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It counts usage.
    Writer,
    /// It shows usage, reports and accounts.
    Reader,
    /// It may do everything.
    Admin,
}

names!(Role {
    Writer = "writer",
    Reader = "reader",
    Admin = "admin",
});

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("{text:?} is not a role: writer, reader or admin"))
    }
}

/// What a call demands of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing: anyone may call it.
    Nothing,
    /// A valid key of any role.
    AnyRole,
    /// A key of this role, or of an admin.
    Role(Role),
}

impl Requirement {
    /// Whether a role suffices.
    pub fn is_met_by(self, role: Role) -> bool {
        match self {
            Self::Nothing | Self::AnyRole => true,
            Self::Role(needed) => role == needed || role == Role::Admin,
        }
    }
}

/// What a key is limited to. An empty list is no limit; accounts and prefixes together are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    accounts: Vec<AccountId>,
    account_prefixes: Vec<String>,
    meters: Vec<String>,
}

impl Scope {
    /// Validates the limits of a key. A meter need not be configured.
    ///
    /// # Errors
    /// A violation of `accounts`, `account_prefixes` or `meters`.
    pub fn new(
        accounts: &[String],
        account_prefixes: &[String],
        meters: &[String],
    ) -> Result<Self, Violation> {
        for (field, items) in [
            ("accounts", accounts),
            ("account_prefixes", account_prefixes),
            ("meters", meters),
        ] {
            if items.len() > MAX_SCOPE_ITEMS {
                let count = items.len();
                let message =
                    format!("{field} has {count} items; at most {MAX_SCOPE_ITEMS} may be given");
                return Err(Violation::invalid(field, message));
            }
        }
        let accounts = accounts
            .iter()
            .map(|account| AccountId::parse_field("accounts", account));
        let prefixes = account_prefixes.iter().map(|prefix| {
            // What no account id can begin with would be a key for nothing.
            AccountId::parse_field("account_prefixes", prefix).map(String::from)
        });
        let meters = meters.iter().map(|meter| meter_name("meters", meter));
        Ok(Self {
            accounts: unique(accounts.collect::<Result<_, _>>()?),
            account_prefixes: unique(prefixes.collect::<Result<_, _>>()?),
            meters: unique(meters.collect::<Result<_, _>>()?),
        })
    }

    /// The accounts that it names.
    pub fn accounts(&self) -> &[AccountId] {
        &self.accounts
    }

    /// What the ids of its other accounts begin with.
    pub fn account_prefixes(&self) -> &[String] {
        &self.account_prefixes
    }

    /// Its meters; none means all.
    pub fn meters(&self) -> &[String] {
        &self.meters
    }

    /// Whether it limits nothing.
    pub fn is_unlimited(&self) -> bool {
        self.has_all_accounts() && self.meters.is_empty()
    }

    fn has_all_accounts(&self) -> bool {
        self.accounts.is_empty() && self.account_prefixes.is_empty()
    }

    fn has_account(&self, account: &str) -> bool {
        self.has_all_accounts()
            || self.accounts.iter().any(|own| own.as_str() == account)
            || self
                .account_prefixes
                .iter()
                .any(|prefix| account.starts_with(prefix.as_str()))
    }

    /// Whether it has all accounts whose ids begin with this.
    fn has_prefix(&self, prefix: &str) -> bool {
        let mut own = self.account_prefixes.iter();
        self.has_all_accounts() || own.any(|own| prefix.starts_with(own.as_str()))
    }

    fn has_meter(&self, meter: &str) -> bool {
        self.meters.is_empty() || self.meters.iter().any(|own| own == meter)
    }
}

/// Validates the name of a meter, which need not be configured.
///
/// # Errors
/// A violation of the field.
pub fn meter_name(field: &str, meter: &str) -> Result<String, Violation> {
    let is_valid = (1..=MAX_NAME_CHARS).contains(&meter.len())
        && meter
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if is_valid {
        return Ok(meter.to_owned());
    }
    let given = quoted(meter);
    Err(Violation::invalid(
        field,
        format!(
            "{field} has {given}; a name of a meter is 1 to {MAX_NAME_CHARS} characters out of A-Z a-z 0-9 _ - ."
        ),
    ))
}

fn unique<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    items.dedup();
    items
}

/// Why a caller may not make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The role does not suffice.
    #[error("this call needs a key of the role {needed}, and the key has the role {}", has.name())]
    Role {
        /// The role that would.
        needed: &'static str,
        /// The caller's role.
        has: Role,
    },
    /// The caller is limited to other accounts.
    #[error("the key is limited to other accounts")]
    Account,
    /// The caller is limited to other meters.
    #[error("the key is limited to other meters")]
    Meter,
    /// The call is about all meters of an account.
    #[error("the key is limited to some meters, and this call is about all of them")]
    AllMeters,
    /// The call is about more accounts than those with one of the key's prefixes.
    #[error(
        "the key is limited to some accounts, and this call is about more; give an account_prefix that begins with a prefix of the key, or use a key without limits"
    )]
    Prefix,
    /// The call is about everything.
    #[error(
        "the key is limited to some accounts or meters, and this call is about all of them; use a key without limits, or name an account where the call has a field for it"
    )]
    Everything,
}

impl Denial {
    /// As a violation of one item of a batch.
    pub fn violation(self) -> Violation {
        let field = match self {
            Self::Meter | Self::AllMeters => "meter",
            Self::Prefix => "account_prefix",
            Self::Role { .. } | Self::Account | Self::Everything => "account_id",
        };
        Violation::new(Reason::PermissionDenied, field, self.to_string())
    }
}

/// How it is known who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerKind {
    /// It is not, and need not be.
    Anyone,
    /// By this key.
    Key(KeyId),
    /// By a client certificate.
    Certificate,
}

/// Who makes a call.
///
/// Keys of one name are one caller: that is how a key is rotated. So what a caller owns beyond one call, such as the keys of
/// its batches, is stored under the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The key; absent of a client certificate, and while there are no keys.
    pub key: Option<KeyId>,
    /// The name of the key, or the subject of the client certificate; empty while neither is needed.
    pub name: String,
    /// The role.
    pub role: Role,
    /// The limits.
    pub scope: Scope,
}

impl Caller {
    /// A caller of a service without keys, who may do everything.
    pub fn anyone() -> Self {
        Self {
            key: None,
            name: String::new(),
            role: Role::Admin,
            scope: Scope::default(),
        }
    }

    /// How it is known who calls.
    pub fn kind(&self) -> CallerKind {
        match self.key {
            Some(key) => CallerKind::Key(key),
            // A certificate without a subject has no role.
            None if self.name.is_empty() => CallerKind::Anyone,
            None => CallerKind::Certificate,
        }
    }

    /// Whether there was no need to say who it is.
    pub fn is_anyone(&self) -> bool {
        self.kind() == CallerKind::Anyone
    }

    /// Whether the role suffices.
    ///
    /// # Errors
    /// It does not.
    pub fn check_role(&self, requirement: Requirement) -> Result<(), Denial> {
        match requirement {
            Requirement::Role(needed) if !requirement.is_met_by(self.role) => Err(Denial::Role {
                needed: needed.name(),
                has: self.role,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the caller may count or read one meter of an account. The account need not be valid.
    ///
    /// # Errors
    /// The key is limited to others.
    pub fn check_usage(&self, account: &str, meter: &str) -> Result<(), Denial> {
        if !self.scope.has_account(account) {
            return Err(Denial::Account);
        }
        if !self.scope.has_meter(meter) {
            return Err(Denial::Meter);
        }
        Ok(())
    }

    /// Whether the caller may know of a meter.
    pub fn sees_meter(&self, meter: &str) -> bool {
        self.scope.has_meter(meter)
    }

    /// Whether the caller may know of every account.
    pub fn sees_all_accounts(&self) -> bool {
        self.scope.has_all_accounts()
    }

    /// Whether the caller may do what is about an account with all its meters.
    ///
    /// # Errors
    /// The key is limited to other accounts, or to some meters.
    pub fn check_account(&self, account: &str) -> Result<(), Denial> {
        if !self.scope.has_account(account) {
            return Err(Denial::Account);
        }
        if !self.scope.meters.is_empty() {
            return Err(Denial::AllMeters);
        }
        Ok(())
    }

    /// Whether the caller may read a meter of all accounts whose ids begin with a prefix; an empty one means all accounts, and
    /// no meter all meters.
    ///
    /// # Errors
    /// The key is limited to others.
    pub fn check_prefix(&self, prefix: &str, meter: Option<&str>) -> Result<(), Denial> {
        if !self.scope.has_prefix(prefix) {
            return Err(Denial::Prefix);
        }
        match meter {
            Some(meter) if !self.scope.has_meter(meter) => Err(Denial::Meter),
            None if !self.scope.meters.is_empty() => Err(Denial::AllMeters),
            _ => Ok(()),
        }
    }

    /// Whether the caller may do what is about all accounts.
    ///
    /// # Errors
    /// The key is limited.
    pub fn check_everything(&self) -> Result<(), Denial> {
        if self.scope.is_unlimited() {
            Ok(())
        } else {
            Err(Denial::Everything)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    fn caller(accounts: &[&str], prefixes: &[&str], meters: &[&str]) -> Caller {
        Caller {
            role: Role::Writer,
            scope: Scope::new(&texts(accounts), &texts(prefixes), &texts(meters)).unwrap(),
            ..Caller::anyone()
        }
    }

    #[test]
    fn an_admin_may_everything_and_the_others_only_their_own() {
        for role in Role::ALL {
            assert!(Requirement::Nothing.is_met_by(role));
            assert!(Requirement::AnyRole.is_met_by(role));
            for needed in Role::ALL {
                let expected = role == needed || role == Role::Admin;
                assert_eq!(Requirement::Role(needed).is_met_by(role), expected);
            }
        }
    }

    #[test]
    fn a_prefix_is_within_a_longer_or_equal_limit_only() {
        let limited = caller(&["alone"], &["team:"], &["tokens"]);
        for (prefix, meter, expected) in [
            ("team:", Some("tokens"), Ok(())),
            ("team:1", Some("tokens"), Ok(())),
            ("team:1", Some("other"), Err(Denial::Meter)),
            ("team:1", None, Err(Denial::AllMeters)),
            ("team", Some("tokens"), Err(Denial::Prefix)),
            ("alone", Some("tokens"), Err(Denial::Prefix)),
            ("", Some("tokens"), Err(Denial::Prefix)),
        ] {
            assert_eq!(limited.check_prefix(prefix, meter), expected, "{prefix}");
        }
        assert_eq!(Caller::anyone().check_prefix("", None), Ok(()));
        let of_account = caller(&["alone"], &[], &[]);
        assert_eq!(of_account.check_prefix("", None), Err(Denial::Prefix));
    }

    #[test]
    fn accounts_and_prefixes_are_one_limit() {
        let limited = caller(&["alone"], &["team:"], &[]);
        for (account, expected) in [
            ("alone", Ok(())),
            ("alone2", Err(Denial::Account)),
            ("team:1", Ok(())),
            ("team", Err(Denial::Account)),
            ("other", Err(Denial::Account)),
            ("", Err(Denial::Account)),
        ] {
            assert_eq!(limited.check_account(account), expected, "{account}");
            assert_eq!(limited.check_usage(account, "any"), expected, "{account}");
        }
        assert_eq!(limited.check_everything(), Err(Denial::Everything));
    }

    #[test]
    fn a_limit_to_meters_denies_what_is_about_all_of_them() {
        let limited = caller(&[], &[], &["calls"]);
        assert_eq!(limited.check_usage("a", "calls"), Ok(()));
        assert_eq!(limited.check_usage("a", "tokens"), Err(Denial::Meter));
        assert_eq!(limited.check_account("a"), Err(Denial::AllMeters));
        assert_eq!(limited.check_everything(), Err(Denial::Everything));
    }

    #[test]
    fn each_wrong_limit_is_named() {
        let many = vec!["a".to_owned(); MAX_SCOPE_ITEMS + 1];
        let wrong = texts(&["white space"]);
        for (field, scope) in [
            ("accounts", Scope::new(&many, &[], &[])),
            ("accounts", Scope::new(&wrong, &[], &[])),
            ("account_prefixes", Scope::new(&[], &texts(&[""]), &[])),
            ("meters", Scope::new(&[], &[], &wrong)),
        ] {
            assert_eq!(scope.unwrap_err().field, field);
        }
    }

    proptest! {
        #[test]
        fn an_unlimited_key_is_denied_no_account_or_meter(account in ".*", meter in ".*") {
            let caller = caller(&[], &[], &[]);
            prop_assert_eq!(caller.check_usage(&account, &meter), Ok(()));
            prop_assert_eq!(caller.check_account(&account), Ok(()));
            prop_assert_eq!(caller.check_everything(), Ok(()));
        }

        #[test]
        fn what_is_allowed_for_all_meters_is_allowed_for_each(
            account in "[ab]{1,3}", own in "[ab]{1,3}", prefix in "[ab]{1,2}", meter in "[ab]{1,2}",
        ) {
            let caller = caller(&[&own], &[&prefix], &[]);
            let expected = account == own || account.starts_with(&prefix);
            prop_assert_eq!(caller.check_account(&account).is_ok(), expected);
            prop_assert_eq!(caller.check_usage(&account, &meter).is_ok(), expected);
        }
    }
}
