//! How many calls each method had, with which code, and how long they took.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ::metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram,
};

use super::contract;

/// Calls that ended, by `method`, such as `usage.v1.UsageService/Get`, and by `code`, such as `OK`.
const CALLS: &str = "usage_calls_total";
/// Duration of calls until the last byte of their answer, by `method`.
const CALL_SECONDS: &str = "usage_call_seconds";
/// The method of calls that name none of this server's.
const UNKNOWN: &str = "unknown";

/// The codes of gRPC, by their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// The number of the code `UNKNOWN`.
const UNKNOWN_CODE: usize = 2;
/// The number of the code of a call whose caller went away.
pub(crate) const CANCELLED: usize = 1;

/// The name of a code.
pub(crate) fn code_name(code: usize) -> &'static str {
    let known = CODES.get(code).or_else(|| CODES.get(UNKNOWN_CODE));
    known.copied().unwrap_or_default()
}

pub(super) fn describe() {
    describe_counter!(CALLS, "Calls that ended, by method and code");
    describe_histogram!(
        CALL_SECONDS,
        Unit::Seconds,
        "Duration of calls until the end of their answer, by method"
    );
}

/// The series of all methods. They are looked up once, because each call records into two of them.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    by_path: Arc<HashMap<String, MethodCalls>>,
    unknown: MethodCalls,
}

/// The series of one method.
#[derive(Clone, Debug)]
pub(crate) struct MethodCalls(Arc<Series>);

#[derive(Debug)]
struct Series {
    seconds: Histogram,
    by_code: Vec<Counter>,
}

impl Calls {
    /// Creates the series of each method of the contract, all at zero. The recorder must have been installed before.
    pub(crate) fn new() -> Self {
        let series = |method: String| MethodCalls::new(&method);
        Self {
            by_path: Arc::new(
                contract::methods()
                    .into_iter()
                    .map(|method| (format!("/{method}"), series(method)))
                    .collect(),
            ),
            unknown: series(UNKNOWN.to_owned()),
        }
    }

    /// The series of a request's path.
    pub(crate) fn of(&self, path: &str) -> MethodCalls {
        self.by_path.get(path).unwrap_or(&self.unknown).clone()
    }
}

impl MethodCalls {
    fn new(method: &str) -> Self {
        let by_code = CODES.map(|code| {
            let counter = counter!(CALLS, "method" => method.to_owned(), "code" => code);
            counter.increment(0);
            counter
        });
        Self(Arc::new(Series {
            seconds: histogram!(CALL_SECONDS, "method" => method.to_owned()),
            by_code: by_code.into(),
        }))
    }

    /// Records a call that ended with the code of this number.
    pub(crate) fn record(&self, code: usize, took: Duration) {
        self.0.seconds.record(took);
        let counters = &self.0.by_code;
        if let Some(counter) = counters.get(code).or_else(|| counters.get(UNKNOWN_CODE)) {
            counter.increment(1);
        }
    }
}
