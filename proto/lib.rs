//! The contract of usage-billing, compiled from `proto/usage/v1/*.proto`.
//!
//! The comments of the proto files are the API reference. They appear on every item below.

pub mod amounts;

/// Version 1 of the contract.
#[allow(
    clippy::pedantic,
    clippy::as_conversions,
    clippy::allow_attributes_without_reason,
    clippy::arithmetic_side_effects,
    unused_qualifications,
    reason = "generated code; `missing_docs` stays on, so that every proto item needs a comment"
)]
pub mod v1 {
    tonic::include_proto!("usage.v1");

    impl std::fmt::Debug for CreateKeyResponse {
        /// Leaves out the key's text.
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("CreateKeyResponse")
                .field("key", &self.key)
                .finish_non_exhaustive()
        }
    }

    /// The domain of every `google.rpc.ErrorInfo` that the service sends.
    pub const ERROR_DOMAIN: &str = "usage-billing";

    /// The metadata of a `google.rpc.ErrorInfo` that names the line of the server's log with the cause, as the field
    /// `cause_id`. Only errors whose cause is in the log have it, and errors with the same cause have the same.
    pub const CAUSE_ID: &str = "cause_id";

    /// The encoded `FileDescriptorSet` of this package, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/usage_v1_descriptor.bin"));
}

/// Compiles the code in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
