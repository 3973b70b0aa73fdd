//! Calls of any method by its path, with a message as bytes, and what every answer must be.

use http::uri::PathAndQuery;
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    operations::access::first_admin,
    support::{
        raw_messages::Raw,
        world::{World, within},
    },
};

/// Messages of a stream that are read before the call is given up.
const MAX_MESSAGES: usize = 3;

/// A connection that calls with a key.
pub(super) struct Caller {
    channel: Channel,
    key: String,
    key_id: String,
}

impl Caller {
    /// Calls as an admin. No key must exist yet.
    pub(super) async fn admin(world: &World) -> Self {
        let (known, key) = first_admin(world).await;
        Self {
            channel: world.grpc_channel().await,
            key,
            key_id: known.id,
        }
    }

    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Calls a method, and returns the first messages of its answer.
    pub(super) async fn call(&self, path: &str, message: Vec<u8>) -> Result<Vec<Vec<u8>>, Status> {
        within(path, self.answer(path, message)).await
    }

    async fn answer(&self, path: &str, message: Vec<u8>) -> Result<Vec<Vec<u8>>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.expect("a connection");
        let mut request = Request::new(message);
        let bearer = format!("Bearer {}", self.key).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let path: PathAndQuery = path.parse().unwrap();
        let answer = grpc.server_streaming(request, path.clone(), Raw).await?;
        let mut stream = answer.into_inner();
        let mut messages = Vec::new();
        // The watch of the health service sends nothing more while nothing changes.
        let max = if path.path().ends_with("/Watch") {
            1
        } else {
            MAX_MESSAGES
        };
        while messages.len() < max {
            match stream.message().await? {
                Some(message) => messages.push(message),
                None => break,
            }
        }
        Ok(messages)
    }
}

/// Whether an error is one that a caller may get: never a defect of the server, and if the request is wrong, it says which
/// field is. A message that cannot be read has no field.
pub(super) fn check_refusal(status: &Status, is_readable: bool) -> Result<(), String> {
    let is_defect = matches!(
        status.code(),
        Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::Unimplemented
            | Code::Unauthenticated
    );
    if is_defect {
        return Err(format!("a defect: {status:?}"));
    }
    if status.message().is_empty() || status.message().len() > 4_000 {
        return Err(format!("no message, or a long one: {status:?}"));
    }
    if status.code() != Code::InvalidArgument || !is_readable {
        return Ok(());
    }
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| &bad.field_violations);
    let names_fields = violations.is_some_and(|violations| {
        !violations.is_empty() && violations.iter().all(|one| !one.field.is_empty())
    });
    if names_fields {
        Ok(())
    } else {
        Err(format!("no field is named: {status:?} {details:?}"))
    }
}
