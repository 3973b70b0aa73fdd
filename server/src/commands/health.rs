//! `usage-server health`: asks the server of this machine whether it can count, for the health checks of containers whose
//! image has no shell. It reads the settings of the server's addresses and of TLS, and opens no database.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::config::{ListenConfig, TlsConfig, within};

/// The most that is read of an answer.
const MAX_ANSWER_BYTES: u64 = 4 * 1024;

/// The flags of the command.
#[derive(Args, Debug)]
pub struct HealthCommand {
    /// The addresses of the server: `METRICS_LISTEN` is asked, or else `HTTP_LISTEN`.
    #[command(flatten)]
    pub addresses: ListenConfig,

    /// TLS of the server.
    #[command(flatten)]
    pub tls: TlsConfig,

    /// Ask only whether the process answers, whatever its database does.
    #[arg(long)]
    pub live: bool,

    /// How long to wait for the answer, in seconds, 1 to 60.
    #[arg(long, value_name = "SECS", default_value_t = 2, value_parser = within::<u64>(1..=60))]
    pub timeout: u64,
}

/// Why nothing was asked, or the answer not printed.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// A setting is wrong.
    #[error("{0}")]
    Setting(String),
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

/// Prints `ready` or `unready`, with `--live` `live`, or `unreachable`, and why on `notes`; returns whether all is well.
///
/// # Errors
/// See [`HealthError`].
pub async fn run(
    command: &HealthCommand,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<bool, HealthError> {
    let (address, setting) = address(command).map_err(HealthError::Setting)?;
    let is_secure = command.tls.files().map_err(HealthError::Setting)?.is_some();
    let path = if command.live { "live" } else { "ready" };
    let asking = Box::pin(ask(address, is_secure, path));
    let answered = match timeout(Duration::from_secs(command.timeout), asking).await {
        Ok(answered) => answered.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", command.timeout)),
    };
    let (word, is_well) = match answered {
        Ok(200) => (path, true),
        Ok(503) if !command.live => ("unready", false),
        Ok(status) => {
            writeln!(notes, "{address} ({setting}): HTTP status {status}")?;
            ("unreachable", false)
        }
        Err(why) => {
            writeln!(notes, "{address} ({setting}): {why}")?;
            ("unreachable", false)
        }
    };
    writeln!(out, "{word}")?;
    Ok(is_well)
}

/// The address to ask, and its setting.
fn address(command: &HealthCommand) -> Result<(SocketAddr, &'static str), String> {
    let addresses = &command.addresses;
    if let Some(address) = addresses.metrics_listen {
        return Ok((reachable(address), "METRICS_LISTEN"));
    }
    let Some(address) = addresses.http() else {
        return Err("HTTP_LISTEN is off, and so is health; set METRICS_LISTEN".to_owned());
    };
    if command.tls.needs_client_certificates() {
        return Err(
            "HTTP_LISTEN needs client certificates; set METRICS_LISTEN, which needs none"
                .to_owned(),
        );
    }
    Ok((reachable(address), "HTTP_LISTEN"))
}

/// Where this machine reaches a socket that listens on all its addresses.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The HTTP status of a path of health.
async fn ask(address: SocketAddr, is_secure: bool, path: &str) -> io::Result<u16> {
    let stream = TcpStream::connect(address).await?;
    if !is_secure {
        return exchange(stream, path).await;
    }
    let connector = TlsConnector::from(Arc::new(any_certificate()?));
    let name = ServerName::from(address.ip());
    exchange(connector.connect(name, stream).await?, path).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> io::Result<u16> {
    let request =
        format!("GET /health/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let ended = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await;
    // One that ends without a farewell of TLS is complete if it has a status.
    let status = status(&answer);
    status.ok_or_else(|| match ended {
        Err(error) => error,
        Ok(_) => io::Error::other("the answer is not one of HTTP"),
    })
}

fn status(answer: &[u8]) -> Option<u16> {
    let answer = answer.strip_prefix(b"HTTP/1.1 ")?;
    std::str::from_utf8(answer.get(..3)?).ok()?.parse().ok()
}

/// TLS with whatever certificate the server shows: its names are seldom those of this machine, nothing secret is sent, and
/// whoever could listen on the server's own address could answer in its place.
fn any_certificate() -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;

    fn asked(flags: &[&str]) -> Result<(SocketAddr, &'static str), String> {
        let command = HealthCommand::augment_args(Command::new("test"));
        let all = std::iter::once(&"test").chain(flags);
        let matches = command.get_matches_from(all);
        address(&HealthCommand::from_arg_matches(&matches).unwrap())
    }

    #[test]
    fn the_address_without_keys_and_certificates_is_asked_first() {
        for (flags, address, setting) in [
            (&[][..], "127.0.0.1:8080", "HTTP_LISTEN"),
            (&["--http-listen=0.0.0.0:1"], "127.0.0.1:1", "HTTP_LISTEN"),
            (&["--metrics-listen=[::]:2"], "[::1]:2", "METRICS_LISTEN"),
            (
                &["--http-listen=off", "--metrics-listen=10.0.0.1:3"],
                "10.0.0.1:3",
                "METRICS_LISTEN",
            ),
        ] {
            let expected = (address.parse().unwrap(), setting);
            assert_eq!(asked(flags), Ok(expected), "{flags:?}");
        }
        for flags in [&["--http-listen=off"][..], &["--tls-client-ca-file=ca.pem"]] {
            let why = asked(flags).unwrap_err();
            assert!(why.contains("set METRICS_LISTEN"), "{why}");
        }
    }

    #[test]
    fn a_status_is_read_from_the_first_line() {
        assert_eq!(status(b"HTTP/1.1 503 Service Unavailable\r\n"), Some(503));
        for wrong in [
            &b""[..],
            b"HTTP/1.1 ",
            b"HTTP/1.1 2x0",
            b"\x15\x03\x03\0\x02\x02\x46",
        ] {
            assert_eq!(status(wrong), None);
        }
    }
}
