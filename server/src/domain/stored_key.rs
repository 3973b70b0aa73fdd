//! The form in which idempotency keys are stored: 16 bytes.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::account_id::AccountId;

/// The stored form of an account's idempotency key: the bytes of a UUID, else the first 16 bytes of the SHA-256 of the
/// account and the key.
///
/// Only the usual spelling counts as a UUID (36 characters, lower case), so that two different texts stay two keys. A
/// `UUIDv7` keeps its order: new keys are then stored side by side, and each page of the table is written once.
pub fn stored_key(account: &AccountId, key: &str) -> Uuid {
    if let Some(uuid) = parse_usual(key) {
        return uuid;
    }
    let mut digest = Sha256::new();
    digest.update(account.as_str());
    // Neither an account id nor a key contains NUL.
    digest.update([0]);
    digest.update(key);
    let digest = u128::from_be_bytes(first_16(&digest.finalize()));
    Uuid::from_u128(digest)
}

fn parse_usual(key: &str) -> Option<Uuid> {
    if key.len() != 36 || key.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    Uuid::try_parse(key).ok()
}

fn first_16(digest: &[u8]) -> [u8; 16] {
    let mut first = [0; 16];
    for (to, from) in first.iter_mut().zip(digest) {
        *to = *from;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn account(text: &str) -> AccountId {
        AccountId::parse(text).unwrap()
    }

    #[test]
    fn a_uuid_is_stored_as_its_bytes() {
        let key = "0192f0c1-2b3c-7d4e-8f50-61728394a5b6";
        let stored = stored_key(&account("a"), key);
        assert_eq!(stored.to_string(), key);
        assert_eq!(stored, stored_key(&account("b"), key));
    }

    #[test]
    fn other_spellings_of_a_uuid_are_other_keys() {
        let usual = "0192f0c1-2b3c-7d4e-8f50-61728394a5b6";
        let spellings = [
            usual.to_uppercase(),
            usual.replace('-', ""),
            format!("{{{usual}}}"),
            format!("urn:uuid:{usual}"),
            format!("{usual} "),
        ];
        let mut stored: Vec<Uuid> = spellings
            .iter()
            .map(|key| stored_key(&account("a"), key))
            .collect();
        stored.push(stored_key(&account("a"), usual));
        stored.sort();
        stored.dedup();
        assert_eq!(stored.len(), 6);
    }

    #[test]
    fn a_text_is_stored_as_a_digest_of_account_and_key() {
        // printf 'acct-1\0order-7' | sha256sum
        let stored = stored_key(&account("acct-1"), "order-7");
        assert_eq!(
            stored.simple().to_string(),
            "8a9c19c73185bea11473f3748319db00"
        );
    }

    proptest! {
        #[test]
        fn different_keys_are_stored_differently(
            left in ("[a-z]{1,3}", ".{1,40}"),
            right in ("[a-z]{1,3}", ".{1,40}"),
        ) {
            let stored = |(owner, key): &(String, String)| stored_key(&account(owner), key);
            prop_assert_eq!(stored(&left) == stored(&right), left == right);
        }

        #[test]
        fn the_order_of_uuids_is_kept(left: u128, right: u128) {
            let stored = |bits| stored_key(&account("a"), &Uuid::from_u128(bits).to_string());
            prop_assert_eq!(stored(left).cmp(&stored(right)), left.cmp(&right));
        }
    }
}
