//! A server whose callers need API keys.

use std::process::{Command, Output};

use fake_stripe::FakeStripe;
use tonic::{Request, Status, metadata::MetadataValue, transport::Channel};
use usage_client::{
    Retry, UsageClient,
    proto::{ListMetersRequest, usage_service_client::UsageServiceClient},
};

use crate::process::{HTTP, Process, TIMEOUT, within};

/// The texts of three keys, one of each role.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) admin: String,
    pub(crate) writer: String,
    pub(crate) reader: String,
}

/// A command on a database.
fn command(url: &str) -> Command {
    let mut command = Process::binary();
    command.env("DATABASE_URL", url);
    command
}

fn run(url: &str, args: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command(url).args(args).output().expect("a process");
    assert!(
        status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&stderr)
    );
    String::from_utf8(stdout).expect("text").trim().to_owned()
}

impl Keys {
    /// Creates the schema of an empty database, and the keys.
    pub(crate) fn create(url: &str) -> Self {
        run(url, &["migrate"]);
        let key = |role| run(url, &["keys", "create", "--role", role, "--name", role]);
        Self {
            admin: key("admin"),
            writer: key("writer"),
            reader: key("reader"),
        }
    }
}

/// Serves a database.
pub(crate) async fn serve(url: &str, stripe: Option<&FakeStripe>) -> Process {
    let mut command = command(url);
    command.env("RUST_LOG", "info");
    if let Some(stripe) = stripe {
        command
            .env("STRIPE_SECRET_KEY", stripe.secret_key())
            .env("STRIPE_API_BASE", stripe.base_url());
    }
    Process::start(command, &[HTTP.to_owned()]).await
}

/// A client with a key, which does not retry.
pub(crate) async fn client(process: &Process, key: &str) -> UsageClient {
    let builder = UsageClient::builder(process.endpoint()).api_key(key);
    let client = within("connecting", builder.connect()).await;
    let client = client.expect("a connection");
    client.with_retry(Retry::never()).with_timeout(TIMEOUT)
}

/// Makes the smallest call with a key.
pub(crate) async fn list_meters(channel: Channel, key: &str) -> Result<(), Status> {
    let mut request = Request::new(ListMetersRequest::default());
    let value = format!("Bearer {key}");
    let value = MetadataValue::try_from(value).expect("a header");
    request.metadata_mut().insert("authorization", value);
    let mut client = UsageServiceClient::new(channel);
    within("an answer", client.list_meters(request))
        .await
        .map(drop)
}
