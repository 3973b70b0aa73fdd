//! Records the statements that the store sends, and who sends them, in a process that was started for that.
//! `table_reads` checks their plans on a large database.

use std::{
    collections::HashSet,
    ffi::c_void,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    sync::{Mutex, Once, PoisonError},
};

use serde_json::{Value, json};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::Interest,
};

use super::world::Engine;

/// Names the file that statements are recorded in. Nothing is recorded without it.
pub(crate) const RECORD_TO: &str = "RECORD_STATEMENTS_TO";
/// The target of the store's events, one for each statement.
const TARGET: &str = "usage_server::statement";
/// What can have a plan.
const WITH_PLANS: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"];
/// The sources of the server in the name of a source file, and the file through which all statements pass.
const SOURCES: &str = "server/src/";
const CONNECTION: &str = "store/connection.rs";

/// A statement that the store sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sent {
    pub(crate) sql: String,
    /// The source file of the function that sent it, relative to the sources of the server, and the line.
    pub(crate) file: String,
    pub(crate) line: usize,
}

/// Records statements from now on, if this process was started for that.
pub(crate) fn record() {
    static INSTALLED: Once = Once::new();
    let Ok(path) = std::env::var(RECORD_TO) else {
        return;
    };
    INSTALLED.call_once(|| {
        let recorder = Recorder {
            known: Mutex::default(),
            file: Mutex::new(File::create(path).expect("a file to record in")),
        };
        tracing::subscriber::set_global_default(recorder).expect("the only subscriber");
    });
}

/// The statements for an engine in a file, each at least once for each line that sent it.
pub(crate) fn read(path: &Path, engine: Engine) -> Vec<Sent> {
    let file = File::open(path).expect("recorded statements");
    let mut all = Vec::new();
    for line in BufReader::new(file).lines() {
        let row: Value = serde_json::from_str(&line.expect("a line")).expect("a statement");
        if row["sqlite"] == (engine == Engine::Sqlite) {
            all.push(Sent {
                sql: row["sql"].as_str().expect("a text").to_owned(),
                file: row["file"].as_str().expect("a file").to_owned(),
                line: serde_json::from_value(row["line"].clone()).expect("a number"),
            });
        }
    }
    all
}

/// A subscriber for statements alone.
struct Recorder {
    /// Each statement with the addresses of its stack, because finding the lines of a stack takes long.
    known: Mutex<HashSet<(bool, String, Vec<usize>)>>,
    file: Mutex<File>,
}

impl Recorder {
    fn add(&self, is_sqlite: bool, sql: &str) {
        let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
        if !WITH_PLANS.iter().any(|word| sql.starts_with(word)) {
            return;
        }
        let mut stack = Vec::new();
        backtrace::trace(|frame| {
            stack.push(frame.ip());
            true
        });
        let addresses = stack.iter().map(|address| address.addr()).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.insert((is_sqlite, sql.clone(), addresses)) {
            return;
        }
        drop(known);
        let (file, line) = sender(&stack).unwrap_or_else(|| panic!("who sends {sql}?"));
        let row = json!({ "sqlite": is_sqlite, "sql": sql, "file": file, "line": line });
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{row}").expect("a recorded statement");
    }
}

/// The innermost place in the sources of the server.
fn sender(stack: &[*mut c_void]) -> Option<(String, usize)> {
    let mut place = None;
    for address in stack {
        backtrace::resolve(*address, |symbol| {
            let file = symbol.filename().and_then(Path::to_str);
            let file = file.and_then(|file| Some(file.split_once(SOURCES)?.1.to_owned()));
            let found = file.filter(|file| file != CONNECTION).zip(symbol.lineno());
            place = place.take().or(found);
        });
        if place.is_some() {
            break;
        }
    }
    let (file, line) = place?;
    Some((file, usize::try_from(line).ok()?))
}

impl Subscriber for Recorder {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.add(fields.is_sqlite, &fields.sql);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    is_sqlite: bool,
    sql: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "sql" {
            value.clone_into(&mut self.sql);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "backend" {
            self.is_sqlite = format!("{value:?}") == "Sqlite";
        }
    }
}
