//! Verifies that Stripe signed a webhook recently. Pure; works on the raw body.
//!
//! The header reads `t=TIME,v1=HEX,v1=HEX`. Each `v1` is the HMAC-SHA256 of `TIME.BODY` under one secret of the
//! endpoint. While secrets rotate, Stripe signs with each valid one. Other schemes are ignored.
//! Source: <https://docs.stripe.com/webhooks#verify-manually>.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Signatures in one header. Stripe sends one for each valid secret, of which there are at most two.
const MAX_SIGNATURES: usize = 16;
const DIGEST_BYTES: usize = 32;

/// Why a signature is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    /// The header is missing or cannot be parsed.
    #[error("the Stripe-Signature header {0}")]
    Malformed(&'static str),
    /// It was signed too long ago, or too far in the future.
    #[error(
        "the Stripe-Signature header is {age_secs} s old; the limit is {tolerance_secs} s, before or after now"
    )]
    Stale {
        /// The age; negative if it is in the future.
        age_secs: i64,
        /// The limit.
        tolerance_secs: i64,
    },
    /// No signature matches.
    #[error("no signature in the Stripe-Signature header matches the body and a configured secret")]
    Wrong,
}

impl SignatureError {
    /// The error's name in metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_signature",
            Self::Stale { .. } => "stale_signature",
            Self::Wrong => "wrong_signature",
        }
    }
}

/// Verifies a body against its header. Signatures are compared in constant time.
pub(crate) fn verify(
    header: &[u8],
    body: &[u8],
    secrets: &[String],
    now_secs: i64,
    tolerance_secs: i64,
) -> Result<(), SignatureError> {
    let text = std::str::from_utf8(header).map_err(|_| SignatureError::Malformed("is not text"))?;
    let parsed = Parsed::of(text)?;
    let age_secs = now_secs.saturating_sub(parsed.time_secs);
    // Not `abs`, which overflows for the smallest number.
    if age_secs > tolerance_secs || age_secs < tolerance_secs.saturating_neg() {
        return Err(SignatureError::Stale {
            age_secs,
            tolerance_secs,
        });
    }
    let matches = |secret: &String| {
        // HMAC accepts keys of any length.
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
    if secrets.iter().any(matches) {
        Ok(())
    } else {
        Err(SignatureError::Wrong)
    }
}

struct Parsed<'a> {
    /// The time as text, which is part of the signed payload.
    time: &'a str,
    time_secs: i64,
    signatures: Vec<[u8; DIGEST_BYTES]>,
}

impl<'a> Parsed<'a> {
    fn of(header: &'a str) -> Result<Self, SignatureError> {
        let mut time = None;
        let mut signatures = Vec::new();
        for part in header.split(',') {
            let (name, value) = part.split_once('=').ok_or(SignatureError::Malformed(
                "is not a list of NAME=VALUE, separated by commas",
            ))?;
            match name {
                "t" if time.is_some() => return Err(SignatureError::Malformed("has two times")),
                "t" => time = Some(value),
                "v1" if signatures.len() >= MAX_SIGNATURES => {
                    return Err(SignatureError::Malformed("has more than 16 signatures"));
                }
                // A value that is not a digest can match nothing.
                "v1" => signatures.extend(digest(value)),
                _ => {}
            }
        }
        let time = time.ok_or(SignatureError::Malformed("has no time"))?;
        let is_number = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit());
        let time_secs = time
            .parse()
            .ok()
            .filter(|_| is_number)
            .ok_or(SignatureError::Malformed("has a time that is not a number"))?;
        if signatures.is_empty() {
            return Err(SignatureError::Malformed("has no v1 signature"));
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

    fn check(header: &str, secrets: &[&str]) -> Result<(), SignatureError> {
        let secrets: Vec<String> = secrets.iter().map(|text| (*text).to_owned()).collect();
        verify(header.as_bytes(), b"{}", &secrets, NOW, TOLERANCE)
    }

    #[test]
    fn the_published_scheme_is_accepted() {
        // Computed with the hmac module of Python.
        let header =
            "t=1700000000,v1=e6f424c1ebf2679ddb75df801d64b07e5063e2d7d6834ab73f5c55d787278d9d";
        assert_eq!(check(header, &["whsec_one"]), Ok(()));
        assert_eq!(check(header, &["whsec_two"]), Err(SignatureError::Wrong));
        assert_eq!(check(header, &[]), Err(SignatureError::Wrong));
    }

    #[test]
    fn one_matching_signature_and_secret_are_enough() {
        let (old, new) = (
            hex("old", "1700000000", b"{}"),
            hex("new", "1700000000", b"{}"),
        );
        let both = format!("t={NOW},v1={old},v1={new},v0=6ffbb59b,later=x=y");
        for secrets in [&["old"][..], &["new"], &["other", "new"], &["old", "new"]] {
            assert_eq!(check(&both, secrets), Ok(()), "{secrets:?}");
        }
        assert_eq!(check(&both, &["other"]), Err(SignatureError::Wrong));
        // v0 is Stripe's scheme for tests and proves nothing.
        let v0 = format!("t={NOW},v0={old}");
        assert!(matches!(
            check(&v0, &["old"]),
            Err(SignatureError::Malformed(_))
        ));
    }

    #[test]
    fn the_tolerance_applies_to_past_and_future_to_the_second() {
        for (age, is_accepted) in [(300, true), (301, false), (-300, true), (-301, false)] {
            let header = signed("one", NOW - age, b"{}");
            assert_eq!(check(&header, &["one"]).is_ok(), is_accepted, "{age} s");
        }
    }

    #[test]
    fn a_malformed_header_is_refused_as_malformed() {
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
            let result = check(header, &["one"]);
            assert!(
                matches!(result, Err(SignatureError::Malformed(_))),
                "{header:?}: {result:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_signed_body_is_accepted_and_one_flipped_bit_is_refused(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            secret in "[!-~]{1,60}",
            place in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let secrets = vec![secret.clone()];
            let header = signed(&secret, NOW, &body).into_bytes();
            prop_assert_eq!(verify(&header, &body, &secrets, NOW, TOLERANCE), Ok(()));
            let (mut changed_header, mut changed_body) = (header, body);
            let index = place.index(changed_header.len() + changed_body.len());
            match index.checked_sub(changed_header.len()) {
                None => changed_header[index] ^= 1 << bit,
                Some(index) => changed_body[index] ^= 1 << bit,
            }
            prop_assert!(verify(&changed_header, &changed_body, &secrets, NOW, TOLERANCE).is_err());
        }

        #[test]
        fn an_arbitrary_header_is_refused_without_a_panic(header in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(verify(&header, b"", &["s".to_owned()], NOW, TOLERANCE).is_err());
        }
    }
}
