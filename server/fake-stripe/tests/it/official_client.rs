//! Stripe's own Python library against the fake Stripe, where Python and the library are at hand. `STRIPE_PYTHON` names the
//! interpreter to use; without it, `python3` is tried.

use std::io::Write as _;
use std::process::Command;

use fake_stripe::{FakeStripe, Settings};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/official_client.py");

#[tokio::test(flavor = "multi_thread")]
async fn stripes_python_library_works_against_it() {
    let chosen = std::env::var("STRIPE_PYTHON").ok();
    let python = chosen.clone().unwrap_or_else(|| "python3".to_owned());
    let found = Command::new(&python)
        .args(["-c", "import stripe"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        assert!(
            chosen.is_none(),
            "STRIPE_PYTHON={python} cannot import stripe"
        );
        // Written past the test runner's capture, so that a skipped run does not look like a passed one.
        let note = "set STRIPE_PYTHON to an interpreter that can";
        writeln!(
            std::io::stderr(),
            "SKIPPED stripes_python_library_works_against_it: {python} cannot import stripe; {note}"
        )
        .unwrap();
        return;
    }
    let fake_stripe = FakeStripe::start(Settings::default()).await.unwrap();
    let (base_url, key) = (
        fake_stripe.base_url().to_owned(),
        fake_stripe.secret_key().to_owned(),
    );
    let run = tokio::task::spawn_blocking(move || {
        Command::new(python)
            .args([SCRIPT, &base_url, &key])
            .output()
    });
    let output = run.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let events = fake_stripe.control().events().await.unwrap();
    assert_eq!(
        events.iter().map(|event| event.value).collect::<Vec<_>>(),
        [25, 17, 12]
    );
}
