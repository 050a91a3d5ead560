//! Work that the bench runs in contexts and outside: system calls in a loop, and a count of what was done in a time.
//!
//! `work calls N` calls getppid(2), the cheapest call there is; `work stats N` calls statx(2). `work until T` sleeps until
//! T, and `work count FROM TO` counts pieces of work between two times, in microseconds since 1970, so that many
//! processes begin and end together whenever they were started. `work time PROGRAM ARG...` runs a program and prints
//! the wall time and the processor time that it took, in microseconds.
#![allow(clippy::print_stdout)]

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::hint::black_box;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let number =
        |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
    match words.get(1).map(String::as_str) {
        Some("calls") => (0..number(2)).for_each(|_| {
            black_box(std::os::unix::process::parent_id());
        }),
        Some("stats") => (0..number(2)).for_each(|_| drop(black_box(std::fs::metadata("/etc/passwd")))),
        Some("time") => time(&words[2..]),
        Some("until") => sleep_until(number(2)),
        Some("count") => println!("{}", count(number(2), number(3))),
        _ => std::process::exit(2),
    }
}

fn time(words: &[String]) {
    let start = Instant::now();
    let status = words.split_first().map(|(program, args)| Command::new(program).args(args).status());
    let wall = start.elapsed().as_micros();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map(|usage| usage.user_time() + usage.system_time());
    match (status, usage) {
        (Some(Ok(status)), Ok(usage)) if status.success() => println!("{wall} {}", usage.num_microseconds()),
        _ => std::process::exit(1),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

fn sleep_until(time: u64) {
    thread::sleep(Duration::from_micros(time.saturating_sub(now())));
}

/// A piece is some arithmetic, some memory, and a few system calls.
fn count(from: u64, to: u64) -> u64 {
    sleep_until(from);
    let (mut pieces, mut memory) = (0u64, vec![0u64; 4096]);
    while now() < to {
        for (index, cell) in memory.iter_mut().enumerate() {
            *cell = cell.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64 ^ pieces);
        }
        black_box(&memory);
        for _ in 0..5 {
            let _ = black_box(std::fs::metadata("/etc/passwd"));
        }
        pieces += 1;
    }
    pieces
}
