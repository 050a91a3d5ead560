//! SIGKILL after every system call: of the command, and of the half that becomes the guest.

use super::Sample;
use super::verbs::{self, Bench, Verb, rich, rich_and_idle};
use crate::harness::tracer::{Fault, Place};
use crate::harness::{Case, Context, case};

pub fn cases() -> Vec<Case> {
    vec![
        case!(create_killed_at_any_call_leaves_what_the_next_command_removes),
        case!(delete_killed_at_any_call_leaves_what_the_next_command_removes),
        case!(start_killed_at_any_call_leaves_what_the_next_command_removes),
        case!(run_killed_at_any_call_leaves_what_the_next_command_removes),
        case!(exec_killed_at_any_call_leaves_what_the_next_command_removes),
        case!(update_killed_at_any_call_leaves_the_guest_alone),
        case!(pause_resume_and_kill_killed_at_any_call_leave_what_the_next_command_removes),
    ]
}

fn create_killed_at_any_call_leaves_what_the_next_command_removes() {
    at_every_call(&verbs::CREATE, rich_and_idle(), 1);
}

fn delete_killed_at_any_call_leaves_what_the_next_command_removes() {
    at_every_call(&verbs::DELETE, rich_and_idle(), 1);
}

fn start_killed_at_any_call_leaves_what_the_next_command_removes() {
    at_every_call(&verbs::START, rich_and_idle(), 5);
}

fn run_killed_at_any_call_leaves_what_the_next_command_removes() {
    at_every_call(&verbs::RUN, rich(), 11);
}

fn exec_killed_at_any_call_leaves_what_the_next_command_removes() {
    at_every_call(&verbs::EXEC, rich_and_idle(), 9);
}

fn update_killed_at_any_call_leaves_the_guest_alone() {
    at_every_call(&verbs::UPDATE, rich_and_idle(), 5);
}

fn pause_resume_and_kill_killed_at_any_call_leave_what_the_next_command_removes() {
    for verb in [&verbs::PAUSE, &verbs::RESUME, &verbs::KILL] {
        at_every_call(verb, rich_and_idle(), 5);
    }
}

/// Runs the verb once to see its calls, and then once for each of them.
fn at_every_call(verb: &Verb, context: Context, usual: usize) {
    let bench = Bench::new(context);
    bench.prepare(verb);
    let whole = bench.follow(verb, None);
    whole.output.ok();
    bench.recover(false).unwrap();

    let sample = Sample::every(usual);
    let (mut reached, mut passed) = (vec![0; whole.calls.len()], 0);
    for (process, calls) in whole.calls.iter().enumerate() {
        for call in (0..calls.len()).filter(|call| sample.takes(*call)) {
            let at = Place { process, call };
            match one(&bench, verb, at, call % 2 == 1) {
                Ok(true) => reached[process] += 1,
                // The processes run beside each other: what is last in one run may come too late in another.
                Ok(false) => passed += 1,
                Err(wrong) => panic!("{} killed at {at:?}, call {}: {wrong}", verb.name, calls[call]),
            }
        }
    }
    let calls: Vec<usize> = whole.calls.iter().map(Vec::len).collect();
    println!(
        "faults: {:7} kills   {sample}: calls {calls:?}, killed {reached:?}, not reached {passed}",
        verb.name
    );
    // The run that was counted may have waited where others do not: for a group whose last process was on its way out.
    assert!(reached[0] > 0 && passed <= 8 + reached.iter().sum::<usize>() / 4, "{passed} were not reached");
}

/// Whether the call was reached.
fn one(bench: &Bench, verb: &Verb, at: Place, by_creating: bool) -> Result<bool, String> {
    bench.prepare(verb);
    let guest = verb.guest_survives.then(|| bench.guest.get());
    let traced = bench.follow(verb, Some((at, Fault::Kill)));
    if traced.hung {
        return Err("it hung".into());
    }
    if traced.output.stderr.contains("panicked") {
        return Err(format!("it panicked: {}", traced.output.stderr));
    }
    if let Some(pid) = guest.filter(|pid| !std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists()) {
        return Err(format!("the guest, process {pid}, is gone"));
    }
    bench.recover(by_creating).map(|()| traced.hit)
}
