//! What each page takes from its address, for texts that no one should send.

use usage_server::domain::http_paths::HttpPath;

/// What every page takes.
const OF_ALL: [&str; 4] = ["tz=", "zone=", "page=", "unknown="];

/// What names one report.
const ONE_REPORT: [&str; 3] = ["account=", "account=acct&id=", "account=acct&id=a&window="];
/// What filters reports.
const REPORTS: [&str; 10] = [
    "account=",
    "state=",
    "kind=",
    "meter=",
    "customer=",
    "run=",
    "from=",
    "until=",
    "decided_from=",
    "account=acct&decided_until=",
];

/// The queries of a page, each of which ends with a parameter without its value. A new page needs its own.
fn of(path: HttpPath) -> &'static [&'static str] {
    match path {
        HttpPath::ConsoleUsage => &[
            "meter=",
            "prefix=",
            "by=",
            "start=",
            "start=2026-03-01&end=",
        ],
        HttpPath::ConsoleAccounts | HttpPath::ConsoleRun => &["id="],
        HttpPath::ConsoleAccount => &[
            "id=",
            "id=acct&by=",
            "id=acct&tz=",
            "id=acct&meter=",
            "id=acct&start=",
            "id=acct&start=2026-03-01&end=",
            "id=acct&compare=",
        ],
        HttpPath::ConsoleReports => &REPORTS,
        HttpPath::ConsoleReport | HttpPath::ConsoleResolve => &ONE_REPORT,
        HttpPath::ConsoleInvoice => &[
            "account=",
            "invoice=",
            "account=acct&report=",
            "account=acct&start=",
            "account=acct&end=",
            "account=acct&increments=",
            "as=csv&account=",
            "account=acct&as=",
        ],
        HttpPath::ConsoleFind => &["account=", "account=acct&key=", "account=acct&key=a&meter="],
        HttpPath::ConsoleRuns => &["state=", "run=", "from=", "until="],
        HttpPath::ConsoleVerification => &[
            "account=",
            "meter=",
            "state=",
            "of=",
            "compare=yes&of=",
            "compare=yes&start=",
            "compare=yes&end=",
            "compare=yes&rows=",
            "compare=yes&from=",
        ],
        HttpPath::ConsoleShadow => &["customer=", "from=", "until=", "show="],
        HttpPath::ConsoleSignOff => &[
            "month=",
            "as=csv&month=",
            "month=2026-03&as=",
            "month=2026-03&as=csv&open=",
            "month=2026-03&anew=",
        ],
        HttpPath::ConsoleAudit => &["key=", "account=", "from=", "until="],
        HttpPath::ConsoleCorrect | HttpPath::ConsoleForce => &["account="],
        HttpPath::ConsoleSignIn => &["next="],
        // They take nothing but what every page takes, or show nothing.
        HttpPath::ConsoleOverview
        | HttpPath::ConsoleKeys
        | HttpPath::ConsoleSetUp
        | HttpPath::ConsoleSignOut
        | HttpPath::ConsoleStyle
        | HttpPath::Live
        | HttpPath::Ready
        | HttpPath::Metrics
        | HttpPath::OpenApi
        | HttpPath::StripeWebhooks => &[],
    }
}

/// Addresses to which a text is added: of each page, by each of its parameters.
pub(super) fn addresses() -> Vec<String> {
    let shown = HttpPath::ALL.into_iter().filter(|path| {
        let shows_nothing = [HttpPath::ConsoleSignOut, HttpPath::ConsoleStyle];
        path.is_console() && !shows_nothing.contains(path)
    });
    let addresses = shown.flat_map(|path| {
        let all = of(path).iter().chain(&OF_ALL);
        all.map(move |query| format!("{}?{query}", path.name()))
    });
    addresses.collect()
}
