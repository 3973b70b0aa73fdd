//! Pages on paper.

use serde_json::json;

use super::super::invoices::invoice;
use super::looks::OVERFLOW;
use crate::support::{
    chromium::{Chromium, LIGHT, PRINT, keep_picture},
    world::{World, on_sqlite},
};

on_sqlite!(an_invoice_and_a_call_print_well);

/// What is of no use on paper, and whether the foot says what times mean.
const USELESS: &str = r#"
const faults = [];
for (const part of document.querySelectorAll("header, nav, form, button, input, .skip, .more")) {
  if (part.checkVisibility()) faults.push(`it is printed: ${part.outerHTML.slice(0, 100)}`);
}
const foot = document.querySelector("footer");
if (!foot.checkVisibility() || !foot.textContent.includes("UTC")) faults.push("no foot that says UTC");
return faults;
"#;
/// Times with no word of their zone: above their column, or beside them.
const ZONELESS: &str = r#"
const beside = (time) => {
  const cell = time.closest("td, th");
  if (!cell) return time.closest("dd, p, h1, h2, h3, li").textContent;
  return cell.closest("table").tHead.rows[0].cells[cell.cellIndex].textContent;
};
const times = [...document.querySelectorAll("main time")];
return [times.length, times.map(beside).filter((text) => !text.includes("UTC"))];
"#;

/// What is wrong with the page that is shown, once it is printed.
pub(super) async fn faults(window: &Chromium, name: &str) -> Vec<String> {
    window.look(PRINT).await;
    let mut wrong = Vec::new();
    for script in [OVERFLOW, USELESS] {
        let found = window.evaluate(script).await;
        let found = found.as_array().expect("a list");
        wrong.extend(found.iter().map(|what| format!("{name}, print: {what}")));
    }
    window.look(LIGHT).await;
    wrong
}

async fn an_invoice_and_a_call_print_well(mut world: World) {
    let key = invoice(&mut world).await;
    let Some(window) = Chromium::start(world.http_url()).await else {
        return world.finish().await;
    };
    window.open(&format!("/find?account=acct&key={key}")).await;
    window
        .assert_shows("The billing periods that charge it")
        .await;
    assert_prints_well(&window, "find").await;
    window.click("the invoice").await;
    for shown in [
        "What invoices charge",
        "Its reports",
        "Those whose keys are kept",
    ] {
        window.assert_shows(shown).await;
    }
    assert_prints_well(&window, "invoice").await;
    // The same page on the screen does not pass.
    let on_screen = window.evaluate(USELESS).await;
    let parts = on_screen.as_array().unwrap();
    assert!(parts.len() > 3, "{parts:?}");
    window.finish().await;
    world.finish().await;
}

async fn assert_prints_well(window: &Chromium, name: &str) {
    let wrong = faults(window, name).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let found = window.evaluate(ZONELESS).await;
    assert!(found[0].as_u64() >= Some(5), "{name}: {found}");
    assert_eq!(found[1], json!([]), "{name}");
    window.look(PRINT).await;
    keep_picture(&format!("{name}-print"), &window.picture().await);
    window.look(LIGHT).await;
}
