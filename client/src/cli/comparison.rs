//! What commands that compare figures page by page have in common: which rows are shown, and how the command ends.

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows},
};
use serde_json::Value;

/// What was compared so far.
#[derive(Debug)]
pub(super) struct Comparison {
    rows: Rows,
    only_differing: bool,
    compared: usize,
    differing: usize,
}

/// Whether the figures of a row differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Difference {
    None,
    /// They may become the same.
    Preliminary,
    Found,
}

impl Comparison {
    /// With `only_differing`, equal rows are counted and not shown.
    pub(super) fn new(columns: &'static [&'static str], only_differing: bool) -> Self {
        Self {
            rows: Rows::new(columns),
            only_differing,
            compared: 0,
            differing: 0,
        }
    }

    /// Adds a row with the values of the columns.
    pub(super) fn add(&mut self, difference: Difference, cells: Vec<Value>) {
        self.compared = self.compared.saturating_add(1);
        let is_found = difference == Difference::Found;
        self.differing = self.differing.saturating_add(usize::from(is_found));
        if difference != Difference::None || !self.only_differing {
            self.rows.push(cells);
        }
    }

    /// Prints the rows. `rest` is the token of what was not read, of `things` that the command can be limited to; `told` says
    /// how many rows of all differ.
    ///
    /// # Errors
    /// Not everything was read, or a row differs.
    pub(super) fn end(
        self,
        format: Format,
        streams: &mut Streams<'_>,
        (rest, things): (Option<String>, &str),
        told: impl FnOnce(usize, usize) -> String,
    ) -> Result<(), Failure> {
        self.rows.print(format, streams)?;
        if rest.is_some() {
            let limit = format!("there are more {things} than one command compares; name one");
            return Err(Failure::Local(limit));
        }
        if self.differing > 0 {
            return Err(Failure::Partial(told(self.differing, self.compared)));
        }
        Ok(())
    }
}
