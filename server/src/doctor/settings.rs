//! The settings of a running server, as it shows them: of a secret, only that it is set.

use std::{fmt::Display, path::PathBuf};

use crate::{
    config::{Config, Secret},
    domain::{MINUTE_MS, late_usage::LateUsage, meter::Meter},
    store::connect::without_credentials,
};

/// What is shown of a secret.
const SET: &str = "(set)";

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownSetting {
    /// Its variable.
    pub(crate) name: &'static str,
    /// Its value; absent if it is not set.
    pub(crate) value: Option<String>,
}

/// All settings, by group.
pub(super) fn of(config: &Config) -> Vec<ShownSetting> {
    let groups = [
        database(config),
        addresses(config),
        access(config),
        stripe(config),
        reporting(config),
        limits(config),
        log(config),
    ];
    let all = groups.into_iter().flatten();
    all.map(|(name, value)| ShownSetting { name, value })
        .collect()
}

type Group = Vec<(&'static str, Option<String>)>;

fn database(config: &Config) -> Group {
    let database = &config.database;
    vec![
        (
            "DATABASE_URL",
            database.url().ok().map(|url| without_credentials(&url)),
        ),
        (
            "DATABASE_URL_FILE",
            path(database.database_url_file.as_ref()),
        ),
        ("DATABASE_CONNECTIONS", some(database.database_connections)),
        ("PGBOUNCER", some(database.pgbouncer)),
        ("INSECURE_DURABILITY", some(database.insecure_durability)),
        ("NO_MIGRATE", some(config.no_migrate)),
        ("ARCHIVE_DIR", path(config.archive.archive_dir.as_ref())),
        ("FOLD_AFTER_DAYS", some(config.archive.fold_after_days)),
        ("AUDIT_DAYS", some(config.archive.audit_days)),
        ("RUN_DAYS", some(config.archive.run_days)),
    ]
}

fn addresses(config: &Config) -> Group {
    let (addresses, tls) = (&config.addresses, &config.tls);
    let origins = addresses.http_cors_origins.iter();
    let origins: Vec<String> = origins.map(ToString::to_string).collect();
    let proxies = addresses.trusted_proxies.iter();
    let proxies: Vec<String> = proxies.map(ToString::to_string).collect();
    let roles = tls.tls_client_roles.iter();
    let roles: Vec<String> = roles
        .map(|one| format!("{}={}", one.subject, one.role.name()))
        .collect();
    vec![
        ("LISTEN", some(addresses.listen)),
        ("HTTP_LISTEN", some(addresses.http_listen)),
        (
            "HTTP_CORS_ORIGINS",
            (!origins.is_empty()).then(|| origins.join(",")),
        ),
        (
            "TRUSTED_PROXIES",
            (!proxies.is_empty()).then(|| proxies.join(",")),
        ),
        ("NO_CONSOLE", some(config.no_console)),
        (
            "CONSOLE_WRITES_WITHOUT_KEY",
            some(config.console_writes_without_key),
        ),
        ("WEBHOOK_LISTEN", addresses.webhook_listen.map(text)),
        ("METRICS_LISTEN", addresses.metrics_listen.map(text)),
        ("TLS_CERT_FILE", path(tls.tls_cert_file.as_ref())),
        ("TLS_KEY_FILE", path(tls.tls_key_file.as_ref())),
        ("TLS_CLIENT_CA_FILE", path(tls.tls_client_ca_file.as_ref())),
        (
            "TLS_CLIENT_CRL_FILE",
            path(tls.tls_client_crl_file.as_ref()),
        ),
        (
            "TLS_CLIENT_ROLES",
            (!roles.is_empty()).then(|| roles.join(",")),
        ),
    ]
}

fn access(config: &Config) -> Group {
    let access = &config.access;
    let first_key = access.bootstrap_admin_key_file.as_ref();
    vec![
        ("INSECURE", some(access.insecure)),
        ("BOOTSTRAP_ADMIN_KEY_FILE", path(first_key)),
        ("REQUESTS_PER_SEC", some(access.requests_per_sec)),
    ]
}

fn stripe(config: &Config) -> Group {
    let (stripe, webhooks) = (&config.stripe, &config.webhooks);
    let secrets_file = webhooks.stripe_webhook_secrets_file.as_ref();
    let base = stripe.stripe_api_base.as_deref();
    vec![
        (
            "STRIPE_SECRET_KEY",
            secret(stripe.stripe_secret_key.as_ref()),
        ),
        (
            "STRIPE_SECRET_KEY_FILE",
            path(stripe.stripe_secret_key_file.as_ref()),
        ),
        ("REPORTING", some(stripe.reporting.name())),
        ("STRIPE_API_BASE", base.map(base_without_credentials)),
        (
            "STRIPE_WEBHOOK_SECRETS",
            secret(webhooks.stripe_webhook_secrets.as_ref()),
        ),
        ("STRIPE_WEBHOOK_SECRETS_FILE", path(secrets_file)),
        (
            "STRIPE_EVENTS_PER_SEC",
            config.sending.stripe_events_per_sec.map(text),
        ),
        ("STRIPE_CONCURRENCY", some(config.stripe_concurrency)),
        ("STRIPE_RETRY_MS", some(config.stripe_retry_ms)),
        ("STRIPE_LINK_CHECK_MS", some(config.stripe_link_check_ms)),
    ]
}

fn reporting(config: &Config) -> Group {
    let meters: Vec<String> = config.meters.meters.iter().map(Meter::to_string).collect();
    let late = match config.late_usage {
        LateUsage::Hold => "hold",
        LateUsage::CurrentPeriod => "current_period",
    };
    let window = config.schedule.window_mins.width_ms();
    vec![
        ("METERS", Some(meters.join(","))),
        ("DEFAULT_METER", config.meters.default_meter.clone()),
        ("REPORT_SCHEDULE", some(&config.schedule.report_schedule)),
        ("REPORT_TIME_ZONE", some(&config.schedule.report_time_zone)),
        ("WINDOW_MINS", some(window.div_euclid(MINUTE_MS))),
        ("LATE_USAGE", some(late)),
        ("SYNC_INTERVAL_SECS", some(config.sync_interval_secs)),
        ("CLOCK_CHECK_SECS", some(config.clock_check_secs)),
        ("CHANGE_WAIT_SECS", some(config.change_wait_secs)),
    ]
}

fn limits(config: &Config) -> Group {
    vec![
        ("QUEUE_INCREMENTS", some(config.queue_increments)),
        ("WRITERS", some(config.writers)),
        (
            "CONNECTIONS_PER_ADDRESS",
            some(config.connections_per_address),
        ),
        (
            "STREAMS_PER_CONNECTION",
            some(config.streams_per_connection),
        ),
    ]
}

fn log(config: &Config) -> Group {
    let log = &config.log;
    let endpoint = log.otlp_endpoint.as_deref();
    vec![
        ("LOG_REQUESTS", some(log.log_requests)),
        ("METRICS_INTERVAL_SECS", some(config.metrics_interval_secs)),
        ("OTLP_ENDPOINT", endpoint.map(base_without_credentials)),
        ("OTLP_SAMPLE", some(log.otlp_sample)),
    ]
}

fn text(value: impl Display) -> String {
    value.to_string()
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "a setting that has a default, among others"
)]
fn some(value: impl Display) -> Option<String> {
    Some(text(value))
}

fn path(path: Option<&PathBuf>) -> Option<String> {
    path.map(|path| text(path.display()))
}

fn secret(secret: Option<&Secret>) -> Option<String> {
    secret.map(|_| SET.to_owned())
}

/// The address of a proxy can contain a name and a password.
fn base_without_credentials(base: &str) -> String {
    let Ok(mut url) = url::Url::parse(base) else {
        return SET.to_owned();
    };
    // Addresses of HTTP can have both.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn config(flags: &[&str]) -> Config {
        let command = Config::augment_args(Command::new("test"));
        let all = std::iter::once(&"test").chain(flags);
        Config::from_arg_matches(&command.get_matches_from(all)).unwrap()
    }

    #[test]
    fn every_setting_is_shown() {
        let command = Config::augment_args(Command::new("test"));
        let variables = command.get_arguments().filter_map(|arg| arg.get_env());
        let variables: Vec<&str> = variables.filter_map(|name| name.to_str()).collect();
        let shown = of(&config(&[]));
        for name in &variables {
            assert!(shown.iter().any(|one| one.name == *name), "{name}");
        }
        assert_eq!(shown.len(), variables.len());
    }

    #[test]
    fn of_a_secret_only_that_it_is_set_is_shown() {
        let shown = of(&config(&[
            "--database-url=postgres://user:Recognisable@host:1/usage?password=Recognisable",
            "--stripe-secret-key=sk_test_Recognisable",
            "--stripe-webhook-secrets=whsec_Recognisable",
            "--stripe-api-base=http://user:Recognisable@127.0.0.1:1/?key=Recognisable",
        ]));
        let value = |name: &str| {
            let found = shown.iter().find(|one| one.name == name).unwrap();
            found.value.clone().unwrap()
        };
        assert_eq!(value("DATABASE_URL"), "postgres://host:1/usage");
        assert_eq!(value("STRIPE_SECRET_KEY"), SET);
        assert_eq!(value("STRIPE_WEBHOOK_SECRETS"), SET);
        assert_eq!(value("STRIPE_API_BASE"), "http://127.0.0.1:1/");
        assert!(!format!("{shown:?}").contains("Recognisable"));
        let file = of(&config(&[
            "--database-url=sqlite:///folder/usage.db?mode=rwc",
        ]));
        assert_eq!(file[0].value.as_deref(), Some("sqlite:///folder/usage.db"));
    }
}
