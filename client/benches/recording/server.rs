//! The server to measure, with a separate runtime and database; and an address without a server.

use clap::Parser as _;
use std::net::TcpListener as StdListener;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use usage_server::{Listeners, clock::Clock, config::Config, serve};

pub(crate) struct Server {
    runtime: Runtime,
    endpoint: String,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    _folder: TempDir,
}

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

impl Server {
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        // In the build folder: `/tmp` can be in memory, where a durable commit costs nothing.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        let grpc = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let endpoint = format!("http://{}", grpc.local_addr().expect("an address"));
        let config = Flags::parse_from(["usage-server", "--database-url", &url]).config;
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let serving = runtime.spawn(async move {
            let listeners = Listeners::grpc_only(grpc);
            let served = serve(listeners, config, Clock::system(), token);
            served.await.expect("a running server");
        });
        Self {
            runtime,
            endpoint,
            shutdown,
            serving,
            _folder: folder,
        }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn stop(self) {
        self.shutdown.cancel();
        let ended = self.runtime.block_on(self.serving);
        ended.expect("no panic in the server");
    }
}

/// A local address without a server.
pub(crate) fn unreachable_endpoint() -> String {
    let listener = StdListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}
