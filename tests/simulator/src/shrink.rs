//! Shrinks the list of faults of a seed that fails: leaves out one after the other while it still fails. The seed and the
//! rest of the run stay the same.

use std::io;

use crate::{
    child::{Ended, run_apart},
    plan::Size,
    seeds::Case,
};

/// Runs at most.
const MAX_RUNS: usize = 40;

/// The smallest case that was found to fail, and how it ended.
pub(crate) fn shrink(case: &Case, size: &Size, ended: Ended) -> io::Result<(Case, Ended)> {
    let mut smallest = (case.clone(), ended);
    let mut runs = 0;
    let mut try_with = |faults: Vec<usize>, smallest: &mut (Case, Ended)| -> io::Result<bool> {
        runs += 1;
        if runs > MAX_RUNS {
            return Ok(false);
        }
        let fewer = Case {
            faults: Some(faults),
            ..case.clone()
        };
        let ended = run_apart(&fewer, size)?;
        let fails = ended.failure.is_some();
        if fails {
            *smallest = (fewer, ended);
        }
        Ok(fails)
    };
    // Most fail without any, or with those alone that were met.
    if try_with(Vec::new(), &mut smallest)? {
        return Ok(smallest);
    }
    let met = smallest.1.faults.iter().filter(|fault| fault.is_met);
    let mut left: Vec<usize> = met.map(|fault| fault.number).collect();
    if !try_with(left.clone(), &mut smallest)? {
        let all = smallest.1.faults.iter();
        left = all.map(|fault| fault.number).collect();
    }
    let mut place = left.len();
    while place > 0 {
        place -= 1;
        let mut fewer = left.clone();
        fewer.remove(place);
        if try_with(fewer.clone(), &mut smallest)? {
            left = fewer;
        }
    }
    Ok(smallest)
}
