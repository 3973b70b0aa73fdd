//! Whether the service's metrics tell of the reports that a person decides on: as many of each state as there are, within
//! the time that `server/docs/metrics.md` states.

use std::{collections::BTreeMap, time::Duration};

use usage_client::ReportState;

use crate::{
    checks::{Ends, TOLD},
    oracle::Oracle,
    world::{Outcome, World, text},
};

/// Metrics are read from the database each minute, and the reading takes a moment.
const TOLD_WITHIN: [Duration; 2] = [Duration::from_secs(61), Duration::from_secs(1)];
/// Reports may change their states meanwhile. Then the metrics are compared again, at most so many times.
const ATTEMPTS: usize = 3;

/// The number of reports of each state.
type Numbers = BTreeMap<String, u64>;

/// Reads what there is at the end, and checks that the metrics tell the same.
pub(crate) async fn read_and_check(
    world: &mut World,
    oracle: &Oracle,
    mut ends: Ends,
) -> Outcome<Ends> {
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        for time in TOLD_WITHIN {
            world.pass(time).await?;
        }
        let told = told_by(&scrape(world).await?);
        let there = numbers(&ends);
        if told == there {
            return Ok(ends);
        }
        seen.push((told, there));
        ends = ends.read_again(world, oracle).await?;
    }
    Err(format!(
        "metrics do not tell the reports that a person decides on; told, and there: {seen:?}"
    ))
}

fn numbers(ends: &Ends) -> Numbers {
    let of_state = |state: ReportState| {
        let all = ends.reports.iter().flatten();
        let number = all.filter(|report| report.state == state).count();
        (state.to_string(), u64::try_from(number).unwrap_or(u64::MAX))
    };
    TOLD.into_iter().map(of_state).collect()
}

/// The states that a text with metrics tells of.
fn told_by(metrics: &str) -> Numbers {
    let number_of = |state: ReportState| {
        let series = format!("usage_reports{{state=\"{state}\"}} ");
        let mut lines = metrics.lines();
        let number = lines.find_map(|line| line.strip_prefix(&series)?.trim().parse::<u64>().ok());
        Some((state.to_string(), number?))
    };
    TOLD.into_iter().filter_map(number_of).collect()
}

async fn scrape(world: &mut World) -> Outcome<String> {
    let client = reqwest::Client::builder().no_proxy().build();
    let request = client.map_err(text)?.get(world.http_url("/metrics"));
    let reading = async move { request.send().await?.error_for_status()?.text().await };
    world.run(reading).await?.map_err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_that_a_person_decides_on_are_read() {
        let text = "# HELP usage_reports\nusage_reports{state=\"open\"} 7\nusage_reports{state=\"too_late\"} 3\n\
                    usage_report_units{state=\"too_late\"} 12\nusage_reports{state=\"missing\"} 0\n";
        let told = told_by(text);
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!((told["too_late"], told["missing"]), (3, 0));
    }
}
