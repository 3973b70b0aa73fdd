//! Checks of a page by axe-core: the rules of WCAG 2.2, levels A and AA.

use std::{env, fs, path::PathBuf};

use crate::support::{chromium::Chromium, world::engine::skipped};

/// Names axe's script, as `.ci/run` installs it.
const SCRIPT: &str = "AXE_CORE";
/// Whether the page has the script.
const IS_LOADED: &str = "return Boolean(window.axe)";
/// What is seen of it: closed parts are opened first.
const RUN: &str = r#"
const done = arguments[arguments.length - 1];
document.querySelectorAll("details").forEach((part) => (part.open = true));
const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
const told = (rule) => rule.nodes.slice(0, 5).map((node) => `${rule.id}: ${node.target} ${node.failureSummary}`);
axe.run(document, { runOnly: { type: "tag", values: tags }, resultTypes: ["violations"] }).then(
  (found) => done({ violations: found.violations.flatMap(told), passes: found.passes.length }),
  (error) => done({ violations: [String(error)], passes: 0 }),
);
"#;

pub(super) struct Axe(String);

impl Axe {
    /// The script. Without it, says that the test was skipped; in CI it fails.
    pub(super) fn load() -> Option<Self> {
        let installed = || {
            let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target");
            target.join("node/node_modules/axe-core/axe.min.js")
        };
        let path = env::var_os(SCRIPT).map_or_else(installed, PathBuf::from);
        match fs::read_to_string(&path) {
            Ok(script) => Some(Self(script)),
            Err(error) => {
                let missing = format!("there is no axe-core in {}: {error}", path.display());
                let is_ci = env::var("CI").is_ok_and(|ci| ci == "true");
                assert!(!is_ci, "{missing}");
                skipped(&missing);
                None
            }
        }
    }

    /// What is wrong with the page as it is looked at now.
    pub(super) async fn violations(&self, window: &Chromium) -> Vec<String> {
        // It is half a megabyte, so a page gets it once.
        if window.evaluate(IS_LOADED).await == false {
            window.evaluate(&self.0).await;
        }
        let found = window.evaluate_later(RUN).await;
        let passes = found["passes"].as_i64().unwrap_or_default();
        assert!(passes > 5, "axe looked at nothing: {found}");
        let violations = found["violations"].as_array().expect("a list");
        violations.iter().map(ToString::to_string).collect()
    }
}
