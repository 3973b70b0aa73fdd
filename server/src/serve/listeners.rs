//! The sockets of the service.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use super::ServeError;
use crate::config::ListenConfig;

/// The sockets of the service. The caller binds them, so a test can use port 0.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For health and metrics over HTTP, and for webhooks unless they have their own.
    pub http: Option<TcpListener>,
    /// For webhooks alone.
    pub webhooks: Option<TcpListener>,
    /// For health and metrics alone.
    pub metrics: Option<TcpListener>,
}

impl Listeners {
    /// Serves gRPC alone.
    pub fn grpc_only(grpc: TcpListener) -> Self {
        Self {
            grpc,
            http: None,
            webhooks: None,
            metrics: None,
        }
    }

    /// Binds the configured addresses.
    ///
    /// # Errors
    /// An address cannot be listened on; the error names its setting.
    pub async fn bind(config: &ListenConfig) -> Result<Self, ServeError> {
        Ok(Self {
            grpc: bind("LISTEN", config.listen).await?,
            http: bind_if_set("HTTP_LISTEN", config.http()).await?,
            webhooks: bind_if_set("WEBHOOK_LISTEN", config.webhook_listen).await?,
            metrics: bind_if_set("METRICS_LISTEN", config.metrics_listen).await?,
        })
    }

    /// Whether any socket shows the metrics.
    pub(super) fn show_metrics(&self) -> bool {
        self.http.is_some() || self.metrics.is_some()
    }
}

async fn bind_if_set(
    setting: &'static str,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, ServeError> {
    match address {
        Some(address) => bind(setting, address).await.map(Some),
        None => Ok(None),
    }
}

async fn bind(setting: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| ServeError::Listen {
        setting,
        address,
        why: why(setting, &error),
    })
}

fn why(setting: &str, error: &io::Error) -> String {
    let or_off = if setting == "HTTP_LISTEN" {
        ", or off"
    } else {
        ""
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "another program or setting uses this port; set {setting} to a free one{or_off}"
            )
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have this address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "the process may not use this port; set one from 1024 on".to_owned()
        }
        _ => error.to_string(),
    }
}
