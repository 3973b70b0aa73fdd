//! What a file of the spool contains: the proto's `IncrementBatchRequest`, the number of records of each of its
//! increments, and a checksum.

use super::aggregator::Sum;
use crate::proto::{IncrementBatchRequest, IncrementRequest};
use prost::Message as _;
use prost_types::Timestamp;
use uuid::Uuid;

/// The start of each file, which identifies the format.
const MAGIC: &[u8; 8] = b"usagebt1";

/// The contents of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The idempotency key to send it with.
    pub(super) key: Uuid,
    pub(super) sums: Vec<Sum>,
}

/// The contents of a batch's file.
pub(super) fn encode(key: Uuid, sums: &[Sum]) -> Vec<u8> {
    let increments = sums.iter().map(|sum| IncrementRequest {
        account_id: sum.account.to_string(),
        meter: sum.meter.to_string(),
        quantity: Some(sum.quantity),
        timestamp: Some(Timestamp {
            seconds: sum.second,
            nanos: 0,
        }),
        ..Default::default()
    });
    let message = IncrementBatchRequest {
        increments: increments.collect(),
        idempotency_key: key.to_string(),
        dry_run: false,
    };
    let mut rest = u32::try_from(sums.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes()
        .to_vec();
    rest.extend(sums.iter().flat_map(|sum| sum.records.to_le_bytes()));
    rest.extend(message.encode_to_vec());
    let mut bytes = MAGIC.to_vec();
    bytes.extend(crc32fast::hash(&rest).to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// The batch of a file's contents; `None` if they are damaged.
pub(super) fn decode(bytes: &[u8]) -> Option<Batch> {
    let bytes = bytes.strip_prefix(MAGIC)?;
    let (checksum, rest) = bytes.split_first_chunk::<4>()?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (records, message) = rest.split_at_checked(count.checked_mul(8)?)?;
    let (records, _) = records.as_chunks::<8>();
    let message = IncrementBatchRequest::decode(message).ok()?;
    let key = Uuid::parse_str(&message.idempotency_key).ok()?;
    // Otherwise usage without its number of records would be dropped.
    if message.increments.len() != records.len() {
        return None;
    }
    let increments = message.increments.into_iter().zip(records);
    let sums = increments.map(|(increment, records)| {
        Some(Sum {
            account: increment.account_id.into(),
            meter: increment.meter.into(),
            second: increment.timestamp?.seconds,
            quantity: increment.quantity?,
            records: u64::from_le_bytes(*records),
        })
    });
    let sums = sums.collect::<Option<_>>()?;
    Some(Batch { key, sums })
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::totals, *};
    use proptest::prelude::*;

    pub(in crate::recorder) fn sums() -> Vec<Sum> {
        let sum = |account: &str, second| Sum {
            account: account.into(),
            meter: "tokens".into(),
            second,
            quantity: 7,
            records: 3,
        };
        vec![sum("a", 1_700_000_000), sum("b", 1_700_000_001)]
    }

    /// A file with these contents and their checksum.
    fn with_checksum(contents: &[u8]) -> Vec<u8> {
        let checksum = crc32fast::hash(contents).to_le_bytes();
        [&MAGIC[..], &checksum, contents].concat()
    }

    #[test]
    fn a_file_whose_parts_do_not_match_is_damaged() {
        let key = Uuid::now_v7();
        let whole = encode(key, &sums());
        let start = MAGIC.len() + 4;
        for (count, length) in [(0_u32, 0), (1, 8), (3, 24)] {
            let message = &whole[start + 4 + 16..];
            let records = vec![1; length];
            let contents = [&count.to_le_bytes()[..], &records, message].concat();
            assert_eq!(decode(&with_checksum(&contents)), None, "{count}");
        }
        assert_eq!(
            decode(&with_checksum(&whole[start..])).unwrap().sums,
            sums()
        );
    }

    proptest! {
        /// A byte that is changed, removed, added or doubled, and a file that is cut or written twice.
        #[test]
        fn a_changed_file_is_damaged_and_never_other_usage(
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            kind in 0..6,
        ) {
            let whole = encode(Uuid::now_v7(), &sums());
            let place = place.index(whole.len());
            let mut changed = whole.clone();
            match kind {
                0 => changed[place] = byte,
                1 => drop(changed.remove(place)),
                2 => changed.insert(place, byte),
                3 => changed.truncate(place),
                4 => changed.extend_from_slice(&whole),
                _ => changed.extend_from_within(place..),
            }
            prop_assert!(changed == whole || decode(&changed).is_none());
        }

        #[test]
        fn any_contents_are_read_without_a_panic(
            contents in proptest::collection::vec(any::<u8>(), 0..300),
            count in 0..4_u32,
        ) {
            prop_assert_eq!(decode(&contents), None);
            let _ = decode(&with_checksum(&contents));
            let counted = [&count.to_le_bytes()[..], &contents].concat();
            if let Some(batch) = decode(&with_checksum(&counted)) {
                let _ = totals(&batch.sums);
            }
        }
    }
}
