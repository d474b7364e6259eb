//! How long it takes to find out who holds the stuck sockets: the walk that judging makes, and the index gathered from
//! it. Only that: no start, no output.
//!
//! `cargo xtask bench` runs it among thousands of sockets and compares it with `ss` and `lsof`; alone it needs root. Its
//! argument is the number of passes, 10 if there is none. For each it prints how many nanoseconds the walk and the
//! gathering took, how many sockets there were in CLOSE_WAIT, and of how many a holder was found.

#![expect(clippy::print_stdout, reason = "its results")]

use std::{env, process::ExitCode, time::Instant};

use rustc_hash::FxHashSet;
use tcptrace::{
    diagnostics::print_problem,
    engine::{
        ownership::walk_index::WalkIndex,
        walk::{self, Reach},
    },
    host::{
        kernel::Kernel,
        options::Options,
        preflight,
        proc::{arguments::Patience, process},
    },
};
use tcptrace_common::state;

const PASSES: usize = 10;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let passes = env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(PASSES);
    let watched = state::bit(state::CLOSE_WAIT);
    let options = Options {
        watched_states: watched,
        lives: false,
        transitions: false,
        ring_bytes: 64 << 10,
        max_cookies: 262_144,
        without: Vec::new(),
    };
    let attach = || preflight::prepare(&options).and_then(|()| Kernel::attach(&options));
    let mut kernel = match attach() {
        Ok(kernel) => kernel,
        Err(refusal) => {
            print_problem(refusal);
            return ExitCode::FAILURE;
        }
    };
    let wanted = watched | walk::beside(watched);
    for _ in 0..passes {
        let began = Instant::now();
        let walk = match kernel.walk_holding(wanted, wanted, &Reach::default()) {
            Ok(walk) => walk,
            Err(error) => {
                print_problem(error);
                return ExitCode::FAILURE;
            }
        };
        let walked = began.elapsed();
        let stuck = walk.sockets.iter().filter(|row| row.state == state::CLOSE_WAIT);
        let stuck: FxHashSet<u64> = stuck.map(|row| row.cookie).collect();
        let index =
            WalkIndex::for_sockets(&walk, &stuck, |pid, named| process::look_up(pid, named, Patience::Long));
        let gathered = began.elapsed().saturating_sub(walked);
        let held = stuck.iter().filter(|cookie| index.holders_of(**cookie).next().is_some()).count();
        println!("{} {} {} {held}", walked.as_nanos(), gathered.as_nanos(), stuck.len());
    }
    ExitCode::SUCCESS
}
