//! The contract as data: which methods there are, their messages as JSON, and their description for OpenAPI.
//!
//! All of it is read from the descriptors of the compiled contract, so that a new method or field needs no code here.

mod comments;
mod json;
mod json_shape;
mod openapi;
mod schemas;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor, ServiceDescriptor};
use prost_types::{FileDescriptorSet, method_options::IdempotencyLevel};

use self::comments::Comments;
pub(crate) use self::json::{JsonError, to_json, to_protobuf};

/// The descriptors of what is served over HTTP, and of the details of errors.
const SETS: [&[u8]; 3] = [
    usage_proto::v1::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_types::pb::FILE_DESCRIPTOR_SET,
];

/// The methods that are served over HTTP, and the types of their messages and errors.
#[derive(Debug)]
pub(crate) struct Contract {
    pool: DescriptorPool,
    methods: HashMap<String, Method>,
    comments: Comments,
    /// The description as text, once it was asked for.
    openapi: OnceLock<Bytes>,
}

/// A method.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    /// The type of its request.
    pub(crate) input: MessageDescriptor,
    /// The type of its answer, or of each message of it.
    pub(crate) output: MessageDescriptor,
    /// Whether it answers with a stream of messages.
    pub(crate) is_stream: bool,
    /// Whether it only reads, so that a GET request may call it.
    pub(crate) has_no_side_effects: bool,
    descriptor: MethodDescriptor,
}

impl Contract {
    /// The contract of this program, which is read once.
    ///
    /// # Errors
    /// The descriptors do not belong together; a defect of the build.
    pub(crate) fn shared() -> Result<Arc<Self>, prost_reflect::DescriptorError> {
        static SHARED: OnceLock<Arc<Contract>> = OnceLock::new();
        if let Some(read) = SHARED.get() {
            return Ok(Arc::clone(read));
        }
        let read = Arc::new(Self::read()?);
        Ok(Arc::clone(SHARED.get_or_init(|| read)))
    }

    fn read() -> Result<Self, prost_reflect::DescriptorError> {
        let mut pool = DescriptorPool::new();
        let mut comments = Comments::default();
        for set in SETS {
            pool.decode_file_descriptor_set(set)?;
            comments.read(&FileDescriptorSet::decode(set).unwrap_or_default());
        }
        let methods = pool
            .services()
            .flat_map(|service| methods_of(&service))
            .collect();
        Ok(Self {
            pool,
            methods,
            comments,
            openapi: OnceLock::new(),
        })
    }

    /// The description as OpenAPI, in JSON.
    pub(crate) fn openapi_text(&self) -> Bytes {
        let text = || Bytes::from(self.openapi().to_string());
        self.openapi.get_or_init(text).clone()
    }

    /// The method with this path, such as `/usage.v1.UsageService/Get`.
    pub(crate) fn method(&self, path: &str) -> Option<&Method> {
        self.methods.get(path)
    }

    /// The type of messages with this full name.
    pub(crate) fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(name)
    }

    /// All methods by their paths.
    fn sorted_methods(&self) -> BTreeMap<&str, &Method> {
        let methods = self.methods.iter();
        methods.map(|(path, of)| (path.as_str(), of)).collect()
    }
}

fn methods_of(service: &ServiceDescriptor) -> Vec<(String, Method)> {
    let methods = service.methods();
    let methods = methods.map(|descriptor| {
        let path = format!("/{}/{}", service.full_name(), descriptor.name());
        let options = descriptor.method_descriptor_proto().options.as_ref();
        let level = options.map(prost_types::MethodOptions::idempotency_level);
        let method = Method {
            input: descriptor.input(),
            output: descriptor.output(),
            is_stream: descriptor.is_server_streaming(),
            has_no_side_effects: level == Some(IdempotencyLevel::NoSideEffects),
            descriptor,
        };
        (path, method)
    });
    methods.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::method_roles::METHODS;

    #[test]
    fn every_method_but_reflection_is_served() {
        let contract = Contract::read().unwrap();
        for (path, _) in METHODS {
            let is_served = contract.method(path).is_some();
            assert_eq!(is_served, !path.starts_with("/grpc.reflection."), "{path}");
        }
    }

    /// A link in a web page can make a GET request.
    #[test]
    fn only_what_reads_may_be_called_by_get() {
        let contract = Contract::read().unwrap();
        let methods = contract.sorted_methods().into_iter();
        let reads: Vec<&str> = methods
            .filter(|(_, method)| method.has_no_side_effects)
            .map(|(path, _)| path)
            .collect();
        assert_eq!(
            reads,
            [
                "/usage.v1.AccessService/ListAuditEntries",
                "/usage.v1.AccessService/ListKeys",
                "/usage.v1.AccountService/GetAccount",
                "/usage.v1.AccountService/ListAccounts",
                "/usage.v1.OperationsService/CompareShadow",
                "/usage.v1.OperationsService/Doctor",
                "/usage.v1.OperationsService/GetSignOff",
                "/usage.v1.OperationsService/ListRuns",
                "/usage.v1.UsageService/ExplainInvoice",
                "/usage.v1.UsageService/FindIncrement",
                "/usage.v1.UsageService/Get",
                "/usage.v1.UsageService/GetSummary",
                "/usage.v1.UsageService/ListMeters",
                "/usage.v1.UsageService/ListReports",
                "/usage.v1.UsageService/ListUsage",
                "/usage.v1.UsageService/Reconcile",
            ]
        );
    }
}
