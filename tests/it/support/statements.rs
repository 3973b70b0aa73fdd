//! The statements that the store sends while tests run. `table_reads` checks their plans on a large database.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    sync::{LazyLock, Mutex, Once, PoisonError},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::Interest,
};

use super::world::Engine;

/// The target of the store's events, one for each statement.
const TARGET: &str = "usage_server::statement";
/// What can have a plan.
const WITH_PLANS: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"];

static SQLITE: LazyLock<Mutex<Sent>> = LazyLock::new(Mutex::default);
static POSTGRES: LazyLock<Mutex<Sent>> = LazyLock::new(Mutex::default);

/// What was sent to one engine so far.
#[derive(Default)]
struct Sent {
    hasher: RandomState,
    /// The hashes of all texts: most are sent many times.
    seen: HashSet<u64>,
    /// By the text without the lengths of its lists of values, which have one plan in common: the shortest and the
    /// longest, because a list of one value is planned like an equality.
    statements: BTreeMap<String, [String; 2]>,
}

/// Records statements from now on.
pub(crate) fn record() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        tracing::subscriber::set_global_default(Recorder).expect("the only subscriber");
    });
}

/// The statements that this process sent to an engine so far.
pub(crate) fn sent_to(engine: Engine) -> Vec<String> {
    let sent = sent(engine).lock().unwrap_or_else(PoisonError::into_inner);
    let mut all: Vec<String> = sent.statements.values().flatten().cloned().collect();
    all.dedup();
    all
}

fn sent(engine: Engine) -> &'static Mutex<Sent> {
    match engine {
        Engine::Sqlite => &SQLITE,
        Engine::Postgres => &POSTGRES,
    }
}

impl Sent {
    fn add(&mut self, sql: &str) {
        if !self.seen.insert(self.hasher.hash_one(sql)) {
            return;
        }
        let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
        if !WITH_PLANS.iter().any(|word| sql.starts_with(word)) {
            return;
        }
        let [shortest, longest] = self
            .statements
            .entry(shape(&sql))
            .or_insert_with(|| [sql.clone(), sql.clone()]);
        if sql.len() < shortest.len() {
            *shortest = sql;
        } else if sql.len() > longest.len() {
            *longest = sql;
        }
    }
}

/// A statement with one value in place of each list of values.
pub(crate) fn shape(sql: &str) -> String {
    let mut letters = sql.chars().peekable();
    let mut shape = String::new();
    while let Some(letter) = letters.next() {
        if letter == '$' && letters.peek().is_some_and(char::is_ascii_digit) {
            while letters.next_if(char::is_ascii_digit).is_some() {}
            shape.push('?');
        } else {
            shape.push(letter);
        }
    }
    for (several, one) in [("?, ?", "?"), ("(?), (?)", "(?)")] {
        while shape.contains(several) {
            shape = shape.replace(several, one);
        }
    }
    shape
}

/// A subscriber for statements alone.
struct Recorder;

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
        let engine = if fields.is_sqlite {
            Engine::Sqlite
        } else {
            Engine::Postgres
        };
        sent(engine)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(&fields.sql);
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

#[test]
fn statements_that_differ_in_the_length_of_a_list_have_one_shape() {
    let shortest = "SELECT 1 WHERE a IN ($1) AND (b, c) IN (($2, $3)) AND d = $4";
    let longest = "SELECT 1 WHERE a IN ($1, $2, $3) AND (b, c) IN (($4, $5), ($6, $7)) AND d = $8";
    let mut sent = Sent::default();
    for sql in [
        "SELECT 1 WHERE a IN ($1, $2) AND (b, c) IN (($3, $4)) AND d = $5",
        longest,
        shortest,
        "SELECT\n 2 WHERE a = ?",
        "BEGIN",
    ] {
        sent.add(sql);
    }
    let of_lists = [shortest, longest].map(str::to_owned);
    let other = ["SELECT 2 WHERE a = ?"; 2].map(str::to_owned);
    assert_eq!(
        sent.statements.into_values().collect::<Vec<_>>(),
        [of_lists, other]
    );
}
