//! The look of the demo's tables.

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

pub(super) fn new_table(head: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(head);
    table
}

/// Aligns all but the first columns to the right.
pub(super) fn align_right(table: &mut Table, first: usize) {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
