//! Opaque page tokens. A token is bound to its filter, and a damaged one is rejected.

use sha2::{Digest as _, Sha256};

use crate::domain::{
    hex::{hex, unhex},
    violation::{Reason, Violation},
};

/// Hexadecimal digits of the digest of filter and position in a token.
const DIGEST_CHARS: usize = 16;
/// Items on a page if the request does not say.
const DEFAULT_PAGE_SIZE: u64 = 100;
/// Items on the largest page.
const MAX_PAGE_SIZE: u64 = 1_000;

/// The page size of a request; 0 means the default, and larger sizes are capped.
pub(super) fn page_size(requested: i32) -> Result<u64, Violation> {
    match u64::try_from(requested) {
        Ok(0) => Ok(DEFAULT_PAGE_SIZE),
        Ok(size) => Ok(size.min(MAX_PAGE_SIZE)),
        Err(_) => Err(Violation::invalid(
            "page_size",
            format!(
                "page_size is {requested}; it must be 0 for {DEFAULT_PAGE_SIZE}, or 1 to {MAX_PAGE_SIZE}"
            ),
        )),
    }
}

/// A token that continues after `position` in the listing of `filter`.
pub(super) fn encode(filter: &str, position: &str) -> String {
    format!("{}{}", digest(filter, position), hex(position.as_bytes()))
}

/// The position of a token; `None` for the first page.
pub(super) fn decode(filter: &str, token: &str) -> Result<Option<String>, Violation> {
    if token.is_empty() {
        return Ok(None);
    }
    let (_, tail) = token.split_at_checked(DIGEST_CHARS).ok_or_else(invalid)?;
    let position = unhex(tail).and_then(|bytes| String::from_utf8(bytes).ok());
    let position = position.ok_or_else(invalid)?;
    // Also in another spelling, such as with capital letters, it was not made here. No position has a NUL, which PostgreSQL
    // does not take.
    if token != encode(filter, &position) || position.contains('\0') {
        return Err(invalid());
    }
    Ok(Some(position))
}

/// The position of a token as `read` reads it; `None` for the first page. One that it cannot read, such as of another version,
/// is invalid: the list would begin again.
pub(super) fn decode_as<T>(
    filter: &str,
    token: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Violation> {
    let position = decode(filter, token)?;
    let read = position.map(|position| read(&position).ok_or_else(invalid));
    read.transpose()
}

/// The violation of a token that was not made here.
pub(super) fn invalid() -> Violation {
    Violation::new(
        Reason::PageTokenInvalid,
        "page_token",
        "page_token is damaged or belongs to another filter; start again without it",
    )
}

/// The digest of a filter and a position. Without it, a truncated or changed position would silently repeat or skip a
/// part of the listing.
fn digest(filter: &str, position: &str) -> String {
    let mut text = hex(&Sha256::digest(
        format!("{filter:?} {position:?}").as_bytes(),
    ));
    text.truncate(DIGEST_CHARS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_position_that_cannot_be_read_is_refused() {
        let read = |text: &str| text.parse::<i64>().ok();
        assert_eq!(decode_as("filter", "", read), Ok(None));
        assert_eq!(
            decode_as("filter", &encode("filter", "7"), read),
            Ok(Some(7))
        );
        for position in ["", "seven", "7\0"] {
            let token = encode("filter", position);
            assert_eq!(
                decode_as("filter", &token, read),
                Err(invalid()),
                "{position:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_token_leads_back_to_its_position_and_only_with_its_filter(filter in ".*", other in ".*", position in "[^\0]+") {
            let token = encode(&filter, &position);
            prop_assert_eq!(decode(&filter, &token).unwrap(), Some(position));
            prop_assert_eq!(decode(&other, &token).is_ok(), other == filter);
        }

        #[test]
        fn a_damaged_token_is_refused_and_never_panics(token in ".*") {
            let _ = decode("filter", &token);
        }

        #[test]
        fn a_token_with_one_other_character_is_refused(
            filter in ".*", position in "[^\0]+", place in any::<prop::sample::Index>(), other in "[!-~]",
        ) {
            let token = encode(&filter, &position);
            let place = place.index(token.len());
            let mut changed = token.clone();
            changed.replace_range(place..=place, &other);
            prop_assert_eq!(decode(&filter, &changed).is_ok(), changed == token);
        }
    }
}
