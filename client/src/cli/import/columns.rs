//! Which column of a CSV file, or field of a JSON object, is what.

use super::bad::{Bad, Cause, quoted};
use std::collections::HashSet;

/// What a line has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    AccountId,
    Meter,
    Quantity,
    Timestamp,
    Id,
}

impl Field {
    const ALL: [Self; 5] = [
        Self::AccountId,
        Self::Meter,
        Self::Quantity,
        Self::Timestamp,
        Self::Id,
    ];

    /// Its name, under which it is read unless it is mapped.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AccountId => "account_id",
            Self::Meter => "meter",
            Self::Quantity => "quantity",
            Self::Timestamp => "timestamp",
            Self::Id => "id",
        }
    }
}

/// Reads `FIELD=NAME`.
pub(super) fn parse_mapped(text: &str) -> Result<(Field, String), String> {
    let parsed = text.split_once('=').and_then(|(field, name)| {
        let field = Field::ALL.into_iter().find(|known| known.name() == field)?;
        let name = Some(name.trim()).filter(|name| !name.is_empty())?;
        Some((field, name.to_owned()))
    });
    parsed.ok_or_else(|| {
        let fields = Field::ALL.map(Field::name).join(", ");
        format!("expected FIELD=NAME, where FIELD is one of {fields}")
    })
}

/// The names of the fields in the input.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    read: Vec<Column>,
    ignore_unknown: bool,
    ignore_id: bool,
}

/// A field's name in the input.
#[derive(Debug, Clone)]
struct Column {
    field: Field,
    name: String,
    /// Whether an option names it, so that each line must have it.
    is_mapped: bool,
}

/// What a name in the input means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Field(Field),
    Ignored,
}

impl Columns {
    /// The usual names, except for fields that are mapped to other names.
    pub(super) fn new(
        mapped: &[(Field, String)],
        ignore_id: bool,
        ignore_unknown: bool,
    ) -> Result<Self, String> {
        let mut read = Vec::new();
        for field in Field::ALL {
            let mut names = mapped.iter().filter(|(mapped, _)| *mapped == field);
            let name = names.next().map(|(_, name)| name);
            if names.next().is_some() {
                return Err(format!("{} is mapped twice", field.name()));
            }
            read.push(Column {
                field,
                name: name.map_or(field.name(), String::as_str).to_owned(),
                is_mapped: name.is_some(),
            });
        }
        let is_id_mapped = mapped.iter().any(|(field, _)| *field == Field::Id);
        if ignore_id && is_id_mapped {
            return Err("--ignore-id contradicts a column of ids".to_owned());
        }
        // A column named id may be mapped to another field. Then it contains no ids.
        let is_id_taken = mapped
            .iter()
            .any(|(field, name)| *field != Field::Id && name == Field::Id.name());
        if ignore_id || (is_id_taken && !is_id_mapped) {
            read.retain(|column| column.field != Field::Id);
        }
        let mut names = HashSet::new();
        if let Some(twice) = read.iter().find(|column| !names.insert(&column.name)) {
            let (name, field) = (quoted(&twice.name), twice.field.name());
            return Err(format!(
                "the column {name} cannot be {field} and another field"
            ));
        }
        Ok(Self {
            read,
            ignore_unknown,
            ignore_id,
        })
    }

    /// What a name means. An error says what to do about an unknown one; `what` is "column" or "field".
    ///
    /// A name that only looks different, such as `Quantity`, is an error even if unknown names are ignored: each line
    /// would count as one unit without any sign of it.
    pub(super) fn meaning(&self, name: &str, what: &str) -> Result<Meaning, String> {
        if let Some(column) = self.read.iter().find(|column| column.name == name) {
            return Ok(Meaning::Field(column.field));
        }
        if self.ignore_id && name == Field::Id.name() {
            return Ok(Meaning::Ignored);
        }
        let similar = self
            .read
            .iter()
            .find(|column| !column.is_mapped && folded(&column.name) == folded(name));
        let shown = quoted(name);
        if let Some(Column { field, .. }) = similar {
            let field = field.name();
            return Err(format!(
                "the {what} {shown} is not {field}; if it should be, rename it or add --column {field}={name}"
            ));
        }
        if self.ignore_unknown {
            return Ok(Meaning::Ignored);
        }
        let names = self.read.iter().map(|column| &*column.name);
        let names: Vec<&str> = names.collect();
        Err(format!(
            "the {what} {shown} is unknown; known are {}. --column maps a {what}, and --ignore-unknown ignores others",
            names.join(", ")
        ))
    }

    /// The name of each field that is read.
    pub(super) fn names(&self) -> Vec<(String, String)> {
        let names = self.read.iter();
        let names = names.map(|column| (column.field.name().to_owned(), column.name.clone()));
        names.collect()
    }

    /// The position of each field in a header.
    pub(super) fn of_header(&self, names: &[&str]) -> Result<Vec<(Field, usize)>, String> {
        let mut positions = Vec::new();
        for (position, name) in names.iter().enumerate() {
            let number = |position: usize| position.saturating_add(1);
            // Spreadsheets add columns without a name. They are not the same column.
            let first = names.iter().position(|other| other == name);
            if let Some(first) = first.filter(|first| *first < position && !name.is_empty()) {
                return Err(format!(
                    "the header has the column {} twice, as columns {} and {}",
                    quoted(name),
                    number(first),
                    number(position)
                ));
            }
            let meaning = self.meaning(name, "column").map_err(|why| match *names {
                [only] if only.contains([';', '\t', '|']) => {
                    format!("{why}; fields must be separated by commas")
                }
                _ => why,
            })?;
            if let Meaning::Field(field) = meaning {
                positions.push((field, position));
            }
        }
        for Column {
            field,
            name,
            is_mapped,
        } in &self.read
        {
            let is_required = *is_mapped || matches!(field, Field::AccountId | Field::Timestamp);
            if is_required && !positions.iter().any(|(found, _)| found == field) {
                let hint = if *is_mapped {
                    ""
                } else {
                    "; --column maps one with another name"
                };
                return Err(format!("the header has no column {}{hint}", quoted(name)));
            }
        }
        Ok(positions)
    }

    /// An error if a JSON object lacks a field that an option names.
    pub(super) fn check_present(&self, is_present: impl Fn(Field) -> bool) -> Result<(), Bad> {
        let missing = |column: &&Column| column.is_mapped && !is_present(column.field);
        let Some(Column { field, name, .. }) = self.read.iter().find(missing) else {
            return Ok(());
        };
        let cause = match field {
            Field::AccountId => Cause::Account,
            Field::Meter => Cause::Meter,
            Field::Quantity => Cause::Quantity,
            Field::Timestamp => Cause::Timestamp,
            Field::Id => Cause::Id,
        };
        let why = format!(
            "{} is missing: there is no field {}",
            field.name(),
            quoted(name)
        );
        Err(Bad::new(cause, why))
    }
}

/// A name without what is easily written in another way.
fn folded(name: &str) -> String {
    let letters = name
        .chars()
        .filter(|letter| !matches!(letter, '_' | '-' | ' '));
    letters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(mapped: &[&str], ignore_id: bool, ignore_unknown: bool) -> Result<Columns, String> {
        let mapped: Vec<_> = mapped
            .iter()
            .map(|text| parse_mapped(text).unwrap())
            .collect();
        Columns::new(&mapped, ignore_id, ignore_unknown)
    }

    fn header(
        mapped: &[&str],
        ignore_unknown: bool,
        text: &str,
    ) -> Result<Vec<&'static str>, String> {
        let names: Vec<&str> = text.split(',').collect();
        let columns = columns(mapped, false, ignore_unknown)?;
        let mut found = columns.of_header(&names)?;
        found.sort_by_key(|(_, position)| *position);
        Ok(found.iter().map(|(field, _)| field.name()).collect())
    }

    #[test]
    fn columns_are_found_by_their_names() {
        let all = header(&[], false, "id,timestamp,meter,quantity,account_id").unwrap();
        assert_eq!(all, ["id", "timestamp", "meter", "quantity", "account_id"]);
        let mapped = ["account_id=customer", "quantity=n", "timestamp=used_at"];
        let found = header(&mapped, true, "used_at,note,customer,n,,").unwrap();
        assert_eq!(found, ["timestamp", "account_id", "quantity"]);
        // The only column named id is that of accounts, so there are no ids.
        assert_eq!(
            header(&["account_id=id"], false, "id,timestamp").unwrap(),
            ["account_id", "timestamp"]
        );
    }

    #[test]
    fn a_column_named_twice_is_refused() {
        for (mapped, text) in [
            (&[][..], "account_id,quantity,timestamp,quantity"),
            (&[], "account_id,timestamp,note,note"),
            (&["quantity=n"], "account_id,n,timestamp,n"),
        ] {
            let why = header(mapped, true, text).unwrap_err();
            assert!(why.contains("twice, as columns"), "{why}");
        }
    }

    #[test]
    fn missing_and_unknown_columns_are_named() {
        for (mapped, ignore_unknown, text, why) in [
            (
                &[][..],
                false,
                "account_id,n,timestamp",
                "the column 'n' is unknown; known are account_id, meter",
            ),
            (
                &[],
                false,
                "account_id;timestamp",
                "fields must be separated by commas",
            ),
            (
                &[],
                true,
                "account_id",
                "the header has no column 'timestamp'",
            ),
            (
                &["quantity=n"],
                true,
                "account_id,timestamp",
                "the header has no column 'n'",
            ),
            (
                &[],
                true,
                "account_id,Quantity,timestamp",
                "the column 'Quantity' is not quantity",
            ),
            (&[], true, "account_id,timestamp,ID", "add --column id=ID"),
            (
                &[],
                true,
                "accountId,timestamp",
                "the column 'accountId' is not account_id",
            ),
        ] {
            let error = header(mapped, ignore_unknown, text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for (mapped, ignore_id) in [
            (&["meter=a", "meter=b"][..], false),
            (&["meter=a", "quantity=a"], false),
            (&["meter=quantity"], false),
            (&["id=event"], true),
        ] {
            columns(mapped, ignore_id, false).unwrap_err();
        }
        for text in ["meter", "meter=", "meters=a", "=a"] {
            parse_mapped(text).unwrap_err();
        }
    }
}
