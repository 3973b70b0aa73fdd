//! Texts that others chose, in a browser: none of them runs, loads anything or moves what is around it.

use usage_client::{Correct, proto::KeyRole};

use super::super::{keys, pages::reject, parameters};
use super::{furniture, sessions::sign_in};
use crate::{
    operations::access::{access, client, create, new_key},
    support::{
        chromium::{Chromium, LIGHT, NARROW},
        world::{World, hours_ago, on_sqlite},
    },
};

on_sqlite!(texts_of_others_run_nothing_and_load_nothing);

const SCRIPT: &str =
    "\"'><script>window.ran = 1</script><img src=x onerror=\"window.ran = 1\"><b>\u{202e}gift";
/// What a text of others must not have become.
const FOUND: &str = r#"
const made = "script, main img, main b, iframe, object, embed, [onerror], [style]";
return [window.ran ?? null, document.querySelectorAll(made).length, document.documentElement.scrollWidth <= document.documentElement.clientWidth];
"#;

async fn texts_of_others_run_nothing_and_load_nothing(world: World) {
    reject(&world).await;
    let [admin, ..] = keys(&world).await;
    let Some(window) = Chromium::start(world.http_url()).await else {
        return world.finish().await;
    };
    let long = "W".repeat(128);
    let client = client(world.endpoint(), &admin).await;
    for account in ["a:b/c_d.e@f+g", &long] {
        let count = usage_client::Increment::new(account)
            .quantity(9)
            .timestamp(hours_ago(2));
        client.increment(count).await.unwrap();
        let correct = Correct::new(account, -1, SCRIPT).requested_by(SCRIPT);
        client.correct(correct).await.unwrap();
    }
    let mut admins = access(&world, Some(&admin)).await;
    create(
        &mut admins,
        new_key("<img src=x onerror=alert(1)>", KeyRole::Writer),
    )
    .await;
    window.open("/").await;
    sign_in(&window, &admin).await;
    let script = "%22%27%3E%3Cscript%3Ewindow.ran%3D1%3C%2Fscript%3E%3Cimg%20src%3Dx%20onerror%3D%22window.ran%3D1%22%3E";
    let mut addresses = furniture::addresses(&world, &admin).await;
    let hostile = parameters::addresses().into_iter();
    addresses.extend(hostile.map(|path| ("address".to_owned(), format!("{path}{script}"))));
    addresses.push(("long".to_owned(), format!("/account?id={long}")));
    // The pages of the corrections, with their reasons.
    window.open("/reports?state=").await;
    let links = "return [...document.querySelectorAll('a[href^=\"/report?\"]')].map((link) => link.getAttribute('href'))";
    let links = window.evaluate(links).await;
    let links = links
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|link| link.as_str());
    addresses.extend(links.map(|link| ("report".to_owned(), link.to_owned())));
    let mut shown = 0;
    for (_, address) in &addresses {
        window.open(address).await;
        for look in [LIGHT, NARROW] {
            window.look(look).await;
            let found = window.evaluate(FOUND).await;
            assert_eq!(
                found,
                serde_json::json!([null, 0, true]),
                "{address}, {}",
                look.name
            );
        }
        if window
            .words()
            .await
            .contains("<script>window.ran = 1</script>")
        {
            shown += 1;
        }
    }
    assert!(shown >= 2, "each reason is on a page: {shown}");
    window.finish().await;
    world.finish().await;
}
