//! The deliberate defects of the service, in a program that has them.

/// The name of each defect, and what is wrong.
///
/// # Errors
/// This program has none.
#[cfg(feature = "planted-defects")]
#[allow(
    clippy::unnecessary_wraps,
    reason = "without the feature it is an error"
)]
pub(crate) fn all() -> Result<Vec<(&'static str, &'static str)>, String> {
    use usage_server::planted_defects::Defect;
    let all = Defect::ALL.iter();
    Ok(all
        .map(|defect| (defect.name(), defect.sentence()))
        .collect())
}

/// Turns a defect on in this process.
///
/// # Errors
/// There is none with this name.
#[cfg(feature = "planted-defects")]
pub(crate) fn plant(name: &str) -> Result<(), String> {
    use usage_server::planted_defects::{Defect, plant};
    let mut all = Defect::ALL.iter();
    let defect = all.find(|defect| defect.name() == name);
    plant(*defect.ok_or_else(|| format!("there is no defect {name}"))?);
    Ok(())
}

/// Why this program has no defects.
#[cfg(not(feature = "planted-defects"))]
const NONE: &str = "this program has no planted defects: use `cargo simulate`";

/// The same without defects.
///
/// # Errors
/// This program has none.
#[cfg(not(feature = "planted-defects"))]
pub(crate) fn all() -> Result<Vec<(&'static str, &'static str)>, String> {
    Err(NONE.to_owned())
}

/// The same without defects.
///
/// # Errors
/// This program has none.
#[cfg(not(feature = "planted-defects"))]
pub(crate) fn plant(_: &str) -> Result<(), String> {
    Err(NONE.to_owned())
}

#[cfg(all(test, feature = "planted-defects"))]
mod tests {
    use std::collections::BTreeSet;

    use usage_server::planted_defects::{MARK, check_key};

    use super::*;

    #[test]
    fn a_live_key_is_refused() {
        for live in ["sk_live_1", "rk_live_1"] {
            assert!(check_key(live).is_err_and(|why| why.contains(MARK)));
        }
        for test in ["sk_test_1", "rk_test_1", "other"] {
            assert_eq!(check_key(test), Ok(()));
        }
    }

    #[test]
    fn each_defect_has_a_name_of_its_own() {
        let all = all().unwrap();
        assert!(all.len() >= 30);
        let names: BTreeSet<_> = all.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), all.len());
        assert!(plant("none").is_err());
    }
}
