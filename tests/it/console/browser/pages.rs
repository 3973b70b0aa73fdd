//! Each page with real data: what axe finds, wide and narrow, light and dark.

use super::{axe::Axe, furniture, looks, print, sessions::sign_in};
use crate::support::{
    chromium::Chromium,
    world::{World, on_sqlite, poll},
};

on_sqlite!(
    every_page_is_accessible_and_fits_the_window,
    what_is_wrong_with_a_page_is_found,
);

async fn every_page_is_accessible_and_fits_the_window(world: World) {
    let [admin, _, writer] = furniture::fill(&world).await;
    let (Some(axe), Some(window)) = (Axe::load(), Chromium::start(world.http_url()).await) else {
        return world.finish().await;
    };
    let pages = furniture::addresses(&world, &admin).await;
    let mut wrong = Vec::new();
    window.open("/").await;
    sign_in(&window, &admin).await;
    window.assert_shows("root (admin)").await;
    for (name, address) in &pages {
        window.open(address).await;
        let failed = window
            .evaluate("return document.querySelectorAll('main .error').length")
            .await;
        assert_eq!(failed, 0, "{address}: {}", window.words().await);
        wrong.extend(looks::check(&window, &axe, name).await);
        wrong.extend(print::faults(&window, name).await);
    }
    for (name, address) in furniture::REFUSALS {
        window.open(address).await;
        wrong.extend(looks::check(&window, &axe, name).await);
    }
    // What a wrong key, and a key that may see nothing, are told.
    window.click("Sign out").await;
    sign_in(&window, "hunter2").await;
    window.assert_shows("This key is not valid").await;
    wrong.extend(looks::check(&window, &axe, "wrong-key").await);
    sign_in(&window, &writer).await;
    window.assert_shows("counts usage and shows nothing").await;
    wrong.extend(looks::check(&window, &axe, "not-allowed").await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    window.finish().await;
    world.finish().await;
}

async fn what_is_wrong_with_a_page_is_found(world: World) {
    let (Some(axe), Some(window)) = (Axe::load(), Chromium::start(world.http_url()).await) else {
        return world.finish().await;
    };
    let faults = [
        ("const field = document.createElement('input')", "label: "),
        (
            "const field = document.createElement('p'); field.append('faint'); field.style.color = '#bbb'",
            "light: \"color-contrast: ",
        ),
        (
            "const field = document.createElement('p'); field.append('gloomy'); field.style.color = '#333'",
            "dark: \"color-contrast: ",
        ),
        (
            "const field = document.createElement('p'); field.append('x'.repeat(500))",
            "px beyond",
        ),
    ];
    window.open("/runs").await;
    let unharmed = looks::faults(&window, &axe).await;
    assert!(unharmed.is_empty(), "{unharmed:?}");
    for (fault, _) in faults {
        let add = format!("{fault}; document.querySelector('main').append(field)");
        window.evaluate(&add).await;
    }
    let wrong = looks::faults(&window, &axe).await;
    for (_, words) in faults {
        assert!(
            wrong.iter().any(|found| found.contains(words)),
            "{words}: {wrong:?}"
        );
    }
    // The policy of the page stops these, and the browser says so.
    for refused in [
        "const part = document.createElement('img'); part.src = 'http://127.0.0.2:9/x.png'",
        "const part = document.createElement('script'); part.append('window.ran = true')",
    ] {
        window.open("/runs").await;
        assert_eq!(window.problems().await, [] as [&str; 0]);
        let ran = window
            .evaluate(&format!(
                "{refused}; document.body.append(part); return window.ran ?? null"
            ))
            .await;
        assert!(ran.is_null(), "{refused}");
        poll("a refusal by the policy", async || {
            let problems = window.problems().await;
            let is_policy = |problem: &String| problem.contains("Content Security Policy");
            problems.iter().any(is_policy).then_some(())
        })
        .await;
    }
    window.finish().await;
    world.finish().await;
}
