//! The names in the contract that are values of labels: the methods, and the reasons of errors.

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// The enum whose values are the reasons of errors.
const REASONS: &str = "ErrorReason";

/// Each method of the server, such as `usage.v1.UsageService/Get`.
pub(super) fn methods() -> Vec<String> {
    let mut methods = Vec::new();
    for file in files() {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            let of_service = service.method.iter();
            methods.extend(of_service.map(|method| format!("{service_name}/{}", method.name())));
        }
    }
    methods
}

/// Each reason of an error, such as `OVERLOADED`.
pub(super) fn reasons() -> Vec<String> {
    let files = files();
    let enums = files.iter().flat_map(|file| &file.enum_type);
    let reasons = enums.filter(|found| found.name() == REASONS);
    let prefix = "ERROR_REASON_";
    reasons
        .flat_map(|found| &found.value)
        .filter_map(|value| value.name().strip_prefix(prefix))
        .filter(|name| *name != "UNSPECIFIED")
        .map(str::to_owned)
        .collect()
}

/// The files of the contract, and those of health and reflection.
fn files() -> Vec<prost_types::FileDescriptorProto> {
    [
        usage_proto::v1::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ]
    .into_iter()
    // They are generated from the same files as the code.
    .filter_map(|set| FileDescriptorSet::decode(set).ok())
    .flat_map(|set| set.file)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_has_methods_and_reasons() {
        let methods = methods();
        for method in [
            "usage.v1.UsageService/Increment",
            "grpc.health.v1.Health/Check",
        ] {
            assert!(methods.iter().any(|found| found == method), "{methods:?}");
        }
        let reasons = reasons();
        assert!(
            reasons.iter().any(|reason| reason == "OVERLOADED"),
            "{reasons:?}"
        );
    }
}
