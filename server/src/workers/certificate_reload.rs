//! The job of every replica that reads the files of TLS again when they change.

use std::{sync::Arc, time::Duration};

use super::{
    job::{Job, Next, Spec, Turn},
    wake::Wake,
};
use crate::{
    clock::Clock,
    domain::{Millis, SECOND_MS},
    error::{Error, Result},
    metrics,
    tls::{Reload, Tls},
};

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(2);

pub(crate) struct CertificateReload(Arc<Tls>);

impl CertificateReload {
    pub(crate) fn new(tls: Arc<Tls>) -> Self {
        show_expiry(&tls);
        Self(tls)
    }
}

fn show_expiry(tls: &Tls) {
    metrics::certificate_expires(tls.expires_at());
    metrics::revocation_lists_expire(tls.lists_expire_at());
}

impl Job for CertificateReload {
    fn spec(&self) -> Spec {
        Spec {
            name: "certificate_reload",
            interval: INTERVAL,
            turn: Turn::WithoutDatabase,
            wake: Wake::default(),
        }
    }

    async fn run(&mut self, _now: Millis) -> Result<Next> {
        let tls = Arc::clone(&self.0);
        // Certificates are of the world's time, not of the database's.
        let now = Clock::system().now().div_euclid(SECOND_MS);
        // The files may be on a slow disk.
        let reload = tokio::task::spawn_blocking(move || tls.reload(now)).await;
        match reload.map_err(|error| Error::Internal(Box::new(error)))? {
            Reload::Unchanged => {}
            Reload::Changed => {
                show_expiry(&self.0);
                tracing::info!("new files of TLS are in use");
            }
            Reload::Refused { why, is_known } => {
                metrics::tls_reload_failed();
                if !is_known {
                    tracing::error!(%why, "new files of TLS cannot be used; the old ones stay in use");
                }
            }
        }
        Ok(Next::Wait)
    }
}
