//! A reverse proxy with a fixed address. Its backend can be changed, and its connections can be broken.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// A proxy with one address.
pub(crate) struct ReverseProxy {
    endpoint: String,
    behind: Arc<Mutex<Option<String>>>,
    breaks: watch::Sender<u64>,
    serving: JoinHandle<()>,
}

impl ReverseProxy {
    /// Starts without a server behind it.
    pub(crate) async fn start() -> Self {
        Self::start_as(None).await
    }

    /// Starts one that terminates TLS.
    pub(crate) async fn start_secure(config: ServerConfig) -> Self {
        Self::start_as(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_as(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = listener.local_addr().expect("an address");
        let endpoint = format!("{scheme}://{address}");
        let behind = Arc::new(Mutex::new(None::<String>));
        let (breaks, broken) = watch::channel(0);
        let target = Arc::clone(&behind);
        let serving = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let server = target
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                if let Some(server) = server {
                    tokio::spawn(admit(caller, tls.clone(), server, broken.clone()));
                }
            }
        });
        Self {
            endpoint,
            behind,
            breaks,
            serving,
        }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends new connections to this server, such as `http://127.0.0.1:1`.
    pub(crate) fn put_before(&self, endpoint: &str) {
        let address = endpoint.trim_start_matches("http://").to_owned();
        *self.behind.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Breaks all open connections.
    pub(crate) fn break_connections(&self) {
        self.breaks.send_modify(|times| *times += 1);
    }
}

impl Drop for ReverseProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn admit(
    caller: TcpStream,
    tls: Option<TlsAcceptor>,
    server: String,
    broken: watch::Receiver<u64>,
) {
    match tls {
        None => carry(caller, server, broken).await,
        Some(tls) => {
            if let Ok(caller) = tls.accept(caller).await {
                carry(caller, server, broken).await;
            }
        }
    }
}

async fn carry(
    mut caller: impl AsyncRead + AsyncWrite + Unpin,
    server: String,
    mut broken: watch::Receiver<u64>,
) {
    broken.mark_unchanged();
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    tokio::select! {
        // If either side closes, the other one is closed too.
        _ = copy_bidirectional(&mut caller, &mut server) => {}
        _ = broken.changed() => {}
    }
}
