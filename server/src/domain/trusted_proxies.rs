//! Which proxies may say where a request comes from, and what they say in `X-Forwarded-For`. Pure.
//!
//! Each proxy adds the address of its own client at the right end. Whatever stands further left was sent by that client, which
//! can make it up. So the header is read from the right, for as long as the addresses are those of trusted proxies.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::{self, FromStr},
    sync::Arc,
};

/// The most ranges of a setting.
pub const MAX_RANGES: usize = 100;
/// The most addresses that are read before one is found that is not trusted.
const MAX_READ: usize = 20;
/// The longest address with its port, in bytes.
const MAX_ADDRESS_BYTES: usize = 64;

/// One address, or a range of them in the notation of CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    /// The bits that all addresses of the range have in common.
    prefix: u32,
}

impl AddressRange {
    /// Whether an address, which is not one of IPv4 in the form of IPv6, is in the range.
    fn contains(self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first_of(address) == self.first
    }

    /// The first address of a range with this prefix that an address is in.
    fn first_of(self, address: IpAddr) -> IpAddr {
        let (address, prefix) = match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), self.prefix.saturating_add(96)),
            IpAddr::V6(address) => (address, self.prefix),
        };
        let mask = u128::MAX.unbounded_shl(128_u32.saturating_sub(prefix));
        IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask)).to_canonical()
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || {
            format!(
                "{text:?} is neither an address nor a range, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"
            )
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| wrong())?;
        let first = written.to_canonical();
        if first != written {
            return Err(format!(
                "{text:?} is of IPv4: write it as one of IPv4, such as {first}"
            ));
        }
        let bits: u32 = if first.is_ipv4() { 32 } else { 128 };
        let prefix: u32 = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| wrong())?,
            None => bits,
        };
        if prefix == 0 {
            return Err(format!(
                "{text:?} would trust everyone to write any address; name the addresses of your proxies"
            ));
        }
        if prefix > bits {
            return Err(format!(
                "{text:?} has a prefix of {prefix} bits, and the address has {bits}"
            ));
        }
        let range = Self { first, prefix };
        let first = range.first_of(first);
        if first != range.first {
            return Err(format!(
                "{text:?} is not the beginning of a range: write {first}/{prefix}"
            ));
        }
        Ok(range)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.first.is_ipv4() { 32 } else { 128 };
        if self.prefix == bits {
            self.first.fmt(f)
        } else {
            write!(f, "{}/{}", self.first, self.prefix)
        }
    }
}

/// The proxies that are trusted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustedProxies(Arc<[AddressRange]>);

impl TrustedProxies {
    /// Those with an address in one of these ranges.
    pub fn new(ranges: &[AddressRange]) -> Self {
        Self(ranges.into())
    }

    /// The address of the client behind a connection from `peer`, by the lines of `X-Forwarded-For`: the rightmost one that is
    /// not of a trusted proxy; the leftmost one if all are. `None` if the connection is not from a trusted proxy, or
    /// if the lines are empty, cannot be read that far or name too many proxies.
    pub fn client_of<'a>(
        &self,
        peer: IpAddr,
        lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        if !self.trusts(peer.to_canonical()) {
            return None;
        }
        let from_right = lines
            .rev()
            .flat_map(|line| line.rsplit(|byte| *byte == b','));
        let mut leftmost = None;
        for (read, text) in from_right.enumerate() {
            if read >= MAX_READ {
                return None;
            }
            let address = parse_address(text)?;
            if !self.trusts(address) {
                return Some(address);
            }
            leftmost = Some(address);
        }
        leftmost
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(address))
    }
}

/// An address as proxies write it: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]` or `[2001:db8::7]:80`.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = text.trim_ascii();
    if text.len() > MAX_ADDRESS_BYTES {
        return None;
    }
    let text = str::from_utf8(text).ok()?;
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let is_port = port.is_empty() || is_port(port.strip_prefix(':')?);
        let address = address.parse().ok().filter(|_| is_port);
        IpAddr::V6(address?)
    } else if let Ok(address) = text.parse() {
        address
    } else {
        let (address, port) = text.split_once(':')?;
        let address = address.parse().ok().filter(|_| is_port(port));
        IpAddr::V4(address?)
    };
    Some(address.to_canonical())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(ranges: &[&str]) -> TrustedProxies {
        let ranges: Vec<AddressRange> = ranges.iter().map(|text| text.parse().unwrap()).collect();
        TrustedProxies::new(&ranges)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Whom the lines name behind a proxy at 10.0.0.1, which is trusted like all of its network.
    fn named(lines: &[&str]) -> Option<String> {
        let lines = lines.iter().map(|line| line.as_bytes());
        let client =
            proxies(&["10.0.0.0/8", "2001:db8:1::/48"]).client_of(address("10.0.0.1"), lines);
        client.map(|client| client.to_string())
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        for (lines, client) in [
            (&["192.0.2.7"][..], "192.0.2.7"),
            (&[" 192.0.2.7\t, 10.0.0.2,10.0.0.3"], "192.0.2.7"),
            // What the client itself has sent.
            (&["10.0.0.9, 198.51.100.1, 192.0.2.7"], "192.0.2.7"),
            (&["unknown, , <script>, 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
            (&["198.51.100.1", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
            (&["192.0.2.7:1234"], "192.0.2.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7], 2001:db8:1::1"], "2001:db8::7"),
            (&["[2001:db8::7]:443, [2001:db8:1::1]:1"], "2001:db8::7"),
            (&["::ffff:192.0.2.7, ::ffff:10.0.0.2"], "192.0.2.7"),
            // All are trusted: it is one of the own network.
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ] {
            assert_eq!(named(lines).as_deref(), Some(client), "{lines:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_names_no_client() {
        let long = format!("192.0.2.7{}", " x".repeat(40));
        for lines in [
            &[][..],
            &[""],
            &[","],
            &["192.0.2.7,"],
            &["192.0.2.7", ""],
            &["192.0.2.7, unknown"],
            &["192.0.2.7, _hidden, 10.0.0.2"],
            &["192.0.2.7, fe80::1%eth0"],
            &["[fe80::1%1]:80"],
            &["[2001:db8::7"],
            &["2001:db8::7]"],
            &["[2001:db8::7]80"],
            &["[2001:db8::7]:"],
            &["[192.0.2.7]:80"],
            &["192.0.2.7:80:80"],
            &["192.0.2.7:65536"],
            &["192.0.2.7:http"],
            &["192.0.2.07"],
            &["192.0.2"],
            &["3221226000"],
            &["\"192.0.2.7\""],
            &["for=192.0.2.7"],
            &["192.0.2.7 198.51.100.1"],
            &["usage.example"],
            &[long.as_str()],
        ] {
            assert_eq!(named(lines), None, "{lines:?}");
        }
        let bytes = [&b"192.0.2.7, \xff\xfe"[..]];
        let proxies = proxies(&["10.0.0.1"]);
        assert_eq!(
            proxies.client_of(address("10.0.0.1"), bytes.into_iter()),
            None
        );
    }

    #[test]
    fn only_trusted_proxies_may_be_many() {
        let many = |address: &str, count: usize| vec![address; count].join(", ");
        let made_up = format!("{}, 192.0.2.7", many("198.51.100.1", 100));
        assert_eq!(named(&[&made_up]).as_deref(), Some("192.0.2.7"));
        let most = format!("192.0.2.7, {}", many("10.0.0.2", MAX_READ - 1));
        assert_eq!(named(&[&most]).as_deref(), Some("192.0.2.7"));
        for count in [MAX_READ, 100, 2_000] {
            let more = format!("192.0.2.7, {}", many("10.0.0.2", count));
            assert_eq!(named(&[&more]), None, "{count}");
        }
    }

    #[test]
    fn others_name_no_client() {
        let lines = || [&b"198.51.100.1"[..]].into_iter();
        let trusted = proxies(&["192.0.2.7", "2001:db8::/32"]);
        for peer in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8:ffff::1"] {
            let client = trusted.client_of(address(peer), lines());
            assert_eq!(client, Some(address("198.51.100.1")), "{peer}");
        }
        for peer in ["192.0.2.6", "192.0.2.8", "2001:db9::1", "::1", "127.0.0.1"] {
            assert_eq!(trusted.client_of(address(peer), lines()), None, "{peer}");
            assert_eq!(proxies(&[]).client_of(address(peer), lines()), None);
        }
    }

    #[test]
    fn a_range_begins_with_its_first_address() {
        for text in [
            "192.0.2.7",
            "10.0.0.0/8",
            "128.0.0.0/1",
            "::1",
            "2001:db8::/32",
            "fc00::/7",
        ] {
            assert_eq!(text.parse::<AddressRange>().unwrap().to_string(), text);
        }
        assert_eq!(
            " 192.0.2.7/32 "
                .parse::<AddressRange>()
                .unwrap()
                .to_string(),
            "192.0.2.7"
        );
        for (wrong, advice) in [
            ("", "neither an address nor a range"),
            ("proxy.example", "neither an address nor a range"),
            ("10.0.0.0/", "neither an address nor a range"),
            ("10.0.0.0/x", "neither an address nor a range"),
            ("10.0.0.0/-1", "neither an address nor a range"),
            ("10.0.0.1:80", "neither an address nor a range"),
            ("fe80::1%eth0", "neither an address nor a range"),
            ("10.1.2.3/8", "write 10.0.0.0/8"),
            ("2001:db8::1/64", "write 2001:db8::/64"),
            ("10.0.0.0/33", "the address has 32"),
            ("::1/129", "the address has 128"),
            ("0.0.0.0/0", "would trust everyone"),
            ("::/0", "would trust everyone"),
            ("::ffff:10.0.0.1", "such as 10.0.0.1"),
        ] {
            let error = wrong.parse::<AddressRange>().unwrap_err();
            assert!(error.contains(advice), "{error}");
        }
        // No range of IPv6 has addresses of IPv4.
        let lines = [&b"198.51.100.1"[..]].into_iter();
        assert_eq!(
            proxies(&["::/1"]).client_of(address("10.0.0.1"), lines),
            None
        );
    }

    proptest! {
        #[test]
        fn whatever_is_left_of_the_client_changes_nothing(left in "[ -~]{0,200}") {
            let line = format!("{left},192.0.2.7, 10.0.0.2");
            prop_assert_eq!(named(&[&line]), Some("192.0.2.7".to_owned()));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..5)) {
            let lines = lines.iter().map(Vec::as_slice);
            let client = proxies(&["10.0.0.0/8"]).client_of(address("10.0.0.1"), lines);
            prop_assert!(client.is_none_or(|client| client.to_canonical() == client));
        }
    }
}
