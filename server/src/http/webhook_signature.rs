//! Whether a webhook was signed by Stripe, and lately: pure, on the raw body.
//!
//! The header reads `t=TIME,v1=HEX,v1=HEX`. Each `v1` is the HMAC-SHA256 of `TIME.BODY` under one secret of the
//! endpoint; Stripe signs with each that is valid while secrets rotate. Other schemes are ignored.
//! Source: <https://docs.stripe.com/webhooks#verify-manually>.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// How many signatures are looked at. Stripe sends one a valid secret, which are two.
const MOST_SIGNATURES: usize = 16;
const DIGEST_BYTES: usize = 32;

/// Why a webhook is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// There is no header, or nothing in it that could be checked.
    #[error("the Stripe-Signature header {0}")]
    Malformed(&'static str),
    /// It was signed too long ago, or in the future.
    #[error(
        "the Stripe-Signature header is {age_secs} s old; {tolerance_secs} s either way are taken"
    )]
    Stale {
        /// How old it is; negative where it comes from the future.
        age_secs: i64,
        /// How old it may be, and how far ahead.
        tolerance_secs: i64,
    },
    /// No secret gives any of its signatures.
    #[error("no signature in the Stripe-Signature header fits the body and a configured secret")]
    Wrong,
}

impl Refused {
    /// A name for counting.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_signature",
            Self::Stale { .. } => "stale_signature",
            Self::Wrong => "wrong_signature",
        }
    }
}

/// Checks a body against its header, in constant time for each signature.
pub(crate) fn verify(
    header: &[u8],
    body: &[u8],
    secrets: &[String],
    now_secs: i64,
    tolerance_secs: i64,
) -> Result<(), Refused> {
    let text = std::str::from_utf8(header).map_err(|_| Refused::Malformed("is not text"))?;
    let parsed = Parsed::of(text)?;
    let age_secs = now_secs.saturating_sub(parsed.time_secs);
    // Not `abs`: the smallest number has none.
    if age_secs > tolerance_secs || age_secs < tolerance_secs.saturating_neg() {
        return Err(Refused::Stale {
            age_secs,
            tolerance_secs,
        });
    }
    let fits = |secret: &String| {
        // A key of any length is taken.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
            return false;
        };
        mac.update(parsed.time.as_bytes());
        mac.update(b".");
        mac.update(body);
        parsed
            .signatures
            .iter()
            .any(|signature| mac.clone().verify_slice(signature).is_ok())
    };
    if secrets.iter().any(fits) {
        Ok(())
    } else {
        Err(Refused::Wrong)
    }
}

struct Parsed<'a> {
    /// As it was signed.
    time: &'a str,
    time_secs: i64,
    signatures: Vec<[u8; DIGEST_BYTES]>,
}

impl<'a> Parsed<'a> {
    fn of(header: &'a str) -> Result<Self, Refused> {
        let mut time = None;
        let mut signatures = Vec::new();
        for part in header.split(',') {
            let (name, value) = part.split_once('=').ok_or(Refused::Malformed(
                "is not made of NAME=VALUE, separated by commas",
            ))?;
            match name {
                "t" if time.is_some() => return Err(Refused::Malformed("holds two times")),
                "t" => time = Some(value),
                "v1" if signatures.len() >= MOST_SIGNATURES => {
                    return Err(Refused::Malformed("holds more than 16 signatures"));
                }
                // One that is no digest fits nothing.
                "v1" => signatures.extend(digest(value)),
                _ => {}
            }
        }
        let time = time.ok_or(Refused::Malformed("holds no time"))?;
        let is_number = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit());
        let time_secs = time
            .parse()
            .ok()
            .filter(|_| is_number)
            .ok_or(Refused::Malformed("holds a time that is no number"))?;
        if signatures.is_empty() {
            return Err(Refused::Malformed("holds no v1 signature"));
        }
        Ok(Self {
            time,
            time_secs,
            signatures,
        })
    }
}

/// The bytes of 64 lowercase hexadecimal digits.
fn digest(hex: &str) -> Option<[u8; DIGEST_BYTES]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => digit.checked_sub(b'0'),
        b'a'..=b'f' => digit.checked_sub(b'a')?.checked_add(10),
        _ => None,
    };
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let mut bytes = [0; DIGEST_BYTES];
    if pairs.len() != DIGEST_BYTES || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (nibble(*high)? << 4) | nibble(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_700_000_000;
    const TOLERANCE: i64 = 300;

    fn hex(secret: &str, time: &str, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{time}.").as_bytes());
        mac.update(body);
        let digest = mac.finalize().into_bytes();
        digest.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    fn signed(secret: &str, time: i64, body: &[u8]) -> String {
        format!("t={time},v1={}", hex(secret, &time.to_string(), body))
    }

    fn check(header: &str, secrets: &[&str]) -> Result<(), Refused> {
        let secrets: Vec<String> = secrets.iter().map(|text| (*text).to_owned()).collect();
        verify(header.as_bytes(), b"{}", &secrets, NOW, TOLERANCE)
    }

    #[test]
    fn the_published_scheme_is_taken() {
        // Computed with the hmac module of Python.
        let header =
            "t=1700000000,v1=e6f424c1ebf2679ddb75df801d64b07e5063e2d7d6834ab73f5c55d787278d9d";
        assert_eq!(check(header, &["whsec_one"]), Ok(()));
        assert_eq!(check(header, &["whsec_two"]), Err(Refused::Wrong));
        assert_eq!(check(header, &[]), Err(Refused::Wrong));
    }

    #[test]
    fn any_signature_and_any_secret_will_do() {
        let (old, new) = (
            hex("old", "1700000000", b"{}"),
            hex("new", "1700000000", b"{}"),
        );
        let both = format!("t={NOW},v1={old},v1={new},v0=6ffbb59b,later=x=y");
        for secrets in [&["old"][..], &["new"], &["other", "new"], &["old", "new"]] {
            assert_eq!(check(&both, secrets), Ok(()), "{secrets:?}");
        }
        assert_eq!(check(&both, &["other"]), Err(Refused::Wrong));
        // The scheme for tests is not Stripe's word.
        let v0 = format!("t={NOW},v0={old}");
        assert!(matches!(check(&v0, &["old"]), Err(Refused::Malformed(_))));
    }

    #[test]
    fn the_tolerance_holds_both_ways_and_to_the_second() {
        for (age, is_taken) in [(300, true), (301, false), (-300, true), (-301, false)] {
            let header = signed("one", NOW - age, b"{}");
            assert_eq!(check(&header, &["one"]).is_ok(), is_taken, "{age} s");
        }
    }

    #[test]
    fn what_is_malformed_is_said_to_be() {
        let signature = hex("one", "1700000000", b"{}");
        let many = format!("t={NOW}{}", format!(",v1={signature}").repeat(17));
        for header in [
            "",
            "t",
            "t=1700000000",
            "v1=aa",
            "t=1700000000,v1=zz",
            &format!("v1={signature}"),
            &format!("t=,v1={signature}"),
            &format!("t=+1700000000,v1={signature}"),
            &format!("t=99999999999999999999,v1={signature}"),
            &format!("t={NOW},t={NOW},v1={signature}"),
            &format!("t={NOW};v1={signature}"),
            &format!("t={NOW},v1={}", signature.to_uppercase()),
            &many,
        ] {
            let refused = check(header, &["one"]);
            assert!(
                matches!(refused, Err(Refused::Malformed(_))),
                "{header:?}: {refused:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_stripe_signs_is_taken_and_a_flipped_bit_anywhere_is_refused(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            secret in "[!-~]{1,60}",
            place in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let secrets = vec![secret.clone()];
            let header = signed(&secret, NOW, &body).into_bytes();
            prop_assert_eq!(verify(&header, &body, &secrets, NOW, TOLERANCE), Ok(()));
            let (mut bent_header, mut bent_body) = (header, body);
            let place = place.index(bent_header.len() + bent_body.len());
            match place.checked_sub(bent_header.len()) {
                None => bent_header[place] ^= 1 << bit,
                Some(place) => bent_body[place] ^= 1 << bit,
            }
            prop_assert!(verify(&bent_header, &bent_body, &secrets, NOW, TOLERANCE).is_err());
        }

        #[test]
        fn no_header_breaks_it(header in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(verify(&header, b"", &["s".to_owned()], NOW, TOLERANCE).is_err());
        }
    }
}
