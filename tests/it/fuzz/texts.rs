//! Texts and numbers that programs get wrong.

use crate::support::random::Random;

const NUMBERS: [i64; 18] = [
    0,
    1,
    -1,
    2,
    7,
    100,
    1_001,
    -86_400,
    65_536,
    1_000_000_000_000,
    999_999_999_999_999,
    1_000_000_000_000_000,
    2_147_483_647,
    -2_147_483_648,
    i64::MAX,
    i64::MIN,
    253_402_300_800,
    -62_135_596_801,
];

const TEXTS: [&str; 27] = [
    "",
    " ",
    "\0",
    "a\0b",
    "\u{202e}txet\u{202c}",
    "\u{feff}a",
    "a\u{301}\u{301}\u{301}",
    "\u{10ffff}",
    "\r\nset-cookie: a=b",
    "\u{1b}[31m",
    "../../../etc/passwd",
    "' OR 1=1 --",
    "\"); DROP TABLE commits; --",
    "<script>alert(1)</script>",
    "%00%n%s",
    "${jndi:ldap://a}",
    "NaN",
    "-1",
    "1e999",
    "9223372036854775808",
    "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:60Z",
    "+275760-09-13",
    "00000000-0000-0000-0000-000000000000",
    "İstanbul ß",
    "%",
    "_",
];

/// A text that is hostile in most cases.
pub(super) fn text(random: &mut Random) -> String {
    match random.below(8) {
        0 => "x".repeat(10_000),
        1 => "\u{1f4a9}".repeat(usize::try_from(1 + random.below(300)).unwrap()),
        2 => "k".repeat(usize::try_from(254 + random.below(4)).unwrap()),
        3 => noise(random),
        _ => random.pick(&TEXTS).to_owned(),
    }
}

/// Any characters, few of them.
pub(super) fn noise(random: &mut Random) -> String {
    let length = random.below(40);
    (0..length)
        .map(|_| {
            let code = match random.below(3) {
                0 => random.below(0x20),
                1 => random.below(0x80),
                _ => random.below(0x11_0000),
            };
            char::from_u32(u32::try_from(code).unwrap()).unwrap_or('\u{fffd}')
        })
        .collect()
}

/// Any bytes.
pub(super) fn bytes(random: &mut Random, max: i64) -> Vec<u8> {
    let length = random.below(max);
    (0..length)
        .map(|_| random.next().to_le_bytes()[0])
        .collect()
}

/// A number that is a limit in most cases.
pub(super) fn number(random: &mut Random) -> i64 {
    match random.below(4) {
        0 => i64::from_le_bytes(random.next().to_le_bytes()),
        1 => random.below(1_000),
        _ => random.pick(&NUMBERS),
    }
}

/// Changes, removes, cuts and doubles some bytes.
pub(super) fn damaged(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..=random.below(3) {
        let Ok(length @ 1..) = i64::try_from(bytes.len()) else {
            break;
        };
        let place = usize::try_from(random.below(length)).unwrap();
        match random.below(6) {
            0 => bytes[place] = random.next().to_le_bytes()[0],
            1 => bytes.truncate(place),
            2 => bytes.insert(place, random.next().to_le_bytes()[0]),
            3 => bytes.extend_from_within(place..),
            4 => drop(bytes.remove(place)),
            _ => bytes[place] ^= 1 << random.below(8),
        }
    }
    bytes
}
