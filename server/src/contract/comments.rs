//! The comments of the proto files, which are the reference of the API.

use std::collections::HashMap;

use prost_types::FileDescriptorSet;

/// The comments by their file and their path in it.
#[derive(Debug, Default)]
pub(super) struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    /// Adds those of some files.
    pub(super) fn read(&mut self, files: &FileDescriptorSet) {
        for file in &files.file {
            let locations = file.source_code_info.iter().flat_map(|info| &info.location);
            for location in locations {
                if let Some(text) = &location.leading_comments {
                    let place = (file.name().to_owned(), location.path.clone());
                    self.0.insert(place, plain(text));
                }
            }
        }
    }

    /// The comment on an item; empty without one.
    pub(super) fn of(&self, file: &str, path: &[i32]) -> &str {
        let found = self.0.get(&(file.to_owned(), path.to_vec()));
        found.map_or("", String::as_str)
    }
}

/// The text without the space that follows each `//`.
fn plain(comment: &str) -> String {
    let lines = comment.lines();
    let lines: Vec<&str> = lines
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect();
    lines.join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_stay_and_margins_go() {
        assert_eq!(plain(" One.\n\n  Two\n three.\n"), "One.\n\n Two\nthree.");
    }
}
