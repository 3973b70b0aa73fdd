//! The names of this machine, and which requests must use one of them.
//!
//! A page of another site can give its own name the address of this machine, and then call what is there and read the
//! answers. So while no caller needs a key, a socket that only this machine reaches is asked by its own names.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderMap, Uri, header},
};

use crate::{
    authentication::Authenticator, console::Place, domain::http_paths::HttpPath, error::Error,
};

/// Refuses requests by names that are not those of this machine. Cheap to clone.
#[derive(Clone)]
pub(super) struct LocalNames {
    /// Absent if the socket answers at any name.
    authenticator: Option<Authenticator>,
}

impl LocalNames {
    pub(super) fn new(place: Place, authenticator: &Authenticator) -> Self {
        // No page of another site has a certificate for its name here.
        let is_open_to_pages = place.is_loopback && !place.is_tls;
        Self {
            authenticator: is_open_to_pages.then(|| authenticator.clone()),
        }
    }

    /// Why a request has to be refused, if it has to be.
    pub(super) fn check(&self, request: &Request) -> impl Future<Output = Option<Error>> + use<> {
        let asked = self.authenticator.as_ref();
        let asked = asked.filter(|_| is_by_foreign_name(request)).cloned();
        async move {
            match asked?.lets_anyone_call().await {
                Ok(false) => None,
                Ok(true) => Some(Error::HostNotLocal),
                Err(error) => Some(error),
            }
        }
    }
}

/// Whether a request asks for what is not for everyone by a name that is not one of this machine.
fn is_by_foreign_name(request: &Request) -> bool {
    let path = HttpPath::find(request.uri().path());
    let is_for_everyone = matches!(
        path,
        Some(HttpPath::Live | HttpPath::Ready | HttpPath::StripeWebhooks)
    );
    // Browsers always name a host.
    let host = host_name(request.uri(), request.headers());
    !is_for_everyone && host.is_some_and(|host| !is_local_name(&host))
}

/// The host that a request asks, with its port.
pub(crate) fn host_name(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    // HTTP/2 has it in the address.
    let authority = uri.authority().map(ToString::to_string);
    authority.or_else(|| {
        let host = headers.get(header::HOST)?;
        Some(String::from_utf8_lossy(host.as_bytes()).into_owned())
    })
}

fn is_local_name(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if without_port.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = without_port.strip_prefix('[');
    let address = address.and_then(|rest| rest.strip_suffix(']'));
    let address: Option<IpAddr> = address.unwrap_or(without_port).parse().ok();
    address.is_some_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:8080",
        ] {
            assert!(is_local_name(local), "{local}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8080",
            "10.0.0.1:8080",
            "[2001:db8::1]:8080",
            ":8080",
        ] {
            assert!(!is_local_name(other), "{other}");
        }
    }
}
