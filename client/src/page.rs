//! Paging: what both lists of the contract share.

/// The size of a page as it is asked for on the wire; the server cuts what is too large.
pub(crate) fn size_to_wire(size: u32) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

/// What the wire leaves empty is absent.
pub(crate) fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
