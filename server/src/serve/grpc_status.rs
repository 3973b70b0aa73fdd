//! Where gRPC says how a call ended.

use http::HeaderMap;

/// The header or trailer with the number of the code.
pub(super) const STATUS: &str = "grpc-status";

/// The number of the code; absent where it follows in a trailer.
pub(super) fn code(headers: &HeaderMap) -> Option<usize> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}
