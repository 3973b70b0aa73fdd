//! Compiles `proto/` with protox, a protobuf compiler written in Rust: `protoc` is not needed.

use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 9] = [
    "usage/v1/access_service.proto",
    "usage/v1/account_service.proto",
    "usage/v1/error_reason.proto",
    "usage/v1/operations_service.proto",
    "usage/v1/period.proto",
    "usage/v1/report_run.proto",
    "usage/v1/sign_off.proto",
    "usage/v1/usage_report.proto",
    "usage/v1/usage_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out_dir.join("usage_v1_descriptor.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .build_transport(false)
        // It contains a secret.
        .skip_debug([".usage.v1.CreateKeyResponse"])
        .compile_fds(descriptors)?;
    Ok(())
}
