//! A file of `/sign-off`: the parts that a call sends, one after the other, whatever their size together.

use std::io;

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use usage_proto::v1::{
    ExportSignOffRequest, ExportSignOffResponse, SignOffFormat, export_sign_off_response::Part,
};

use super::{
    calls::{Failure, Messages},
    query::Query,
    visitor::Visitor,
};
use crate::domain::violation::quoted;

/// Whether the address asks for one.
pub(super) fn is_wanted(query: &Query) -> bool {
    !query.get("as").is_empty()
}

/// The file, from its first part on. If the call fails later, the answer is cut off, and a browser says so.
///
/// # Errors
/// The address asks for another form, or the call fails before the first part.
pub(super) async fn answer(visitor: &Visitor) -> Result<Response, Failure> {
    let query = &visitor.query;
    let (format, extension, content_type) = match query.get("as") {
        "csv" => (SignOffFormat::Csv, "csv", "text/csv; charset=utf-8"),
        "jsonl" => (
            SignOffFormat::JsonLines,
            "jsonl",
            "application/jsonl; charset=utf-8",
        ),
        other => {
            let why = format!("as is {}; it must be csv or jsonl", quoted(other));
            return Err(Failure::invalid(why));
        }
    };
    let open = query.get("open") == "yes";
    let request = ExportSignOffRequest {
        month: query.text("month"),
        format: format.into(),
        open,
    };
    let mut messages = visitor.calls.export_sign_off(request).await?;
    let first = next_part(&mut messages).await?.unwrap_or_default();
    // The call has accepted it, so it has only digits and a hyphen.
    let month = query.get("month");
    let open = if open { "-open" } else { "" };
    let name = format!("attachment; filename=\"sign-off-{month}{open}.{extension}\"");
    let headers = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (header::CONTENT_DISPOSITION, name),
    ];
    let rest = stream::try_unfold(messages, |mut messages| async move {
        let part = next_part(&mut messages).await;
        let part = part.map_err(|failure| io::Error::other(failure.message))?;
        Ok::<_, io::Error>(part.map(|part| (part, messages)))
    });
    let parts = stream::once(async { Ok(first) }).chain(rest);
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// The next bytes; none after the last ones.
async fn next_part(
    messages: &mut Messages<ExportSignOffResponse>,
) -> Result<Option<Bytes>, Failure> {
    loop {
        let Some(message) = messages.next().await? else {
            return Err(Failure::unavailable("the file ended too early"));
        };
        match message.part {
            Some(Part::Data(bytes)) => return Ok(Some(bytes.into())),
            Some(Part::End(_)) => return Ok(None),
            None => {}
        }
    }
}
