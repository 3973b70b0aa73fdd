//! The paths of HTTP besides those of the methods, and what each demands of its caller on each socket. What is not here is served nowhere: the routers
//! are made from this table.

use super::{
    access::{
        Requirement::{self, Nothing},
        Role,
    },
    names::names,
};

/// A path of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpPath {
    /// Whether the process serves: one word, for load balancers.
    Live,
    /// Whether it can count: one word, for load balancers.
    Ready,
    /// The metrics.
    Metrics,
    /// The description of the services.
    OpenApi,
    /// Webhooks, which Stripe signs.
    StripeWebhooks,
    /// The console's first page.
    ConsoleOverview,
    /// The usage of all accounts.
    ConsoleUsage,
    /// Its accounts.
    ConsoleAccounts,
    /// One of them.
    ConsoleAccount,
    /// Its reports.
    ConsoleReports,
    /// One of them.
    ConsoleReport,
    /// An invoice, line by line.
    ConsoleInvoice,
    /// The way of one increment.
    ConsoleFind,
    /// Its runs.
    ConsoleRuns,
    /// Differences, and usage that is not charged.
    ConsoleVerification,
    /// What was counted beside another integration.
    ConsoleShadow,
    /// A month for finance.
    ConsoleSignOff,
    /// What admins did.
    ConsoleAudit,
    /// Its API keys.
    ConsoleKeys,
    /// The lines of `doctor`, and the settings.
    ConsoleSetUp,
    /// The form to resolve a report.
    ConsoleResolve,
    /// The form to correct usage.
    ConsoleCorrect,
    /// The form to force reports.
    ConsoleForce,
    /// How far a run is.
    ConsoleRun,
    /// The form to sign in.
    ConsoleSignIn,
    /// The end of a session.
    ConsoleSignOut,
    /// How its pages look.
    ConsoleStyle,
}

names!(HttpPath {
    Live = "/health/live",
    Ready = "/health/ready",
    Metrics = "/metrics",
    OpenApi = "/openapi.json",
    StripeWebhooks = "/webhooks/stripe",
    ConsoleOverview = "/",
    ConsoleUsage = "/usage",
    ConsoleAccounts = "/accounts",
    ConsoleAccount = "/account",
    ConsoleReports = "/reports",
    ConsoleReport = "/report",
    ConsoleInvoice = "/invoice",
    ConsoleFind = "/find",
    ConsoleRuns = "/runs",
    ConsoleVerification = "/verification",
    ConsoleShadow = "/shadow",
    ConsoleSignOff = "/sign-off",
    ConsoleAudit = "/audit",
    ConsoleKeys = "/keys",
    ConsoleSetUp = "/set-up",
    ConsoleResolve = "/resolve",
    ConsoleCorrect = "/correct",
    ConsoleForce = "/force",
    ConsoleRun = "/run",
    ConsoleSignIn = "/sign-in",
    ConsoleSignOut = "/sign-out",
    ConsoleStyle = "/console.css",
});

/// A socket of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpSocket {
    /// `HTTP_LISTEN`, where `WEBHOOK_LISTEN` is not set.
    All,
    /// `HTTP_LISTEN`, where it is.
    WithoutWebhooks,
    /// `METRICS_LISTEN`.
    Metrics,
    /// `WEBHOOK_LISTEN`.
    Webhooks,
}

impl HttpSocket {
    /// Whether the services are there too, for all who may call them.
    pub fn has_services(self) -> bool {
        matches!(self, Self::All | Self::WithoutWebhooks)
    }
}

impl HttpPath {
    /// The path that a request names.
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|path| path.name() == text)
    }

    /// Whether it belongs to the console.
    pub fn is_console(self) -> bool {
        self.console_requirement().is_some()
    }

    /// What a path of the console demands; absent of all others. A key that is limited sees what its calls may.
    fn console_requirement(self) -> Option<Requirement> {
        match self {
            Self::ConsoleOverview
            | Self::ConsoleUsage
            | Self::ConsoleAccounts
            | Self::ConsoleAccount
            | Self::ConsoleReports
            | Self::ConsoleReport
            | Self::ConsoleInvoice
            | Self::ConsoleFind
            | Self::ConsoleRuns
            | Self::ConsoleVerification
            | Self::ConsoleShadow
            | Self::ConsoleSignOff
            | Self::ConsoleSetUp => Some(Requirement::Role(Role::Reader)),
            Self::ConsoleAudit
            | Self::ConsoleKeys
            | Self::ConsoleResolve
            | Self::ConsoleCorrect
            | Self::ConsoleForce
            | Self::ConsoleRun => Some(Requirement::Role(Role::Admin)),
            // They show nothing that is stored.
            Self::ConsoleSignIn | Self::ConsoleSignOut | Self::ConsoleStyle => Some(Nothing),
            Self::Live | Self::Ready | Self::Metrics | Self::OpenApi | Self::StripeWebhooks => None,
        }
    }

    /// What it demands on a socket; absent if the socket does not have it.
    pub fn requirement(self, socket: HttpSocket) -> Option<Requirement> {
        if let Some(requirement) = self.console_requirement() {
            return socket.has_services().then_some(requirement);
        }
        match (self, socket) {
            // It describes the contract, as reflection does.
            (Self::OpenApi, socket) => socket.has_services().then_some(Requirement::AnyRole),
            (Self::Live | Self::Ready | Self::Metrics, HttpSocket::Webhooks)
            | (Self::StripeWebhooks, HttpSocket::WithoutWebhooks | HttpSocket::Metrics) => None,
            (Self::Metrics, HttpSocket::All | HttpSocket::WithoutWebhooks) => {
                Some(Requirement::Role(Role::Reader))
            }
            // The socket itself is for those who may see them.
            (Self::Metrics, HttpSocket::Metrics)
            | (Self::Live | Self::Ready, _)
            | (Self::StripeWebhooks, HttpSocket::All | HttpSocket::Webhooks) => Some(Nothing),
            // Above.
            _ => None,
        }
    }
}
