//! Errors as the Connect protocol writes them: the code by name, the message, and the details with their JSON beside them.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use http::StatusCode;
use prost::Message as _;
use serde::Serialize;
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::pb;

use crate::contract::{Contract, to_json};

/// The status of HTTP for a code.
pub(crate) fn http_status(code: Code) -> StatusCode {
    let status = match code {
        Code::Ok => 200,
        // The client closed the request.
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The name of a code.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "canceled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// An error of the Connect protocol.
#[derive(Debug, Serialize)]
pub(super) struct ErrorJson {
    code: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

#[derive(Debug, Serialize)]
struct Detail {
    r#type: String,
    /// The message as protobuf, in base64.
    value: String,
    /// The same as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<Value>,
}

/// The last message of a stream.
#[derive(Debug, Serialize)]
pub(super) struct End {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson>,
}

impl End {
    /// That of a stream that ended with this status.
    pub(super) fn of(contract: &Contract, status: &Status) -> Self {
        let is_error = status.code() != Code::Ok;
        let error = is_error.then(|| ErrorJson::of(contract, status));
        Self { error }
    }
}

impl ErrorJson {
    /// The error of a status that is not `Ok`.
    pub(super) fn of(contract: &Contract, status: &Status) -> Self {
        // Written by this service.
        let details = pb::Status::decode(status.details()).unwrap_or_default();
        let details = details.details.iter();
        Self {
            code: code_name(status.code()),
            message: status.message().to_owned(),
            details: details.map(|one| Detail::of(contract, one)).collect(),
        }
    }
}

impl Detail {
    fn of(contract: &Contract, any: &prost_types::Any) -> Self {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        let message = contract.message(name);
        let debug = message.and_then(|message| to_json(&message, &any.value).ok());
        Self {
            r#type: name.to_owned(),
            value: STANDARD_NO_PAD.encode(&any.value),
            debug: debug.and_then(|text| serde_json::from_slice(&text).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::violation::Violation, error::Error};

    #[test]
    fn an_error_has_its_code_message_reason_and_details() {
        let contract = Contract::shared().unwrap();
        let error = Error::from(Violation::invalid("quantity", "too large"));
        let json = ErrorJson::of(&contract, &error.into());
        let json = serde_json::to_value(json).unwrap();
        assert_eq!(json["code"], "invalid_argument");
        assert_eq!(json["message"], "too large");
        let details = json["details"].as_array().unwrap();
        let info = details
            .iter()
            .find(|detail| detail["type"] == "google.rpc.ErrorInfo")
            .unwrap();
        assert_eq!(info["debug"]["reason"], "INVALID_FIELD");
        let value = info["value"].as_str().unwrap();
        let bytes = STANDARD_NO_PAD.decode(value).unwrap();
        assert_eq!(
            pb::ErrorInfo::decode(&*bytes).unwrap().reason,
            "INVALID_FIELD"
        );
        let fields = details
            .iter()
            .find(|detail| detail["type"] == "google.rpc.BadRequest")
            .unwrap();
        assert_eq!(fields["debug"]["fieldViolations"][0]["field"], "quantity");
    }

    #[test]
    fn each_code_has_the_name_and_status_of_the_protocol() {
        let codes: Vec<(String, u16)> = (0..17)
            .map(|code| {
                (
                    code_name(Code::from(code)).to_owned(),
                    http_status(Code::from(code)).as_u16(),
                )
            })
            .collect();
        let expected = [
            ("ok", 200),
            ("canceled", 499),
            ("unknown", 500),
            ("invalid_argument", 400),
            ("deadline_exceeded", 504),
            ("not_found", 404),
            ("already_exists", 409),
            ("permission_denied", 403),
            ("resource_exhausted", 429),
            ("failed_precondition", 400),
            ("aborted", 409),
            ("out_of_range", 400),
            ("unimplemented", 501),
            ("internal", 500),
            ("unavailable", 503),
            ("data_loss", 500),
            ("unauthenticated", 401),
        ];
        let expected = expected.map(|(name, status)| (name.to_owned(), status));
        assert_eq!(codes, expected);
    }
}
