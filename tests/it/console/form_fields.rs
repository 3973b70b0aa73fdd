//! What is typed into the forms of the console: wrong fields are named and kept, and texts of others are escaped.

use super::{
    actions::{confirmed, of_report, only_report, send, signed_in},
    form_token,
    pages::reject,
};
use crate::support::world::{World, hours_ago, on_sqlite};

on_sqlite!(
    wrong_fields_are_named_and_what_was_typed_is_kept,
    hostile_texts_are_escaped_on_every_page_of_an_action,
);

const SCRIPT: &str = "\"><script>alert(1)</script>'&\u{202e}gift";
const ESCAPED: &str = "&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;'&amp;\u{202e}gift";

/// A form, what is typed, what is said of it, and what is kept.
type Wrong<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str, &'a str);

fn wrong_fields<'a>(resolve: &'a str, long: &'a str) -> [Wrong<'a>; 9] {
    [
        (resolve, vec![("reason", "kept")], "action is \"\"", "kept"),
        (
            resolve,
            vec![("action", "write_off"), ("reason", long)],
            "reason has 501 characters; it must have 1 to 500",
            long,
        ),
        (
            resolve,
            vec![("action", "write_off"), ("reason", "  ")],
            "reason has 0 characters",
            "checked",
        ),
        (
            "/correct?account=acct",
            vec![("quantity", "1.5"), ("reason", "kept")],
            "quantity is \"1.5\"; it must be a whole number",
            "value=\"1.5\"",
        ),
        (
            "/correct?account=acct",
            vec![("quantity", "0"), ("reason", "kept")],
            "quantity is 0; it must be",
            "kept",
        ),
        (
            "/correct?account=acct",
            vec![("quantity", "1"), ("timestamp", "soon"), ("reason", "kept")],
            "timestamp is \"soon\"; it must be a day",
            "value=\"soon\"",
        ),
        (
            "/correct",
            vec![("quantity", "1"), ("account", "a b"), ("reason", "kept")],
            "account_id",
            "value=\"a b\"",
        ),
        (
            "/force",
            vec![("scope", "accounts"), ("reason", "kept")],
            "accounts is empty; name 1 to 1,000",
            "kept",
        ),
        (
            "/force",
            vec![("scope", "all"), ("accounts", "acct")],
            "reason has 0 characters",
            "acct</textarea>",
        ),
    ]
}

async fn wrong_fields_are_named_and_what_was_typed_is_kept(world: World) {
    reject(&world).await;
    let (browser, admin) = signed_in(&world).await;
    let report = only_report(&world, &admin).await;
    let token = form_token(&browser.get("/runs").await);
    let long = "r".repeat(501);
    let resolve = of_report("resolve", &report);
    for (path, typed, problem, kept) in wrong_fields(&resolve, &long) {
        let mut fields = vec![("token", token.as_str()), ("step", "check")];
        fields.extend(typed);
        let page = browser.post(path, &fields).await;
        page.assert_shows(400, &problem.replace('"', "&quot;"));
        assert!(page.text.contains("id=\"problem\""), "{}", page.text);
        assert!(page.text.contains(kept), "{kept}: {}", page.text);
    }
    // What was typed is there again after a second look at the form.
    let fields = [
        ("token", token.as_str()),
        ("action", "retry"),
        ("reason", "kept"),
        ("step", "edit"),
    ];
    let page = browser.post(&resolve, &fields).await;
    assert!(page.text.contains(">\nkept</textarea>"), "{}", page.text);
    assert!(page.text.contains("value=\"retry\" required checked"));
    world.finish().await;
}

async fn hostile_texts_are_escaped_on_every_page_of_an_action(world: World) {
    let long = "a:".repeat(64);
    world.count(&long, 9, hours_ago(2)).await;
    reject(&world).await;
    let (browser, admin) = signed_in(&world).await;
    let report = only_report(&world, &admin).await;
    let token = form_token(&browser.get("/runs").await);
    let correct = format!("/correct?account={}", long.replace(':', "%3A"));
    let resolve = of_report("resolve", &report);
    let cases: [(&str, &[(&str, &str)]); 3] = [
        (&correct, &[("quantity", "-1")]),
        (&resolve, &[("action", "write_off")]),
        ("/force", &[("scope", "accounts"), ("accounts", &long)]),
    ];
    for (path, typed) in cases {
        let mut fields = vec![("token", token.as_str()), ("reason", SCRIPT)];
        fields.extend(typed);
        fields.push(("step", "check"));
        let checked = browser.post(path, &fields).await;
        checked.assert_shows(200, "Nothing has been done yet");
        assert!(checked.text.contains(&format!("<bdi>{ESCAPED}</bdi>")));
        assert!(!checked.text.contains("<script"), "{}", checked.text);
        let done = send(&browser, path, &confirmed(&checked)).await;
        assert_eq!(done.status, 303, "{}", done.words());
        let shown = done.header("location").split('#').next().unwrap();
        let shown = browser.get(shown).await;
        assert_eq!(shown.status, 200, "{}", shown.words());
        assert!(!shown.text.contains("<script"), "{}", shown.text);
    }
    // What no field takes is shown as it was typed, too.
    for (path, name) in [
        ("/correct", "account"),
        ("/correct", "quantity"),
        ("/correct", "timestamp"),
        ("/correct", "meter"),
        ("/force", "scope"),
        ("/force", "accounts"),
        (resolve.as_str(), "action"),
    ] {
        let mut fields = vec![("token", token.as_str()), (name, SCRIPT)];
        fields.extend([("reason", SCRIPT), ("step", "check"), ("scope", "accounts")]);
        fields.extend([("quantity", "1"), ("account", "acct")]);
        let page = browser.post(path, &fields).await;
        assert_eq!(page.status, 400, "{path} {name}: {}", page.words());
        assert!(!page.text.contains("<script"), "{path}: {}", page.text);
        assert!(page.text.contains("&lt;script&gt;"), "{}", page.text);
    }
    let hostile = "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for path in [
        "/correct?account=",
        "/force?account=",
        "/run?id=",
        "/resolve?account=acct&id=",
    ] {
        let page = browser.get(&format!("{path}{hostile}")).await;
        assert!(page.status < 500, "{path}: {}", page.words());
        assert!(!page.text.contains("<script"), "{path}: {}", page.text);
    }
    world.finish().await;
}
