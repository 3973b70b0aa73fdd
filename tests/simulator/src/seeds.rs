//! The seeds that ever failed. They are run at every `cargo test`, each with the faults that were left of its list.

/// The file: one seed a line, `all` or the numbers of its faults, and why it failed.
const FILE: &str = include_str!("../failed_seeds.txt");

/// A seed and which of its faults happen; all if none is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) faults: Option<Vec<usize>>,
    /// The deliberate defect of the service that is turned on.
    pub(crate) defect: Option<String>,
}

impl Case {
    pub(crate) fn all_of(seed: u64) -> Self {
        Self {
            seed,
            faults: None,
            defect: None,
        }
    }

    /// The command that runs it again.
    pub(crate) fn command(&self) -> String {
        let mut command = format!("cargo simulate --seed {}", self.seed);
        if let Some(faults) = &self.faults {
            command.push_str(" --faults ");
            command.push_str(&list(faults));
        }
        if let Some(defect) = &self.defect {
            command.push_str(" --defect ");
            command.push_str(defect);
        }
        command
    }
}

/// Numbers as the command line takes them.
pub(crate) fn list(faults: &[usize]) -> String {
    if faults.is_empty() {
        return "none".to_owned();
    }
    let numbers: Vec<String> = faults.iter().map(usize::to_string).collect();
    numbers.join(",")
}

/// Parses what [`list`] writes, and `all`.
///
/// # Errors
/// It is something else.
pub(crate) fn parse_list(text: &str) -> Result<Option<Vec<usize>>, String> {
    match text {
        "all" => Ok(None),
        "none" => Ok(Some(Vec::new())),
        _ => {
            let numbers = text.split(',').map(|number| number.trim().parse());
            let numbers: Result<Vec<usize>, _> = numbers.collect();
            numbers
                .map(Some)
                .map_err(|_| format!("{text} is not `all`, `none` or numbers with commas"))
        }
    }
}

/// Every seed that ever failed.
///
/// # Errors
/// A line of the file is wrong.
pub(crate) fn failed() -> Result<Vec<Case>, String> {
    let lines = FILE.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split_whitespace();
            let seed = words.next().and_then(|word| word.parse().ok());
            let seed = seed.ok_or_else(|| format!("failed_seeds.txt: no seed in {line:?}"))?;
            let faults = parse_list(words.next().unwrap_or("all"))?;
            Ok(Case {
                faults,
                ..Case::all_of(seed)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_is_written() {
        for faults in [vec![], vec![3], vec![1, 20]] {
            assert_eq!(parse_list(&list(&faults)), Ok(Some(faults)));
        }
        assert_eq!(parse_list("all"), Ok(None));
        assert!(parse_list("some").is_err());
    }

    #[test]
    fn the_file_can_be_read() {
        failed().unwrap();
    }
}
