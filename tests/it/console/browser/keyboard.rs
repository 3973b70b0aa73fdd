//! Each page by the keyboard alone.

use serde_json::Value;

use super::furniture;
use crate::support::{
    chromium::{Chromium, LIGHT, NARROW},
    world::{World, on_sqlite},
};

on_sqlite!(
    tab_reaches_every_link_and_field_in_order_and_shows_where_it_is,
    the_first_link_leads_past_the_navigation,
);

const TAB: char = '\u{e004}';
const ENTER: char = '\u{e007}';
/// Remembers the order of what gets the focus, and what does not show it. Returns how many things can have it.
const WATCH: &str = r#"
const wanted = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']";
// Of a group of choices, one is reached: the chosen one, or else the first.
const isReached = (part) => {
  if (part.type !== "radio") return true;
  const group = [...document.getElementsByName(part.name)];
  return part === (group.find((choice) => choice.checked) ?? group[0]);
};
const seen = [...document.querySelectorAll(wanted)].filter((part) => part.checkVisibility());
const all = seen.filter(isReached);
window.order = [];
window.unseen = [];
document.addEventListener("focusin", (event) => {
  window.order.push(all.indexOf(event.target));
  const style = getComputedStyle(event.target);
  const isSeen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  if (!isSeen) window.unseen.push(event.target.outerHTML.slice(0, 200));
});
return all.length;
"#;
const FOCUSED: &str = "return [document.activeElement.id, document.activeElement.textContent]";

async fn tab_reaches_every_link_and_field_in_order_and_shows_where_it_is(world: World) {
    let [admin, ..] = furniture::fill(&world).await;
    let Some(window) = Chromium::start(world.http_url()).await else {
        return world.finish().await;
    };
    let pages = furniture::addresses(&world, &admin).await;
    window.open("/sign-in").await;
    // The skip link, then the only field.
    window.press(TAB, 2).await;
    for key in admin.chars() {
        window.press(key, 1).await;
    }
    window.press(ENTER, 1).await;
    window.assert_shows("root (admin)").await;
    // The order does not depend on the width, and what has the focus is seen alike: one page shows that.
    for (look, pages) in [(LIGHT, &pages[..]), (NARROW, &pages[..1])] {
        window.look(look).await;
        for (name, address) in pages {
            window.open(address).await;
            let count = window.evaluate(WATCH).await.as_u64().unwrap();
            window.press(TAB, usize::try_from(count).unwrap()).await;
            let order = window.evaluate("return window.order").await;
            let expected: Vec<Value> = (0..count).map(Value::from).collect();
            assert_eq!(
                order.as_array().unwrap(),
                &expected,
                "{name}, {}",
                look.name
            );
            let unseen = window.evaluate("return window.unseen").await;
            assert_eq!(unseen, Value::Array(Vec::new()), "{name}, {}", look.name);
        }
    }
    window.finish().await;
    world.finish().await;
}

async fn the_first_link_leads_past_the_navigation(world: World) {
    world
        .count("acct", 7, crate::support::world::hours_ago(3))
        .await;
    let Some(window) = Chromium::start(world.http_url()).await else {
        return world.finish().await;
    };
    let is_in_sight = "const box = document.querySelector('.skip').getBoundingClientRect(); return box.left >= 0 && box.top >= 0";
    for page in ["/", "/reports", "/accounts"] {
        window.open(page).await;
        assert_eq!(window.evaluate(is_in_sight).await, false, "{page}");
        window.press(TAB, 1).await;
        assert_eq!(window.evaluate(FOCUSED).await[1], "Skip to the content");
        assert_eq!(window.evaluate(is_in_sight).await, true, "{page}");
        window.press(ENTER, 1).await;
        assert_eq!(window.evaluate(FOCUSED).await[0], "main", "{page}");
        window.press(TAB, 1).await;
        let is_content = "return document.activeElement.closest('main, footer') !== null && document.activeElement.id !== 'main'";
        assert_eq!(window.evaluate(is_content).await, true, "{page}");
    }
    window.finish().await;
    world.finish().await;
}
