//! The cookie of a session, and that of a time zone.
//!
//! That of a session is sent with links of other sites (`SameSite=Lax`), because addresses are shared. What else of another site has it is
//! refused by `origin`.

use axum::http::{HeaderMap, HeaderValue, Uri, header, request::Parts, uri::Authority};
use chrono_tz::Tz;

use super::Place;
use crate::{
    domain::{
        SECOND_MS,
        console_session::{SESSION_MS, SessionSecret},
        period::parse_zone,
    },
    http::host_name,
};

/// Its name where the browser speaks TLS. No other host, and no page without TLS, can set a cookie with this prefix.
const SECURE: &str = "__Host-usage_console";
/// And where it does not, before the port.
const PLAIN: &str = "usage_console";
/// The names of the cookie of a time zone.
const SECURE_ZONE: &str = "__Host-usage_console_zone";
const PLAIN_ZONE: &str = "usage_console_zone";
/// No name of a zone is longer.
const MAX_ZONE_BYTES: usize = 64;
/// For how long a zone is kept: a year.
const ZONE_SECS: i64 = 365 * 24 * 3_600;

/// The name of a cookie where the browser does not speak TLS. Browsers send cookies of a host to each of its ports, so the
/// name has the port that the browser asks: two servers on one host keep what is theirs apart.
fn plain_name(name: &str, uri: &Uri, headers: &HeaderMap) -> String {
    let host = host_name(uri, headers).and_then(|host| host.parse::<Authority>().ok());
    let port = host.and_then(|host| host.port_u16());
    port.map_or_else(|| name.to_owned(), |port| format!("{name}_{port}"))
}

/// The session that a request presents. Over TLS only the cookie that no other host can set counts; behind a proxy it comes
/// first.
pub(super) fn read(uri: &Uri, headers: &HeaderMap, place: Place) -> Option<SessionSecret> {
    let value = find((uri, headers), place, SECURE, PLAIN)?;
    SessionSecret::parse(&value)
}

/// The time zone that was chosen; none if the cookie has none that there is.
pub(super) fn read_zone(uri: &Uri, headers: &HeaderMap, place: Place) -> Option<Tz> {
    let value = find((uri, headers), place, SECURE_ZONE, PLAIN_ZONE)?;
    let is_name = !value.is_empty() && value.len() <= MAX_ZONE_BYTES;
    is_name.then(|| parse_zone(&value).ok()).flatten()
}

/// Whether the browser has a session that it sends over TLS only.
pub(super) fn has_secure(headers: &HeaderMap) -> bool {
    value_of(headers, SECURE).is_some()
}

fn find(
    (uri, headers): (&Uri, &HeaderMap),
    place: Place,
    secure: &str,
    plain: &str,
) -> Option<String> {
    let of_plain = || {
        let name = (!place.is_tls).then(|| plain_name(plain, uri, headers));
        name.and_then(|name| value_of(headers, &name))
    };
    value_of(headers, secure).or_else(of_plain)
}

fn value_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter();
    let texts = lines.filter_map(|line| line.to_str().ok());
    let mut pairs = texts.flat_map(|line| line.split(';'));
    pairs.find_map(|pair| {
        let (found, value) = pair.trim().split_once('=')?;
        (found == name).then(|| value.to_owned())
    })
}

/// Gives the browser that sent a request the session. `is_secure` says whether it speaks TLS.
pub(super) fn set(secret: &SessionSecret, head: &Parts, is_secure: bool) -> Option<HeaderValue> {
    let seconds = SESSION_MS.div_euclid(SECOND_MS);
    written(&secret.reveal(), head, is_secure, seconds)
}

/// Takes it away.
pub(super) fn clear(head: &Parts, is_secure: bool) -> Option<HeaderValue> {
    written("", head, is_secure, 0)
}

/// Keeps a time zone. No link of another site sends it: an address names its zone itself.
pub(super) fn set_zone(zone: Tz, head: &Parts, is_secure: bool) -> Option<HeaderValue> {
    let (name, secure) = if is_secure {
        (SECURE_ZONE.to_owned(), "; Secure")
    } else {
        (plain_name(PLAIN_ZONE, &head.uri, &head.headers), "")
    };
    let zone = zone.name();
    let text =
        format!("{name}={zone}; Path=/; HttpOnly; SameSite=Strict; Max-Age={ZONE_SECS}{secure}");
    HeaderValue::try_from(text).ok()
}

fn written(value: &str, head: &Parts, is_secure: bool, max_age: i64) -> Option<HeaderValue> {
    let (name, secure) = if is_secure {
        (SECURE.to_owned(), "; Secure")
    } else {
        (plain_name(PLAIN, &head.uri, &head.headers), "")
    };
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age}{secure}");
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{api_key::KeyId, console_session::SECRET_BYTES};

    fn secret(byte: u8) -> SessionSecret {
        let key = KeyId::parse("0123456789abcdef").unwrap();
        SessionSecret::of(key, [byte; SECRET_BYTES])
    }

    fn place(is_tls: bool) -> Place {
        Place {
            is_tls,
            is_loopback: true,
        }
    }

    /// The headers of a request to a host, with cookies.
    fn headers(host: &str, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        for line in lines {
            headers.append(header::COOKIE, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn the_cookie_that_only_this_host_can_set_comes_first() {
        let (own, other) = (secret(1), secret(2));
        let (secure, plain) = (
            format!("{SECURE}={}", own.reveal()),
            format!("{PLAIN}={}", other.reveal()),
        );
        let uri = Uri::from_static("/");
        let both = headers("host", &[&format!("a=b; {plain}"), &secure]);
        for is_tls in [false, true] {
            let read = read(&uri, &both, place(is_tls)).unwrap();
            assert_eq!(read.hash(), own.hash());
        }
        let only_plain = headers("host", &[&plain]);
        assert!(read(&uri, &only_plain, place(true)).is_none());
        assert!(read(&uri, &only_plain, place(false)).is_some());
        let no_secret = headers("host", &["usage_console=1", "x"]);
        assert!(read(&uri, &no_secret, place(false)).is_none());
    }

    #[test]
    fn a_plain_cookie_is_of_one_port() {
        let [one, other] = [1, 2].map(secret);
        let lines = format!(
            "{PLAIN}_8080={}; {PLAIN}_8081={}",
            one.reveal(),
            other.reveal()
        );
        let uri = Uri::from_static("/");
        for (host, expected) in [
            ("localhost:8080", Some(&one)),
            ("[::1]:8081", Some(&other)),
            ("localhost:8082", None),
            ("localhost", None),
            ("no host", None),
        ] {
            let found = read(&uri, &headers(host, &[&lines]), place(false));
            let found = found.map(|found| found.hash());
            assert_eq!(found, expected.map(SessionSecret::hash), "{host}");
        }
    }

    #[test]
    fn scripts_and_other_sites_never_see_it() {
        let secret = secret(1);
        for is_secure in [false, true] {
            let head = http::Request::builder().header(header::HOST, "localhost:8080");
            let head = head.body(()).unwrap().into_parts().0;
            for value in [set(&secret, &head, is_secure), clear(&head, is_secure)] {
                let text = value.unwrap().to_str().unwrap().to_owned();
                for part in ["; HttpOnly", "; SameSite=Lax", "; Path=/;"] {
                    assert!(text.contains(part), "{text}");
                }
                assert_eq!(text.starts_with("__Host-"), is_secure);
                assert_eq!(text.starts_with("usage_console_8080="), !is_secure);
                assert_eq!(text.ends_with("; Secure"), is_secure);
            }
        }
    }

    #[test]
    fn a_zone_is_kept_from_scripts_and_other_sites_and_is_read_again() {
        let head = http::Request::builder().header(header::HOST, "localhost:8080");
        let head = head.body(()).unwrap().into_parts().0;
        let uri = Uri::from_static("/");
        for zone in chrono_tz::TZ_VARIANTS {
            for is_secure in [false, true] {
                let value = set_zone(zone, &head, is_secure).unwrap();
                let text = value.to_str().unwrap();
                for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/;", "; Max-Age="] {
                    assert!(text.contains(part), "{text}");
                }
                assert_eq!(text.starts_with("__Host-"), is_secure);
                assert_eq!(text.starts_with("usage_console_zone_8080="), !is_secure);
                assert_eq!(text.ends_with("; Secure"), is_secure);
                let pair = text.split(';').next().unwrap();
                let read = |host| read_zone(&uri, &headers(host, &[pair]), place(is_secure));
                assert_eq!(read("localhost:8080"), Some(zone));
                assert_eq!(read("localhost:8081"), is_secure.then_some(zone));
            }
        }
        let plain = headers("host", &["usage_console_zone=Europe/Vienna"]);
        assert_eq!(read_zone(&uri, &plain, place(true)), None);
        for wrong in ["", "Mars", &"x".repeat(65), "Europe/Vienna\"", "../etc"] {
            let wrong = headers("host", &[&format!("usage_console_zone={wrong}")]);
            assert_eq!(read_zone(&uri, &wrong, place(false)), None);
        }
    }
}
