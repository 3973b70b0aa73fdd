//! Every statement that the store sends while tests run. Each has to be in the list of its engine, whose plans
//! `operations::query_plans` checks on a large database.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::PathBuf,
    sync::{LazyLock, Mutex, Once, PoisonError},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::Interest,
};

use super::world::Engine;

/// `check` makes a test fail that sends a statement that is not listed; `update` adds it to the list.
const SETTING: &str = "STATEMENTS";
/// The target of the store's events.
const TARGET: &str = "usage_server::statement";
/// Values of a list that are kept: a planner treats one value like an equality.
const LIST_VALUES: usize = 2;

/// The statements sent so far that are not in a list.
static UNLISTED: Mutex<BTreeSet<(bool, String)>> = Mutex::new(BTreeSet::new());

/// Records statements from now on.
pub(crate) fn record() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        tracing::subscriber::set_global_default(Recorder).expect("the only subscriber");
    });
}

/// Whether lists are written instead of compared.
pub(crate) fn is_update() -> bool {
    std::env::var(SETTING).is_ok_and(|setting| setting == "update")
}

/// The list of an engine.
pub(crate) fn list_file(engine: Engine) -> PathBuf {
    let name = match engine {
        Engine::Sqlite => "sqlite.txt",
        Engine::Postgres => "postgres.txt",
    };
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/operations/query_plans");
    folder.join(name)
}

/// The statements of a list. Indented lines are plans.
pub(crate) fn listed(engine: Engine) -> BTreeSet<String> {
    let lines = fs::read_to_string(list_file(engine)).expect("a list");
    let lines = lines.lines().map(str::to_owned);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with([' ', '#']))
        .collect()
}

/// Fails, if that is asked for, if a statement was sent that is in no list. Each is reported once, by the first test that
/// ends.
pub(crate) fn assert_listed(engine: Engine) {
    let is_sqlite = engine == Engine::Sqlite;
    let mut unlisted = UNLISTED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut own = Vec::new();
    unlisted.retain(|(sqlite, sql)| {
        let is_own = *sqlite == is_sqlite;
        if is_own {
            own.push(sql.clone());
        }
        !is_own
    });
    drop(unlisted);
    if own.is_empty() {
        return;
    }
    let file = list_file(engine);
    if is_update() {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(file)
            .expect("a list");
        for sql in own {
            writeln!(file, "{sql}").expect("a line");
        }
        return;
    }
    if std::env::var(SETTING).is_err() {
        return;
    }
    panic!(
        "the plan of a new statement is not checked: run this test with {SETTING}=update to add it to {}, then \
         `query_plans` in the same way to add its plan, and judge the plan: {own:#?}",
        file.display()
    );
}

/// A subscriber for statements alone.
struct Recorder;

impl Subscriber for Recorder {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == TARGET {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn event(&self, event: &Event<'_>) {
        let mut sent = Sent::default();
        event.record(&mut sent);
        let engine = if sent.is_sqlite {
            Engine::Sqlite
        } else {
            Engine::Postgres
        };
        let sql = normalized(&sent.sql);
        if !listed_once(engine).contains(sql.as_str()) {
            let mut unlisted = UNLISTED.lock().unwrap_or_else(PoisonError::into_inner);
            unlisted.insert((sent.is_sqlite, sql));
        }
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
struct Sent {
    is_sqlite: bool,
    sql: String,
}

impl Visit for Sent {
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

fn listed_once(engine: Engine) -> &'static BTreeSet<String> {
    static SQLITE: LazyLock<BTreeSet<String>> = LazyLock::new(|| listed(Engine::Sqlite));
    static POSTGRES: LazyLock<BTreeSet<String>> = LazyLock::new(|| listed(Engine::Postgres));
    match engine {
        Engine::Sqlite => &SQLITE,
        Engine::Postgres => &POSTGRES,
    }
}

/// A statement on one line, with at most two values in each list of bound values.
fn normalized(sql: &str) -> String {
    let mut rest = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut whole = String::new();
    let mut has_shorter_list = false;
    while let Some(start) = rest.find(" IN (") {
        let tail = rest.split_off(start + " IN (".len());
        whole.push_str(&rest);
        let end = closing_parenthesis(&tail);
        let values = split_list(&tail[..end]);
        let is_bound = |value: &&str| value.contains(['?', '$']) && !value.contains(' ');
        if values.len() > LIST_VALUES && values.iter().all(is_bound) {
            has_shorter_list = true;
            whole.push_str(&values[..LIST_VALUES].join(", "));
            rest = tail[end..].to_owned();
        } else {
            rest = tail;
        }
    }
    whole.push_str(&rest);
    if has_shorter_list {
        renumbered(&whole)
    } else {
        whole
    }
}

/// The place of the parenthesis that closes the list at the start of a text.
fn closing_parenthesis(text: &str) -> usize {
    let mut depth = 0_i32;
    for (place, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' if depth == 0 => return place,
            ')' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// The values of a list. Spaces inside tuples are removed.
fn split_list(text: &str) -> Vec<&str> {
    let mut values = Vec::new();
    let (mut depth, mut from) = (0_i32, 0);
    for (place, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                values.push(text[from..place].trim());
                from = place + 1;
            }
            _ => {}
        }
    }
    values.push(text[from..].trim());
    values
}

/// Numbers the bound values of `PostgreSQL` from 1 on.
fn renumbered(sql: &str) -> String {
    let mut numbered = String::new();
    let mut next = 1;
    let mut letters = sql.chars().peekable();
    while let Some(letter) = letters.next() {
        numbered.push(letter);
        if letter == '$' && letters.peek().is_some_and(char::is_ascii_digit) {
            while letters.next_if(char::is_ascii_digit).is_some() {}
            numbered.push_str(&next.to_string());
            next += 1;
        }
    }
    numbered
}

#[test]
fn statements_that_differ_in_the_length_of_a_list_are_one() {
    let one =
        "SELECT 1 WHERE a IN ($1, $2, $3) AND (b, c) IN (($4, $5), ($6, $7), ($8, $9)) AND d = $10";
    let other = "SELECT 1 WHERE a IN ($1, $2, $3, $4) AND (b, c) IN (($5, $6), ($7, $8), ($9, $10)) AND d = $11";
    let text = "SELECT 1 WHERE a IN ($1, $2) AND (b, c) IN (($3, $4), ($5, $6)) AND d = $7";
    assert_eq!(normalized(one), text);
    assert_eq!(normalized(other), text);
    assert_eq!(
        normalized("SELECT\n 1 WHERE a IN (?)"),
        "SELECT 1 WHERE a IN (?)"
    );
}
