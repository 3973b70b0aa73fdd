//! The fields of a result as its debug output shows them, and which of them a changed answer changed.

use std::collections::{BTreeMap, BTreeSet};

/// The values of each field of a whole answer's result, by the path to it, and the paths whose values were others.
pub(super) struct Leaves {
    whole: BTreeMap<String, Vec<String>>,
    text: String,
    changed: BTreeSet<String>,
}

impl Leaves {
    pub(super) fn of(text: &str) -> Self {
        Self {
            whole: values(text),
            text: text.to_owned(),
            changed: BTreeSet::new(),
        }
    }

    /// Notes the fields that another result has as often, with other values, or without one.
    pub(super) fn compare(&mut self, text: &str) {
        let other = values(text);
        for (path, values) in &self.whole {
            let is_other = other
                .get(path)
                .is_some_and(|found| found.len() == values.len() && found != values);
            let field = path.strip_suffix(".*").and_then(|field| other.get(field));
            let is_none = field.is_some_and(|found| found.iter().any(|value| value == "None"));
            if is_other || is_none {
                self.changed.insert(path.clone());
            }
        }
    }

    /// The fields that were the same in all results.
    pub(super) fn unchanged(&self) -> Vec<String> {
        let paths = self.whole.iter();
        paths
            .filter(|(path, values)| {
                // What it contains has fields.
                let is_leaf = values.iter().all(|value| !value.ends_with(['{', '[', '(']));
                is_leaf && !self.changed.contains(*path)
            })
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// How many objects of a list the whole answer has.
    pub(super) fn count(&self, object: Option<&str>) -> usize {
        count(&self.text, object)
    }
}

/// How many objects of a type a result has; none without a type.
pub(super) fn count(text: &str, object: Option<&str>) -> usize {
    let lines = text.lines().map(str::trim);
    object.map_or(0, |object| {
        let start = format!("{object} {{");
        lines.filter(|line| *line == start).count()
    })
}

/// How many objects a result names that could not be read.
pub(super) fn count_unreadable(text: &str) -> usize {
    let types = ["Unreadable", "UnreadInvoice"].into_iter();
    types.map(|name| count(text, Some(name))).sum()
}

/// The values of fields by their path, in their order. What has no name is `*`; such values only count inside of a field.
fn values(text: &str) -> BTreeMap<String, Vec<String>> {
    const INDENT: usize = 4;
    let mut found = BTreeMap::<String, Vec<String>>::new();
    let mut stack: Vec<String> = Vec::new();
    for line in text.lines() {
        let content = line.trim_start();
        stack.truncate((line.len() - content.len()) / INDENT);
        let content = content.strip_suffix(',').unwrap_or(content);
        if ["}", "]", ")"].contains(&content) {
            continue;
        }
        let named = content.split_once(": ").filter(|(name, _)| is_name(name));
        let (name, value) = named.unwrap_or(("*", content));
        let is_inside_field = stack.last().is_some_and(|parent| parent != "*");
        stack.push(name.to_owned());
        if name != "*" || is_inside_field {
            let values = found.entry(stack.join(".")).or_default();
            values.push(value.to_owned());
        }
    }
    found
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[test]
fn fields_are_found_by_their_paths() {
    #[derive(Debug)]
    #[allow(dead_code, reason = "its debug output is read")]
    struct Item {
        id: &'static str,
        size: Option<i64>,
        tags: Vec<&'static str>,
    }
    let text = |id, size, tags: &[&'static str]| {
        let tags = tags.to_vec();
        format!("{:#?}", Some(vec![Item { id, size, tags }]))
    };
    let mut leaves = Leaves::of(&text("a: b", Some(7), &["x"]));
    let all = ["*.*.*.id", "*.*.*.size.*", "*.*.*.tags.*"];
    assert_eq!(leaves.unchanged(), all);
    assert_eq!(leaves.count(Some("Item")), 1);
    leaves.compare(&text("c", None, &[]));
    assert_eq!(leaves.unchanged(), all[2..]);
    let mut leaves = Leaves::of(&text("a", Some(7), &["x"]));
    leaves.compare(&text("a", Some(8), &["x", "y"]));
    assert_eq!(leaves.unchanged(), [all[0], all[2]]);
    assert_eq!(count("Other {\n}", Some("Item")), 0);
}
