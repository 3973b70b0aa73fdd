//! What every page must be, however it is looked at.

use super::axe::Axe;
use crate::support::chromium::{Chromium, LIGHT, Look, NARROW_DARK, keep_picture};

/// Colours do not depend on the width, and places not on the colours: two looks see both of each.
const LOOKS: [Look; 2] = [LIGHT, NARROW_DARK];
/// By how much the page is wider than the window, and what reaches beyond it.
pub(super) const OVERFLOW: &str = r#"
const page = document.documentElement;
const over = page.scrollWidth - page.clientWidth;
if (over <= 0) return [];
const wide = [...document.querySelectorAll("body *")].filter(
  (part) => part.getBoundingClientRect().right > page.clientWidth + 1 && !part.closest(".scroll"),
);
return [`${over} px beyond: ` + wide.slice(0, 5).map((part) => part.outerHTML.slice(0, 200)).join("\n")];
"#;

/// Looks at the page that is shown in each way, and keeps pictures. Returns what is wrong.
pub(super) async fn check(window: &Chromium, axe: &Axe, name: &str) -> Vec<String> {
    for look in LOOKS {
        window.look(look).await;
        keep_picture(&format!("{name}-{}", look.name), &window.picture().await);
    }
    let wrong = faults(window, axe).await;
    let wrong = wrong.into_iter().map(|what| format!("{name}, {what}"));
    wrong.collect()
}

/// What is wrong with the page that is shown, in each way of looking at it.
pub(super) async fn faults(window: &Chromium, axe: &Axe) -> Vec<String> {
    let mut wrong = Vec::new();
    for look in LOOKS {
        window.look(look).await;
        let violations = axe.violations(window).await;
        let over = window.evaluate(OVERFLOW).await;
        let over = over.as_array().expect("a list");
        let found = violations
            .into_iter()
            .chain(over.iter().map(ToString::to_string));
        wrong.extend(found.map(|what| format!("{}: {what}", look.name)));
    }
    window.look(LIGHT).await;
    wrong
}
