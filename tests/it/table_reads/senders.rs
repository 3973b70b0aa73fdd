//! The functions of the server that send statements, as their source text shows.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Calls that send a statement, whatever follows.
const RAW: [&str; 3] = [".execute_raw(", ".query_one_raw(", ".query_all_raw("];
/// Calls that send a statement if a connection follows.
const BUILT: [&str; 6] = [
    ".all(",
    ".one(",
    ".exec(",
    ".exec_with_returning(",
    ".exec_without_returning(",
    ".count(",
];
const CONNECTIONS: [&str; 4] = ["&self.", "&tx)", "tx)", "db)"];
/// The files through which all statements pass.
const PASSED: [&str; 4] = [
    "store/bounced.rs",
    "store/connection.rs",
    "store/driver_pool.rs",
    "store/driver_transaction.rs",
];

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// The source file, relative to the sources of the server.
    pub(super) file: String,
    first_line: usize,
    /// The lines that send a statement.
    sends: usize,
}

/// The functions of the server in the order of their files and lines.
pub(super) struct Functions(Vec<Function>);

impl Functions {
    pub(super) fn read() -> Self {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("server/src");
        let mut files = Vec::new();
        find(&sources, &mut files);
        files.sort();
        let mut all = Vec::new();
        for path in files {
            let text = fs::read_to_string(&path).expect("a source file");
            let file = path.strip_prefix(&sources).expect("a source file");
            let file = file.to_str().expect("a name").to_owned();
            if !PASSED.contains(&&*file) {
                all.extend(functions(&file, &text));
            }
        }
        Self(all)
    }

    /// The function that a line is in.
    pub(super) fn at(&self, file: &str, line: usize) -> Option<&Function> {
        let mut above = self.0.iter().rev();
        above.find(|function| function.file == file && function.first_line <= line)
    }

    /// Those that send statements.
    pub(super) fn that_send(&self) -> impl Iterator<Item = &Function> {
        self.0.iter().filter(|function| function.sends > 0)
    }
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("a file").path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs")
            && path.file_stem().is_some_and(|name| name != "tests")
        {
            files.push(path);
        }
    }
}

fn functions(file: &str, text: &str) -> Vec<Function> {
    let mut all: Vec<Function> = Vec::new();
    // Unit tests are at the end of a file.
    let lines = text.lines().take_while(|line| *line != "mod tests {");
    for (place, line) in lines.enumerate() {
        if let Some(name) = name_of_function(line) {
            all.push(Function {
                name: name.to_owned(),
                file: file.to_owned(),
                first_line: place + 1,
                sends: 0,
            });
        }
        if let Some(function) = all.last_mut()
            && sends(line)
        {
            function.sends += 1;
        }
    }
    all
}

fn name_of_function(line: &str) -> Option<&str> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let is_declaration = before
        .split_whitespace()
        .all(|word| word.starts_with("pub") || ["async", "const", "crate::store)"].contains(&word));
    let end = after.find(['(', '<'])?;
    is_declaration.then(|| &after[..end])
}

fn sends(line: &str) -> bool {
    let is_built = |call: &&str| {
        line.split_once(*call).is_some_and(|(_, connection)| {
            CONNECTIONS
                .iter()
                .any(|known| connection.starts_with(known))
        })
    };
    RAW.iter().any(|call| line.contains(call)) || BUILT.iter().any(is_built)
}

#[test]
fn functions_that_send_statements_are_found_in_their_text() {
    let text = "\
impl Store {
    pub(crate) async fn first<T>(&self) -> bool {
        rows.iter().all(|row| row.is_new())
    }

    pub(in crate::store) async fn second(
        &self,
    ) {
        query.all(&self.reader).await?;
        change.exec(&tx).await
    }
}
#[cfg(test)]
mod tests {
    async fn third(tx: &Transaction) { tx.execute_raw(statement).await }
}
";
    let all = Functions(functions("file.rs", text));
    let names: Vec<_> = all.0.iter().map(|one| (&*one.name, one.sends)).collect();
    assert_eq!(names, [("first", 0), ("second", 2)]);
    assert_eq!(all.at("file.rs", 9).unwrap().name, "second");
    assert_eq!(all.at("file.rs", 3).unwrap().name, "first");
    assert_eq!(all.at("other.rs", 3), None);
}
