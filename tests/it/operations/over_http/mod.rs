//! The services over HTTP: JSON by the Connect protocol, gRPC-Web, and their description.

mod browsers;
mod calls;
mod errors;
mod examples;
mod hostile;
mod official_client;
mod openapi;
mod sockets;
mod streams;

use reqwest::{Client, header::HeaderMap};
use serde_json::Value;

use crate::support::world::{World, within};

pub(super) const INCREMENT: &str = "/usage.v1.UsageService/Increment";
pub(super) const GET: &str = "/usage.v1.UsageService/Get";
const JSON: (&str, &str) = ("content-type", "application/json");

/// An answer over HTTP/1.1.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The same, or null if it is none.
    fn json_or_null(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The reason in the details of an error.
    fn reason(&self) -> String {
        let info = detail(&self.json(), "google.rpc.ErrorInfo");
        info["debug"]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The code and the reason of an error.
    #[track_caller]
    fn assert_error(&self, status: u16, code: &str, reason: &str) {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.json()["code"], code, "{}", self.text());
        assert_eq!(self.reason(), reason, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/json");
    }
}

/// The detail of an error with this type; null without one.
fn detail(error: &Value, name: &str) -> Value {
    let details = error["details"].as_array().cloned().unwrap_or_default();
    let mut found = details.into_iter().filter(|one| one["type"] == name);
    found.next().unwrap_or_default()
}

fn client() -> Client {
    // A proxy from the environment must not be used for a server on loopback.
    Client::builder().no_proxy().build().unwrap()
}

/// Sends a request.
async fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> Answer {
    let method = method.parse().unwrap();
    let mut request = client().request(method, url).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    within("an answer", async {
        let answer = request.send().await.expect("an answer");
        Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: answer.bytes().await.expect("a body").to_vec(),
        }
    })
    .await
}

/// Calls a method with a message in JSON, perhaps with a key.
async fn call(world: &World, path: &str, key: Option<&str>, message: &Value) -> Answer {
    let url = format!("{}{path}", world.http_url());
    let bearer = format!("Bearer {}", key.unwrap_or_default());
    let with_key = [JSON, ("authorization", &*bearer)];
    let headers = if key.is_some() {
        &with_key[..]
    } else {
        &[JSON]
    };
    send("POST", &url, headers, message.to_string()).await
}

/// The same with other headers, and any body.
async fn post(
    world: &World,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> Answer {
    let url = format!("{}{path}", world.http_url());
    send("POST", &url, headers, body).await
}

/// A message in an envelope.
fn envelope(flags: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flags];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    bytes
}

/// The messages of a stream, each with its flags.
fn envelopes(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut messages = Vec::new();
    while let Some((prefix, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
        let (message, rest) = rest.split_at(usize::try_from(length).unwrap());
        messages.push((prefix[0], message.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "{bytes:?}");
    messages
}
