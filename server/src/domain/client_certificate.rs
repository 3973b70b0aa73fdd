//! Who a client certificate names, and the role that the settings give it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::access::{Caller, Role, Scope};

/// A client certificate that an authority of the settings has signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its common names, DNS names, URIs and email addresses, each once.
    pub subjects: Vec<String>,
}

impl fmt::Display for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subjects.join(", "))
    }
}

/// The longest subject with a role, in bytes: it is stored with the keys of batches.
const MAX_SUBJECT_BYTES: usize = 1_024;

/// The role of one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRole {
    /// As the certificate has it.
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
            .ok_or("must be SUBJECT=ROLE, such as backend=writer")?;
        let subject = subject.trim();
        if subject.is_empty() {
            return Err("the subject is empty".to_owned());
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
            "backend=writer",
            "spiffe://prod/a=b=reader",
            " ops@example.com = admin",
        ])
        .unwrap();
        for (subjects, role) in [
            (&["backend"][..], Some(Role::Writer)),
            (&["other", "backend"], Some(Role::Writer)),
            (&["spiffe://prod/a=b"], Some(Role::Reader)),
            (&["ops@example.com"], Some(Role::Admin)),
            (&["Backend"], None),
            (&["backend2"], None),
            (&[], None),
            (&["backend", "ops@example.com"], None),
        ] {
            let caller = roles.caller_of(&certificate(subjects));
            assert_eq!(caller.as_ref().map(|of| of.role), role, "{subjects:?}");
            assert!(caller.is_none_or(|of| subjects.contains(&&*of.name)));
        }
    }

    #[test]
    fn wrong_roles_are_refused() {
        for (texts, words) in [
            (&["backend"][..], "SUBJECT=ROLE"),
            (&["backend=root"], "\"root\" is not a role"),
            (&["=admin"], "empty"),
            (&[&*format!("{}=admin", "x".repeat(1_025))], "1025 bytes"),
            (&["a=writer", "a=writer"], "two roles"),
        ] {
            let error = roles(texts).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
