//! Who a client certificate names, and the role that the settings give it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::access::{Caller, Role, Scope};

/// A client certificate that an authority of the settings has signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its common names (`CN:`), DNS names (`DNS:`), URIs (`URI:`) and email addresses (`email:`), each once. An authority
    /// may check one kind of them and not another, so a name of one kind is not the same of another.
    pub subjects: Vec<String>,
}

impl fmt::Display for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subjects.join(", "))
    }
}

/// The longest subject with a role, in bytes: it is stored with the keys of batches.
const MAX_SUBJECT_BYTES: usize = 1_024;

/// What a subject begins with.
const KINDS: [&str; 4] = ["CN:", "DNS:", "URI:", "email:"];

/// The role of one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRole {
    /// As the certificate has it, after its kind.
    pub subject: String,
    /// What its holder may do.
    pub role: Role,
}

impl FromStr for ClientRole {
    type Err = String;

    /// The last `=` separates them, because a URI can contain others.
    fn from_str(text: &str) -> Result<Self, String> {
        let (subject, role) = text
            .rsplit_once('=')
            .ok_or("must be SUBJECT=ROLE, such as DNS:backend.internal=writer")?;
        let subject = subject.trim();
        let name = KINDS.iter().find_map(|kind| subject.strip_prefix(kind));
        if name.is_none_or(str::is_empty) {
            return Err(format!(
                "the subject {subject:?} must be a name after its kind: one of CN:, DNS:, URI: and email:"
            ));
        }
        if subject.len() > MAX_SUBJECT_BYTES {
            return Err(format!(
                "the subject has {} bytes; it may have at most {MAX_SUBJECT_BYTES}",
                subject.len()
            ));
        }
        Ok(Self {
            subject: subject.to_owned(),
            role: role.trim().parse()?,
        })
    }
}

/// The roles of all subjects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRoles(BTreeMap<String, Role>);

impl ClientRoles {
    /// # Errors
    /// A subject has two roles.
    pub fn new(roles: &[ClientRole]) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for ClientRole { subject, role } in roles {
            if all.insert(subject.clone(), *role).is_some() {
                return Err(format!("{subject:?} has two roles"));
            }
        }
        Ok(Self(all))
    }

    /// Whether no subject has a role.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a subject may do everything.
    pub fn has_admin(&self) -> bool {
        self.0.values().any(|role| *role == Role::Admin)
    }

    /// Whom a certificate stands for; none if no subject of it has a role, or if its subjects have different ones: which of
    /// them is meant is not for us to guess.
    pub fn caller_of(&self, certificate: &ClientCertificate) -> Option<Caller> {
        let subjects = certificate.subjects.iter();
        let mut roles = subjects.filter_map(|subject| Some((subject, *self.0.get(subject)?)));
        let (name, role) = roles.next()?;
        roles.all(|(_, other)| other == role).then(|| Caller {
            key: None,
            name: name.clone(),
            role,
            scope: Scope::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(texts: &[&str]) -> Result<ClientRoles, String> {
        let parsed: Result<Vec<ClientRole>, String> =
            texts.iter().map(|text| text.parse()).collect();
        ClientRoles::new(&parsed?)
    }

    fn certificate(subjects: &[&str]) -> ClientCertificate {
        ClientCertificate {
            subjects: subjects
                .iter()
                .map(|subject| (*subject).to_owned())
                .collect(),
        }
    }

    #[test]
    fn a_certificate_has_the_role_of_its_subject() {
        let roles = roles(&[
            "CN:backend=writer",
            "URI:spiffe://prod/a=b=reader",
            " email:ops@example.com = admin",
        ])
        .unwrap();
        for (subjects, role) in [
            (&["CN:backend"][..], Some(Role::Writer)),
            (&["CN:other", "CN:backend"], Some(Role::Writer)),
            (&["URI:spiffe://prod/a=b"], Some(Role::Reader)),
            (&["email:ops@example.com"], Some(Role::Admin)),
            (&["CN:Backend"], None),
            (&["CN:backend2"], None),
            (&["DNS:backend"], None),
            (&["CN:ops@example.com"], None),
            (&[], None),
            (&["CN:backend", "email:ops@example.com"], None),
        ] {
            let caller = roles.caller_of(&certificate(subjects));
            assert_eq!(caller.as_ref().map(|of| of.role), role, "{subjects:?}");
            assert!(caller.is_none_or(|of| subjects.contains(&&*of.name)));
        }
    }

    #[test]
    fn wrong_roles_are_refused() {
        for (texts, words) in [
            (&["CN:backend"][..], "SUBJECT=ROLE"),
            (&["CN:backend=root"], "\"root\" is not a role"),
            (&["backend=admin"], "one of CN:, DNS:, URI: and email:"),
            (&["DNS:=admin"], "must be a name"),
            (&["=admin"], "must be a name"),
            (&[&*format!("CN:{}=admin", "x".repeat(1_022))], "1025 bytes"),
            (&["CN:a=writer", "CN:a=writer"], "two roles"),
        ] {
            let error = roles(texts).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
