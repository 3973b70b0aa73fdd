//! The description of the methods as OpenAPI 3.1, of what JSON over HTTP accepts and answers.

use serde_json::{Map, Value, json};

use super::{Contract, Method, schemas::Schemas};
use crate::domain::{
    access::Requirement,
    method_roles::{METHODS, requirement},
};

/// What the description begins with.
const ABOUT: &str = "Counts what customers use, shows it and bills it through Stripe.

These are the methods of the gRPC services, as JSON by the Connect protocol (https://connectrpc.com/docs/protocol). \
64-bit integers are texts, times are RFC 3339, and fields without a value are left out. A field that is not known is an error. \
Each answer has the header `x-request-id`.";

/// The errors of Connect, with their statuses of HTTP.
const CODES: [&str; 16] = [
    "canceled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

impl Contract {
    /// The whole description.
    pub(super) fn openapi(&self) -> Value {
        let mut schemas = Schemas::of(self);
        let mut paths = Map::new();
        for (path, method) in self.sorted_methods() {
            paths.insert(path.to_owned(), self.path_item(path, method, &mut schemas));
        }
        let mut components = schemas.into_map();
        components.insert("connect.Error".to_owned(), error_schema());
        components.insert("connect.ErrorInfo".to_owned(), self.error_info_schema());
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "usage-billing",
                "version": env!("CARGO_PKG_VERSION"),
                "description": ABOUT,
                "license": { "name": "MIT OR Apache-2.0" },
            },
            "security": [{ "apiKey": [] }, { "clientCertificate": [] }],
            "tags": self.tags(),
            "paths": paths,
            "components": {
                "schemas": components,
                "parameters": parameters(),
                "responses": { "error": error_response() },
                "securitySchemes": {
                    "apiKey": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "An API key, `ub_...`. Not needed before the first key exists.",
                    },
                    "clientCertificate": {
                        "type": "mutualTLS",
                        "description": "A client certificate with a role, if `TLS_CLIENT_ROLES` is set.",
                    },
                },
            },
        })
    }

    fn path_item(&self, path: &str, method: &Method, schemas: &mut Schemas<'_>) -> Value {
        let post = self.operation(path, method, schemas);
        let mut item = Map::new();
        if method.has_no_side_effects && !method.is_stream {
            item.insert("get".to_owned(), as_get(&post, &method.input));
        }
        item.insert("post".to_owned(), post);
        Value::Object(item)
    }

    fn operation(&self, path: &str, method: &Method, schemas: &mut Schemas<'_>) -> Value {
        let descriptor = &method.descriptor;
        let service = descriptor.parent_service();
        let file = descriptor.parent_file();
        let comment = self.comments.of(file.name(), descriptor.path());
        let (input, output) = (
            schemas.message(&method.input),
            schemas.message(&method.output),
        );
        let (request, answer) = if method.is_stream {
            let type_name = "application/connect+json";
            (
                json!({ type_name: { "schema": envelopes(&input) } }),
                json!({ type_name: { "schema": envelopes(&output) } }),
            )
        } else {
            (
                json!({ "application/json": { "schema": input } }),
                json!({ "application/json": { "schema": output } }),
            )
        };
        let needed = requirement(path);
        let mut operation = json!({
            "operationId": format!("{}_{}", service.name(), descriptor.name()),
            "tags": [service.full_name()],
            "summary": comment.split(". ").next().unwrap_or_default().replace('\n', " ").trim_end_matches('.'),
            "description": comment,
            "x-role": role(needed),
            "parameters": [
                { "$ref": "#/components/parameters/connectProtocolVersion" },
                { "$ref": "#/components/parameters/connectTimeoutMs" },
            ],
            "requestBody": { "required": true, "content": request },
            "responses": {
                "200": { "description": "The answer.", "content": answer },
                "default": { "$ref": "#/components/responses/error" },
            },
        });
        if needed == Some(Requirement::Nothing) {
            operation["security"] = json!([]);
        }
        operation
    }

    fn tags(&self) -> Vec<Value> {
        let served = |name: &str| {
            let prefix = format!("/{name}/");
            METHODS.iter().any(|(path, _)| path.starts_with(&prefix))
        };
        let services = self.pool.services();
        let services = services.filter(|service| served(service.full_name()));
        let tags = services.map(|service| {
            let file = service.parent_file();
            let comment = self.comments.of(file.name(), service.path());
            json!({ "name": service.full_name(), "description": comment })
        });
        tags.collect()
    }

    /// The detail that each error has.
    fn error_info_schema(&self) -> Value {
        let reasons = self.pool.get_enum_by_name("usage.v1.ErrorReason");
        let values: Vec<_> = reasons
            .iter()
            .flat_map(prost_reflect::EnumDescriptor::values)
            .collect();
        let short = |text: &str| text.trim_start_matches("ERROR_REASON_").to_owned();
        let named = values.iter().filter(|value| value.number() != 0);
        let texts = named.clone().map(|value| {
            let file = value.parent_enum().parent_file();
            let comment = self.comments.of(file.name(), value.path());
            format!(
                "- `{}`: {}",
                short(value.name()),
                comment.replace('\n', " ")
            )
        });
        let description: Vec<String> = texts.collect();
        let reasons: Vec<String> = named.map(|value| short(value.name())).collect();
        json!({
            "type": "object",
            "description": "`google.rpc.ErrorInfo`, which each error has: why the call failed.",
            "properties": {
                "reason": { "type": "string", "enum": reasons, "description": description.join("\n") },
                "domain": { "type": "string", "const": usage_proto::v1::ERROR_DOMAIN },
            },
            "required": ["reason", "domain"],
        })
    }
}

/// The same call as a GET request, with the message in the query.
fn as_get(post: &Value, input: &prost_reflect::MessageDescriptor) -> Value {
    let mut get = post.clone();
    if let Some(get) = get.as_object_mut() {
        get.remove("requestBody");
    }
    if let Some(id) = post["operationId"].as_str() {
        get["operationId"] = json!(format!("{id}_get"));
    }
    let schema = format!("#/components/schemas/{}", input.full_name());
    get["parameters"] = json!([
        { "$ref": "#/components/parameters/connectTimeoutMs" },
        { "name": "connect", "in": "query", "schema": { "const": "v1" }, "description": "The version of the protocol." },
        { "name": "encoding", "in": "query", "required": true, "schema": { "const": "json" } },
        {
            "name": "message", "in": "query", "required": true, "description": "The request.",
            "content": { "application/json": { "schema": { "$ref": schema } } },
        },
    ]);
    get
}

/// OpenAPI has no streams: what a body of envelopes holds is told in words and named.
fn envelopes(message: &Value) -> Value {
    json!({
        "type": "string",
        "contentMediaType": "application/connect+json",
        "description": "Envelopes of the Connect protocol: a byte of flags, the length in four bytes (big endian), and a message. \
            The last one of an answer has the flag 2, and the end of the stream with its error, if there is one.",
        "x-message": message,
    })
}

fn role(needed: Option<Requirement>) -> &'static str {
    match needed {
        Some(Requirement::Nothing) | None => "none",
        Some(Requirement::AnyRole) => "any",
        Some(Requirement::Role(role)) => role.name(),
    }
}

fn parameters() -> Value {
    json!({
        "connectProtocolVersion": {
            "name": "Connect-Protocol-Version", "in": "header", "schema": { "const": "1" },
            "description": "The version of the protocol. Optional.",
        },
        "connectTimeoutMs": {
            "name": "Connect-Timeout-Ms", "in": "header",
            "schema": { "type": "integer", "minimum": 0, "maximum": 9_999_999_999_i64 },
            "description": "After how many milliseconds the call fails with `deadline_exceeded`.",
        },
    })
}

fn error_response() -> Value {
    json!({
        "description": "An error. Its code decides the status of HTTP.",
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/connect.Error" } } },
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "An error of the Connect protocol.",
        "properties": {
            "code": { "type": "string", "enum": CODES },
            "message": { "type": "string" },
            "details": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": { "type": "string", "description": "The full name of the message." },
                        "value": { "type": "string", "contentEncoding": "base64", "description": "The message as protobuf, in base64 without padding." },
                        "debug": { "type": "object", "description": "The same as JSON." },
                    },
                    "required": ["type", "value"],
                    "if": { "properties": { "type": { "const": "google.rpc.ErrorInfo" } } },
                    "then": { "properties": { "debug": { "$ref": "#/components/schemas/connect.ErrorInfo" } } },
                },
                "contains": {
                    "properties": { "type": { "const": "google.rpc.ErrorInfo" } },
                    "required": ["type", "debug"],
                },
            },
        },
        "required": ["code", "details"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_described_with_its_comment_and_role() {
        let openapi = Contract::read().unwrap().openapi();
        let get = &openapi["paths"]["/usage.v1.UsageService/Get"];
        assert!(get["get"].is_object());
        assert_eq!(get["post"]["x-role"], "reader");
        assert_eq!(
            get["post"]["summary"],
            "Returns an account's usage in a period"
        );
        let increment = &openapi["paths"]["/usage.v1.UsageService/Increment"];
        assert!(increment["get"].is_null());
        let quantity = &openapi["components"]["schemas"]["usage.v1.IncrementRequest"]["properties"]
            ["quantity"];
        assert_eq!(quantity["type"], json!(["string", "integer"]));
        let check = &openapi["paths"]["/grpc.health.v1.Health/Check"]["post"];
        assert_eq!(check["security"], json!([]));
        for (path, _) in METHODS {
            let is_described = openapi["paths"][path]["post"].is_object();
            assert_eq!(
                is_described,
                !path.starts_with("/grpc.reflection."),
                "{path}"
            );
            if path.starts_with("/usage.v1.") {
                let text = openapi["paths"][path]["post"]["description"].as_str();
                assert!(text.unwrap().len() > 20, "{path}");
            }
        }
        let reasons =
            &openapi["components"]["schemas"]["connect.ErrorInfo"]["properties"]["reason"];
        assert!(reasons["enum"].as_array().unwrap().len() > 20);
    }
}
