//! The cookie of a session.
//!
//! It is sent with links of other sites (`SameSite=Lax`), because addresses are shared. What else of another site has it is
//! refused by `origin`.

use axum::http::{HeaderMap, HeaderValue, header};

use super::Place;
use crate::domain::{
    SECOND_MS,
    console_session::{SESSION_MS, SessionSecret},
};

/// Its name where the browser speaks TLS. No other host, and no page without TLS, can set a cookie with this prefix.
const SECURE: &str = "__Host-usage_console";
/// And where it does not.
const PLAIN: &str = "usage_console";

/// The session that a request presents. Over TLS only the cookie that no other host can set counts; behind a proxy it comes
/// first.
pub(super) fn read(headers: &HeaderMap, place: Place) -> Option<SessionSecret> {
    let find = |name: &str| {
        let lines = headers.get_all(header::COOKIE).iter();
        let texts = lines.filter_map(|line| line.to_str().ok());
        let mut pairs = texts.flat_map(|line| line.split(';'));
        pairs.find_map(|pair| {
            let (found, value) = pair.trim().split_once('=')?;
            (found == name).then(|| value.to_owned())
        })
    };
    let plain = || (!place.is_tls).then(|| find(PLAIN)).flatten();
    let value = find(SECURE).or_else(plain)?;
    SessionSecret::parse(&value)
}

/// Gives a browser the session. `is_secure` says whether it speaks TLS.
pub(super) fn set(secret: &SessionSecret, is_secure: bool) -> Option<HeaderValue> {
    let seconds = SESSION_MS.div_euclid(SECOND_MS);
    written(&secret.reveal(), is_secure, seconds)
}

/// Takes it away.
pub(super) fn clear(is_secure: bool) -> Option<HeaderValue> {
    written("", is_secure, 0)
}

fn written(value: &str, is_secure: bool, max_age: i64) -> Option<HeaderValue> {
    let (name, secure) = if is_secure {
        (SECURE, "; Secure")
    } else {
        (PLAIN, "")
    };
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age}{secure}");
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::console_session::SECRET_BYTES;

    fn place(is_tls: bool) -> Place {
        Place {
            is_tls,
            is_loopback: true,
        }
    }

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::COOKIE, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn the_cookie_that_only_this_host_can_set_comes_first() {
        let own = SessionSecret::of([1; SECRET_BYTES]);
        let other = SessionSecret::of([2; SECRET_BYTES]);
        let (secure, plain) = (
            format!("{SECURE}={}", own.reveal()),
            format!("{PLAIN}={}", other.reveal()),
        );
        let both = headers(&[&format!("a=b; {plain}"), &secure]);
        for is_tls in [false, true] {
            let read = read(&both, place(is_tls)).unwrap();
            assert_eq!(read.hash(), own.hash());
        }
        let only_plain = headers(&[&plain]);
        assert!(read(&only_plain, place(true)).is_none());
        assert!(read(&only_plain, place(false)).is_some());
        assert!(read(&headers(&["usage_console=1", "x"]), place(false)).is_none());
    }

    #[test]
    fn scripts_and_other_sites_never_see_it() {
        let secret = SessionSecret::of([1; SECRET_BYTES]);
        for is_secure in [false, true] {
            for value in [set(&secret, is_secure), clear(is_secure)] {
                let text = value.unwrap().to_str().unwrap().to_owned();
                for part in ["; HttpOnly", "; SameSite=Lax", "; Path=/;"] {
                    assert!(text.contains(part), "{text}");
                }
                assert_eq!(text.starts_with("__Host-"), is_secure);
                assert_eq!(text.ends_with("; Secure"), is_secure);
            }
        }
    }
}
