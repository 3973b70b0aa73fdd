//! The sign-off of a month: whether it is closed, and its file.

use tonic::{Request, Response, Status};
use usage_proto::v1::{self, export_sign_off_response::Part as Wire};

use super::{actor::caller, caller_stream::CallerStream, operations_service::OperationsRpc, wire};
use crate::{
    domain::{caller_id::CallerId, sign_off::Figures, violation::Violation},
    error::Error,
    record::{Exported, Format},
    sign_off::Part,
};

/// The messages of a file.
pub(crate) type SignOffStream = CallerStream<Part, v1::ExportSignOffResponse>;

impl OperationsRpc {
    pub(super) async fn month(
        &self,
        request: Request<v1::GetSignOffRequest>,
    ) -> Result<Response<v1::GetSignOffResponse>, Status> {
        let caller = caller(&request)?;
        caller.check_everything().map_err(Error::from)?;
        let request = request.into_inner();
        let caller = CallerId::of(&caller);
        let found = self.sign_offs.overview(&request.month, caller.as_ref());
        let found = found.await?;
        let by_meter = found.by_meter.iter();
        let meters = by_meter.map(|(meter, figures)| totals(meter, figures));
        let meters = meters.collect::<Result<_, _>>().map_err(Error::from)?;
        Ok(Response::new(v1::GetSignOffResponse {
            month: request.month,
            period: Some(wire::period(found.month)),
            closed: found.reasons.is_empty(),
            reasons: found.reasons,
            meters,
            total: Some(totals("", &found.totals).map_err(Error::from)?),
            csv: Some(file(found.csv)),
            json_lines: Some(file(found.jsonl)),
        }))
    }

    pub(super) fn export_month(
        &self,
        request: Request<v1::ExportSignOffRequest>,
    ) -> Result<Response<SignOffStream>, Status> {
        let caller = caller(&request)?;
        caller.check_everything().map_err(Error::from)?;
        let request = request.into_inner();
        let format = format(request.format).map_err(Error::from)?;
        let id = CallerId::of(&caller);
        let parts = self
            .sign_offs
            .export(&request.month, format, request.open, id.as_ref())?;
        let authenticator = self.authenticator.clone();
        let stream = CallerStream::new(parts, message, authenticator, caller);
        Ok(Response::new(stream))
    }
}

fn format(number: i32) -> Result<Format, Violation> {
    match v1::SignOffFormat::try_from(number) {
        Ok(v1::SignOffFormat::Csv) => Ok(Format::Csv),
        Ok(v1::SignOffFormat::JsonLines) => Ok(Format::Jsonl),
        Ok(v1::SignOffFormat::Unspecified) | Err(_) => Err(Violation::invalid(
            "format",
            format!("format is {number}; it must be CSV or JSON_LINES"),
        )),
    }
}

fn message(part: Part) -> v1::ExportSignOffResponse {
    let part = match part {
        Part::Data(bytes) => Wire::Data(bytes),
        Part::End(written) => Wire::End(file(written)),
    };
    v1::ExportSignOffResponse { part: Some(part) }
}

fn file(written: Exported) -> v1::SignOffFile {
    v1::SignOffFile {
        rows: i64::try_from(written.rows).unwrap_or(i64::MAX),
        sha256: written.sha256,
    }
}

fn totals(meter: &str, figures: &Figures) -> Result<v1::SignOffTotals, Violation> {
    let sum = |sum: i128| {
        i64::try_from(sum).map_err(|_| {
            let of = if meter.is_empty() { "all meters" } else { meter };
            let message = format!(
                "month has a sum of {sum} of {of}, and one in an answer is from {} to {}; ExportSignOff has all of them",
                i64::MIN,
                i64::MAX
            );
            Violation::invalid("month", message)
        })
    };
    Ok(v1::SignOffTotals {
        meter: meter.to_owned(),
        reports: sum(figures.reports)?,
        counted: sum(figures.counted)?,
        already_sent: sum(figures.already_sent)?,
        corrected: sum(figures.corrected)?,
        not_billable: sum(figures.not_billable)?,
        written_off: sum(figures.written_off)?,
        reported: sum(figures.reported)?,
        confirmed: sum(figures.confirmed)?,
        invoiced: sum(figures.invoiced)?,
        acknowledged: sum(figures.acknowledged)?,
        difference: sum(figures.difference())?,
        open: sum(figures.open)?,
        to_send: sum(figures.to_send)?,
        no_customer: sum(figures.no_customer)?,
        needs_decision: sum(figures.needs_decision)?,
        decisions: i64::try_from(figures.decisions).unwrap_or(i64::MAX),
    })
}
