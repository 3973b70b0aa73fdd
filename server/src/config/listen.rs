//! The addresses that the service listens on.

use std::{fmt, net::SocketAddr, str::FromStr};

use clap::Args;
use url::Url;

use super::number::socket_address;
use crate::domain::trusted_proxies::{AddressRange, MAX_RANGES, TrustedProxies};

/// The addresses.
#[derive(Args, Clone, Debug)]
pub struct ListenConfig {
    /// The address to serve gRPC on.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:50051", value_parser = socket_address)]
    pub listen: SocketAddr,

    /// The address to serve HTTP on: the services as JSON, health and metrics, and the path of webhooks unless
    /// `WEBHOOK_LISTEN` is set; `off` serves none of them.
    #[arg(
        long,
        env = "HTTP_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    pub http_listen: HttpListen,

    /// The origins whose web pages may call the services on `HTTP_LISTEN`, separated by commas, such as
    /// `https://dash.example.com`. Default: none.
    #[arg(
        long,
        env = "HTTP_CORS_ORIGINS",
        value_name = "ORIGINS",
        value_delimiter = ','
    )]
    pub http_cors_origins: Vec<Origin>,

    /// The addresses of reverse proxies and ranges of them, such as `10.0.0.0/8`, separated by commas, up to 100. On connections
    /// from them, `X-Forwarded-For` says which address a request comes from. Default: none.
    #[arg(
        long,
        env = "TRUSTED_PROXIES",
        value_name = "ADDRESSES",
        value_delimiter = ','
    )]
    pub trusted_proxies: Vec<AddressRange>,

    /// The address to serve `POST /webhooks/stripe` on, and nothing else. Default: the path is on `HTTP_LISTEN`.
    #[arg(long, env = "WEBHOOK_LISTEN", value_name = "ADDRESS", value_parser = socket_address)]
    pub webhook_listen: Option<SocketAddr>,

    /// One more address to serve health and metrics on, and nothing else. Default: none.
    #[arg(long, env = "METRICS_LISTEN", value_name = "ADDRESS", value_parser = socket_address)]
    pub metrics_listen: Option<SocketAddr>,
}

/// Where web pages come from: a scheme, a host, and a port that is not the scheme's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// As browsers send it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let url = Url::parse(text).ok();
        let url = url.filter(|url| ["http", "https"].contains(&url.scheme()));
        let origin = url.map(|url| url.origin().ascii_serialization());
        match origin {
            Some(origin) if origin == text => Ok(Self(origin)),
            Some(origin) => Err(format!("{text:?} is no origin: write {origin}")),
            None => Err(format!(
                "{text:?} is no origin: write a scheme and a host, such as https://dash.example.com"
            )),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address for HTTP, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpListen {
    /// Not served.
    Off,
    /// Served at this address.
    On(SocketAddr),
}

impl FromStr for HttpListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let address = text.parse();
        address.map(Self::On).map_err(|_| {
            "must be an IP address and a port, such as 127.0.0.1:8080, or off".to_owned()
        })
    }
}

impl fmt::Display for HttpListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On(address) => address.fmt(f),
        }
    }
}

impl ListenConfig {
    /// The address of HTTP, if it is served.
    pub(crate) fn http(&self) -> Option<SocketAddr> {
        match self.http_listen {
            HttpListen::Off => None,
            HttpListen::On(address) => Some(address),
        }
    }

    /// The proxies that say which address a request comes from.
    pub(crate) fn trusted_proxies(&self) -> TrustedProxies {
        TrustedProxies::new(&self.trusted_proxies)
    }

    /// Checks the number of trusted proxies: each request may be compared with all.
    pub(super) fn check(&self) -> Result<(), String> {
        let ranges = self.trusted_proxies.len();
        if ranges > MAX_RANGES {
            return Err(format!(
                "TRUSTED_PROXIES has {ranges} addresses and ranges, and the limit is {MAX_RANGES}; write larger ranges"
            ));
        }
        Ok(())
    }

    /// The address of webhooks on `HTTP_LISTEN`, if other machines can reach it.
    pub(crate) fn exposed_webhooks(&self) -> Option<SocketAddr> {
        let shared = self.http().filter(|_| self.webhook_listen.is_none());
        shared.filter(|address| !address.ip().to_canonical().is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_http_is_an_ip_address_or_off() {
        assert_eq!("off".parse(), Ok(HttpListen::Off));
        for address in ["127.0.0.1:8080", "[::1]:0"] {
            let parsed: HttpListen = address.parse().unwrap();
            assert_eq!(parsed.to_string(), address);
        }
        for wrong in ["", "8080", "localhost:8080", "OFF"] {
            assert!(wrong.parse::<HttpListen>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        for origin in [
            "https://dash.example.com",
            "http://localhost:3000",
            "http://[::1]:3000",
        ] {
            assert_eq!(origin.parse::<Origin>().unwrap().to_string(), origin);
        }
        for (wrong, advice) in [
            (
                "https://dash.example.com/",
                "write https://dash.example.com",
            ),
            (
                "https://Dash.example.com/a?b",
                "write https://dash.example.com",
            ),
            (
                "https://dash.example.com:443",
                "write https://dash.example.com",
            ),
            ("dash.example.com", "such as https://"),
            ("file:///tmp", "such as https://"),
            ("*", "such as https://"),
            ("null", "such as https://"),
            ("", "such as https://"),
        ] {
            let error = wrong.parse::<Origin>().unwrap_err();
            assert!(error.contains(advice), "{error}");
        }
    }

    #[test]
    fn webhooks_beside_health_are_exposed_only_beyond_loopback() {
        let config = |http: &str, webhooks: Option<&str>| ListenConfig {
            listen: "127.0.0.1:1".parse().unwrap(),
            http_listen: http.parse().unwrap(),
            http_cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            webhook_listen: webhooks.map(|address| address.parse().unwrap()),
            metrics_listen: None,
        };
        let exposed = |http, webhooks| config(http, webhooks).exposed_webhooks().is_some();
        assert!(exposed("0.0.0.0:8080", None));
        assert!(exposed("[::]:8080", None));
        assert!(!exposed("0.0.0.0:8080", Some("0.0.0.0:8081")));
        for loopback in [
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::ffff:127.0.0.1]:8080",
            "off",
        ] {
            assert!(!exposed(loopback, None), "{loopback}");
        }
    }

    #[test]
    fn trusted_proxies_have_a_limit() {
        let config = |proxies: usize| ListenConfig {
            listen: "127.0.0.1:1".parse().unwrap(),
            http_listen: HttpListen::Off,
            http_cors_origins: Vec::new(),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(); proxies],
            webhook_listen: None,
            metrics_listen: None,
        };
        assert_eq!(config(MAX_RANGES).check(), Ok(()));
        let error = config(MAX_RANGES + 1).check().unwrap_err();
        assert!(error.contains("TRUSTED_PROXIES has 101"), "{error}");
    }
}
