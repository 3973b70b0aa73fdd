//! Secrets: their values are never shown, and each can be in a file.

use std::{fmt, fs::File, io::Read as _, path::Path};

/// The largest file of a secret.
const MAX_BYTES: u64 = 64 * 1024;

/// A secret that neither Debug nor Display shows.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A secret of the setting `name`, or else the contents of the file that `NAME_FILE` names, without the white space around
/// them.
///
/// # Errors
/// Both are set, or the file cannot be read. The error names the setting and the file, and nothing in it.
pub(super) fn read(
    name: &str,
    secret: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Secret>, String> {
    match (secret, file) {
        (Some(_), Some(_)) => Err(format!(
            "{name} and {name}_FILE are both set; set one of them"
        )),
        (None, Some(path)) => {
            let wrong = |why: &str| format!("{name}_FILE: {}: {why}", path.display());
            let text = read_text(path).map_err(|error| wrong(&error.to_string()))?;
            match text.trim() {
                "" => Err(wrong("the file is empty")),
                text => Ok(Some(Secret(text.to_owned()))),
            }
        }
        (secret, None) => Ok(secret.cloned()),
    }
}

/// A secret as [`read`], as text.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_secret(
    name: &str,
    secret: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<String>, String> {
    read(name, secret, file).map(|found| found.map(|Secret(text)| text.trim().to_owned()))
}

/// The text of a file that a setting names.
///
/// # Errors
/// It cannot be read. The error names the setting and the file, and nothing in it.
pub(crate) fn read_text_file(name: &str, path: &Path) -> Result<String, String> {
    read_text(path).map_err(|error| format!("{name}: {}: {error}", path.display()))
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_secret_is_read_from_one_place_and_never_shown() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let secret = Secret::from("sk_recognisable".to_owned());
        assert_eq!(format!("{secret:?}"), "(secret)");
        let read = |secret, file| {
            let read = read("NAME", secret, file);
            read.map(|found| found.map(|found| found.expose().to_owned()))
        };
        assert_eq!(read(None, None), Ok(None));
        let found = read(Some(&secret), None);
        assert_eq!(found.unwrap().unwrap(), "sk_recognisable");
        let both = read(Some(&secret), Some(&path)).unwrap_err();
        assert_eq!(both, "NAME and NAME_FILE are both set; set one of them");
        let empty = read(None, Some(&path)).unwrap_err();
        assert!(empty.starts_with("NAME_FILE: /"), "{empty}");
        assert!(empty.ends_with("the file is empty"), "{empty}");
        file.write_all(b"\n sk_in_file\r\n").unwrap();
        assert_eq!(read(None, Some(&path)).unwrap().unwrap(), "sk_in_file");
        let missing = read(None, Some(Path::new("/nowhere/key"))).unwrap_err();
        assert!(missing.contains("/nowhere/key: No such file"), "{missing}");
    }

    #[test]
    fn a_file_that_is_not_text_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[0xff, 0xfe]).unwrap();
        assert!(read("NAME", None, Some(file.path())).is_err());
    }
}
