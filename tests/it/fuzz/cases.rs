//! The files of `corpus/requests/`: a method, and a message in JSON that a call of it once got wrong.

use prost::Message as _;
use prost_reflect::DynamicMessage;
use serde_json::Value;

use super::messages::methods;

/// A request of the corpus.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) json: Value,
}

impl Case {
    /// The message as bytes.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let method = methods().into_iter().find(|(path, _)| *path == self.path);
        let (_, method) = method.unwrap_or_else(|| panic!("{}: no such method", self.name));
        let message = DynamicMessage::deserialize(method.input(), &self.json);
        let message = message.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        message.encode_to_vec()
    }
}

/// All requests of the corpus.
pub(super) fn requests() -> Vec<Case> {
    let files = super::corpus("requests").into_iter();
    files
        .map(|(name, text)| {
            let mut read: Value = serde_json::from_slice(&text).unwrap();
            Case {
                path: read["method"].as_str().unwrap().to_owned(),
                json: read["message"].take(),
                name,
            }
        })
        .collect()
}
