//! The header `traceparent`, which joins the spans of several programs into one trace.
//!
//! Source: <https://www.w3.org/TR/trace-context/#traceparent-header>.

use std::fmt;

/// The length of version 00: version, trace, parent and flags in hexadecimal digits, with hyphens between them.
const LENGTH: usize = 55;
/// The longest header of a later version that is read.
const MAX_LENGTH: usize = 256;
/// The flag of a trace that its caller records.
const SAMPLED: u8 = 1;

/// The trace of a request, and the caller's span in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    parent: u64,
    flags: u8,
}

impl TraceParent {
    /// A span of a trace. None if one of the two is zero, which names nothing.
    pub fn new(trace: u128, parent: u64, is_sampled: bool) -> Option<Self> {
        (trace != 0 && parent != 0).then_some(Self {
            trace,
            parent,
            flags: if is_sampled { SAMPLED } else { 0 },
        })
    }

    /// Reads the header. A later version may have more at its end, which is not read.
    pub fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let mut part = |digits: usize| {
            let part = parts.next()?;
            let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            (part.len() == digits && part.bytes().all(is_hex)).then_some(part)
        };
        let version = part(2)?;
        let trace = u128::from_str_radix(part(32)?, 16).ok()?;
        let parent = u64::from_str_radix(part(16)?, 16).ok()?;
        let flags = u8::from_str_radix(part(2)?, 16).ok()?;
        let is_complete = match version {
            "ff" => false,
            "00" => rest.is_empty(),
            _ => (rest.is_empty() || rest.starts_with('-')) && text.len() <= MAX_LENGTH,
        };
        let named = is_complete.then(|| Self::new(trace, parent, flags & SAMPLED != 0));
        named.flatten()
    }

    /// The trace.
    pub fn trace(&self) -> u128 {
        self.trace
    }

    /// The caller's span.
    pub fn parent(&self) -> u64 {
        self.parent
    }

    /// Whether the caller records the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The trace as in the header: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// The header, in version 00.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace,
            parent,
            flags,
        } = self;
        write!(f, "00-{trace:032x}-{parent:016x}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[test]
    fn a_header_of_version_00_has_four_parts() {
        let header = format!("00-{TRACE}-{PARENT}-01");
        let read = TraceParent::parse(&header).unwrap();
        assert_eq!(read.trace_id(), TRACE);
        assert!(read.is_sampled());
        assert_eq!(read.to_string(), header);
        let unsampled = TraceParent::parse(&format!("00-{TRACE}-{PARENT}-00")).unwrap();
        assert!(!unsampled.is_sampled());
        // Flags that are not known are not passed on.
        let flags = TraceParent::parse(&format!("00-{TRACE}-{PARENT}-ff")).unwrap();
        assert_eq!(flags.to_string(), header);
    }

    #[test]
    fn a_later_version_may_be_longer() {
        for good in [
            format!("01-{TRACE}-{PARENT}-01"),
            format!("cc-{TRACE}-{PARENT}-01-what-comes-later"),
        ] {
            let read = TraceParent::parse(&good).unwrap();
            assert_eq!(read.to_string(), format!("00-{TRACE}-{PARENT}-01"));
        }
    }

    #[test]
    fn another_header_is_not_read() {
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("00-{TRACE}-{PARENT}-01."),
            format!("cc-{TRACE}-{PARENT}-01.more"),
            format!("cc-{TRACE}-{PARENT}-01-{}", "x".repeat(MAX_LENGTH)),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{zeros}-{PARENT}-01"),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{PARENT}-+1"),
            format!("00_{TRACE}_{PARENT}_01"),
            format!("00-{TRACE}{PARENT}--01"),
        ] {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,80}") {
            if let Some(read) = TraceParent::parse(&text) {
                prop_assert_eq!(TraceParent::parse(&read.to_string()), Some(read));
            }
        }

        #[test]
        fn what_is_written_is_read(trace in 1_u128.., parent in 1_u64.., is_sampled: bool) {
            let new = TraceParent::new(trace, parent, is_sampled).unwrap();
            prop_assert_eq!(TraceParent::parse(&new.to_string()), Some(new));
        }
    }
}
