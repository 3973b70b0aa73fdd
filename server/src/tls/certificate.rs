//! What a certificate says.

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _,
    revocation_list::CertificateRevocationList,
};

use crate::domain::client_certificate::ClientCertificate;

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|_| "the certificate cannot be read".to_owned())
}

/// When it expires, in seconds of Unix time.
pub(super) fn expires_at(der: &CertificateDer<'_>) -> Result<i64, String> {
    parse(der).map(|certificate| certificate.validity().not_after.timestamp())
}

/// When the next version of a list of revoked certificates is due, in seconds of Unix time; absent if it does not say.
pub(super) fn next_update(der: &CertificateRevocationListDer<'_>) -> Result<Option<i64>, String> {
    CertificateRevocationList::from_der(der)
        .map(|(_, list)| list.next_update().map(|at| at.timestamp()))
        .map_err(|_| "a list cannot be read".to_owned())
}

/// Whom a client's certificate names, and when it expires, in seconds of Unix time.
pub(super) fn client(der: &CertificateDer<'_>) -> Result<(ClientCertificate, i64), String> {
    let certificate = parse(der)?;
    let names = certificate.subject().iter_common_name();
    let mut subjects: Vec<String> = names
        .filter_map(|name| Some(format!("CN:{}", name.as_str().ok()?)))
        .collect();
    let alternatives = certificate
        .subject_alternative_name()
        .map_err(|_| "the alternative names of the certificate cannot be read".to_owned())?;
    let alternatives = alternatives
        .iter()
        .flat_map(|names| &names.value.general_names);
    subjects.extend(alternatives.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::URI(name) => Some(format!("URI:{name}")),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        _ => None,
    }));
    subjects.sort_unstable();
    subjects.dedup();
    let expires_at = certificate.validity().not_after.timestamp();
    Ok((ClientCertificate { subjects }, expires_at))
}
