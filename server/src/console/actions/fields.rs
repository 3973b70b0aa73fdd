//! Parts of forms: what was typed, fields with labels, errors, and the pages that confirm.

use maud::{Markup, html};

use super::super::{calls::Failure, layout::Page, query::Query, visitor::Visitor};

/// The longest reason, in UTF-16 code units, which is how browsers count: a character has two at most.
const MAX_REASON_UNITS: &str = "1000";

/// A form that was sent, or is shown for the first time.
pub(super) struct Form<'a> {
    pub(super) visitor: &'a Visitor,
    pub(super) fields: &'a Query,
}

impl<'a> Form<'a> {
    pub(super) fn new(visitor: &'a Visitor, fields: &'a Query) -> Self {
        Self { visitor, fields }
    }

    /// What the address says, or else the form.
    pub(super) fn named(&self, name: &str) -> String {
        let named = self.visitor.query.text(name);
        if named.is_empty() {
            self.fields.text(name)
        } else {
            named
        }
    }

    /// A text with the line ends of this system. Browsers send others.
    pub(super) fn lines(&self, name: &str) -> String {
        self.fields.get(name).replace("\r\n", "\n")
    }

    pub(super) fn is(&self, step: &str) -> bool {
        self.fields.get("step") == step
    }

    /// What says that a page for this visitor sent the form.
    pub(super) fn token(&self) -> Markup {
        html! {
            @if let Some(session) = &self.visitor.session { (hidden("token", &session.form_token())) }
        }
    }
}

pub(super) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// Whether an error is about a field: it names it first.
fn is_about(error: Option<&Failure>, name: &str) -> bool {
    error.is_some_and(|error| error.message.starts_with(name))
}

/// Why a form was not accepted, above it.
pub(super) fn problem(error: Option<&Failure>) -> Markup {
    html! {
        @if let Some(error) = error {
            p #problem .error role="alert" {
                strong { (error.reason) } ": " bdi { (error.message) }
            }
        }
    }
}

/// A field of one line.
pub(super) fn line(
    form: &Form<'_>,
    error: Option<&Failure>,
    name: &str,
    label: &str,
    hint: &str,
) -> Markup {
    let (id, hint_id) = (format!("field-{name}"), format!("hint-{name}"));
    let is_wrong = is_about(error, name);
    html! {
        div {
            label for=(id) { (label) }
            p #(hint_id) .hint { (hint) }
            input id=(id) type="text" name=(name) value=(form.fields.get(name)) maxlength="255" autocomplete="off" spellcheck="false" aria-describedby=(hint_id) aria-invalid=[is_wrong.then_some("true")];
        }
    }
}

/// A field of several lines.
pub(super) fn lines(
    form: &Form<'_>,
    error: Option<&Failure>,
    name: &str,
    label: &str,
    hint: &str,
    value: &str,
) -> Markup {
    let (id, hint_id) = (format!("field-{name}"), format!("hint-{name}"));
    let is_wrong = is_about(error, name);
    let typed = form.lines(name);
    let value = if typed.is_empty() { value } else { &typed };
    let is_reason = name == "reason";
    html! {
        div {
            label for=(id) { (label) }
            p #(hint_id) .hint { (hint) }
            textarea id=(id) name=(name) rows="3" required[is_reason] maxlength=[is_reason.then_some(MAX_REASON_UNITS)] autocomplete="off" spellcheck=[(!is_reason).then_some("false")] aria-describedby=(hint_id) aria-invalid=[is_wrong.then_some("true")] {
                // The first line end of an area is not part of it.
                "\n" (value)
            }
        }
    }
}

pub(super) fn reason(form: &Form<'_>, error: Option<&Failure>, kept_with: &str) -> Markup {
    let hint =
        format!("1 to 500 characters, not only spaces; kept with {kept_with} and in the audit.");
    lines(form, error, "reason", "Reason", &hint, "")
}

/// One of several ways, with what it means.
pub(super) struct Way {
    pub(super) value: &'static str,
    pub(super) label: &'static str,
    pub(super) meaning: &'static str,
}

/// A choice of one way.
pub(super) fn ways(name: &str, legend: &str, ways: &[&Way], chosen: &str) -> Markup {
    html! {
        fieldset {
            legend { (legend) }
            @for way in ways {
                @let id = format!("{name}-{}", way.value);
                @let meaning = format!("meaning-{}", way.value);
                div .way {
                    input id=(id) type="radio" name=(name) value=(way.value) required checked[chosen == way.value] aria-describedby=(meaning);
                    label for=(id) { (way.label) }
                    p id=(meaning) .hint { (way.meaning) }
                }
            }
        }
    }
}

pub(super) fn check_button() -> Markup {
    html! { p { button #check type="submit" name="step" value="check" { "Show what would happen" } } }
}

/// The form that confirms: it sends the same again, and acts or leads back to what was typed.
pub(super) fn confirm(form: &Form<'_>, to: &str, kept: &[(&str, &str)], act: &str) -> Markup {
    html! {
        form #confirm-form .stacked method="post" action=(to) {
            (form.token())
            @for (name, value) in kept { (hidden(name, value)) }
            p .buttons {
                button #confirm type="submit" name="step" value="do" { (act) }
                button #change type="submit" name="step" value="edit" .quiet { "Change it" }
            }
        }
    }
}

pub(super) fn nothing_yet() -> Markup {
    html! { p .note { "Nothing has been done yet. This is what would happen now:" } }
}

/// A page that sends a form again as it is: it may have been done, and is not done twice.
pub(super) fn uncertain(form: &Form<'_>, failure: &Failure, to: &str) -> Page {
    let content = html! {
        h1 { "Not done, as far as is known" }
        (problem(Some(failure)))
        p { "Send it again as it is: if it was done already, it is not done twice." }
        form #confirm-form .stacked method="post" action=(to) {
            @for (name, value) in form.fields.pairs() {
                @if name != "step" { (hidden(name, value)) }
            }
            p .buttons { button #confirm type="submit" name="step" value="do" { "Send it again" } }
        }
    };
    Page::new("Not known", content)
}
