//! The console with client certificates: there is no session, and so no token in its forms.

use super::*;

on_sqlite!(the_role_of_a_certificate_decides_what_pages_do);

const CORRECT: &str = "/correct?account=acct";
const FORM: &str = "meter=api_calls&quantity=7&reason=a+gift&key=once&step=do";

impl Secure {
    /// Posts a form to the HTTP socket.
    async fn post(&self, own: &Identity, headers: &str) -> (String, String) {
        let mut stream = self.http_handshake(Some(own), b"http/1.1").await;
        let request = format!(
            "POST {CORRECT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{FORM}",
            FORM.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        within("an answer", stream.read_to_string(&mut text))
            .await
            .unwrap();
        (text.lines().next().unwrap_or_default().to_owned(), text)
    }
}

async fn the_role_of_a_certificate_decides_what_pages_do(mut world: World) {
    let roles = ["DNS:dash=reader", "DNS:ops=admin"];
    let secure = Secure::start_with_roles(&mut world, &roles).await;
    let authority = secure.clients.as_ref().unwrap();
    let [reader, admin, unknown] = ["dash", "ops", "other"].map(|name| authority.sign(name));
    let corrections = "usage_reports WHERE kind = 'correction'";
    // A reader sees pages without forms.
    for (own, status, has_form) in [(&reader, "200 OK", false), (&admin, "200 OK", true)] {
        let (first, page) = secure.get("/account?id=acct", Some(own)).await;
        assert!(first.ends_with(status), "{page}");
        assert_eq!(page.contains("/correct?account=acct"), has_form, "{page}");
        assert!(!page.contains("name=\"token\""), "there is no session");
    }
    let (first, page) = secure.get(CORRECT, Some(&reader)).await;
    assert!(first.ends_with("403 Forbidden"), "{page}");
    let (first, page) = secure.get(CORRECT, Some(&admin)).await;
    assert!(first.ends_with("200 OK"), "{page}");
    for path in ["/runs", CORRECT] {
        let (first, page) = secure.get(path, Some(&unknown)).await;
        assert!(first.ends_with("401 Unauthorized"), "{page}");
    }
    let own = "origin: https://localhost\r\n";
    for (who, headers, expected) in [
        (&unknown, own, "401 Unauthorized"),
        (&reader, own, "403 Forbidden"),
        (&admin, "", "403 Forbidden"),
        (&admin, "origin: https://evil.example\r\n", "403 Forbidden"),
        (&admin, "sec-fetch-site: cross-site\r\n", "403 Forbidden"),
        (&admin, "sec-fetch-site: none\r\n", "403 Forbidden"),
    ] {
        let (first, page) = secure.post(who, headers).await;
        assert!(first.ends_with(expected), "{headers}: {page}");
    }
    assert_eq!(world.count_rows(corrections).await, 0);
    for headers in [own, "sec-fetch-site: same-origin\r\n"] {
        let (first, page) = secure.post(&admin, headers).await;
        assert!(first.ends_with("303 See Other"), "{page}");
    }
    assert_eq!(world.count_rows(corrections).await, 1);
    let named = format!("{corrections} AND entered_by = 'certificate DNS:ops'");
    assert_eq!(world.count_rows(named.as_str()).await, 1);
    secure.stop(world).await;
}
