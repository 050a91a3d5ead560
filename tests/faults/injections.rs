//! Every error that a system call can give, at each call. The verb succeeds, and the guest is then as confined as ever, or
//! it fails with one line and leaves nothing.

use super::Sample;
use super::errors::{Possible, name, possible};
use super::verbs::{self, Bench, Verb, rich, rich_and_idle};
use crate::harness::command::wait_for_exit;
use crate::harness::tracer::{Fault, Place, Traced};
use crate::harness::{Case, Context, case, command};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        case!(create_with_any_call_failing_is_refused_or_makes_the_same_context),
        case!(start_with_any_call_failing_is_refused_or_starts_the_same_guest),
        case!(run_with_any_call_failing_is_refused_or_runs_the_same_guest),
        case!(exec_with_any_call_failing_is_refused_or_runs_the_same_process),
        case!(update_pause_resume_and_kill_with_any_call_failing_are_refused_or_do_their_work),
        case!(delete_with_any_call_failing_is_refused_or_removes_all),
    ]
}

fn create_with_any_call_failing_is_refused_or_makes_the_same_context() {
    at_every_call(&verbs::CREATE, rich(), 23, started);
}

fn start_with_any_call_failing_is_refused_or_starts_the_same_guest() {
    at_every_call(&verbs::START, rich(), 7, ended);
}

fn run_with_any_call_failing_is_refused_or_runs_the_same_guest() {
    at_every_call(&verbs::RUN, rich(), 23, |_, traced| Ok(traced.output.stdout.clone()));
}

fn exec_with_any_call_failing_is_refused_or_runs_the_same_process() {
    at_every_call(&verbs::EXEC, rich_and_idle(), 7, |_, traced| Ok(traced.output.stdout.clone()));
}

fn update_pause_resume_and_kill_with_any_call_failing_are_refused_or_do_their_work() {
    at_every_call(&verbs::UPDATE, rich_and_idle(), 7, |bench, _| {
        const FILES: &str =
            "cat memory*/memory.limit_in_bytes pids*/pids.max cpu*/cpu.shares memory.max pids.max 2>&1";
        quickly(bench, &["exec", &bench.context.id, "sh", "-c", &format!("cd /sys/fs/cgroup; {FILES}; true")])
    });
    at_every_call(&verbs::PAUSE, rich_and_idle(), 7, status);
    at_every_call(&verbs::RESUME, rich_and_idle(), 7, status);
    at_every_call(&verbs::KILL, rich_and_idle(), 7, |bench, traced| {
        wait_for_exit(bench.guest.get(), Duration::from_secs(10));
        status(bench, traced)
    });
}

fn delete_with_any_call_failing_is_refused_or_removes_all() {
    at_every_call(&verbs::DELETE, rich_and_idle(), 7, |bench, _| match status(bench, &()) {
        Err(error) if error.contains("does not exist") => Ok("gone".into()),
        other => other,
    });
}

/// A command on the context that must not hang either: its output.
fn quickly(bench: &Bench, words: &[&str]) -> Result<String, String> {
    let (output, ended) = command::attempt(bench.context.command().args(words), b"", Duration::from_secs(10));
    match (ended, output.code) {
        (true, 0) => Ok(output.stdout),
        _ => Err(format!("it succeeded, and then {} gives {}, {}", words[0], output.code, output.stderr)),
    }
}

fn status<T>(bench: &Bench, _: &T) -> Result<String, String> {
    let state: Value = serde_json::from_str(&quickly(bench, &["state", &bench.context.id])?).unwrap();
    Ok(state["status"].to_string())
}

/// What a context that was created says of itself when it is started.
fn started(bench: &Bench, traced: &Traced) -> Result<String, String> {
    quickly(bench, &["start", &bench.context.id])?;
    ended(bench, traced)
}

/// What it has said when it has ended. Its output is that of `create`.
fn ended(bench: &Bench, traced: &Traced) -> Result<String, String> {
    let state: Value = serde_json::from_str(&quickly(bench, &["state", &bench.context.id])?).unwrap();
    let guest = state["pid"].as_u64().unwrap_or(0) as u32;
    if guest > 0 && !wait_for_exit(guest, Duration::from_secs(10)) {
        return Err("it succeeded, and the guest does not end".into());
    }
    let created = bench.created.borrow();
    Ok(command::text(created.as_ref().unwrap_or(&traced.output.log)))
}

/// Runs the verb once to see its calls and its `result`, and then with each call failing in each way.
fn at_every_call(
    verb: &Verb,
    context: Context,
    usual: usize,
    result: fn(&Bench, &Traced) -> Result<String, String>,
) {
    let bench = Bench::new(context);
    bench.prepare(verb);
    let whole = bench.follow(verb, None);
    assert_eq!(whole.output.code, 0, "{}", whole.output.stderr);
    let normal = result(&bench, &whole).unwrap();
    bench.recover(false).unwrap();

    let sample = Sample::every(usual);
    let (mut failed, mut same, mut passed) = (0, BTreeMap::<(usize, &str, &str), usize>::new(), 0);
    let mut wrong = Vec::new();
    for (process, calls) in whole.calls.iter().enumerate() {
        for call in (0..calls.len()).filter(|call| sample.takes(*call)) {
            let Some(possible) = possible(calls[call]) else { continue };
            let at = Place { process, call };
            let nth = calls[..call].iter().filter(|other| **other == possible.0).count();
            for &errno in possible.2 {
                bench.prepare(verb);
                let fault = Fault::Fail { number: possible.0, nth, errno };
                let traced = bench.follow(verb, Some((at, fault)));
                let outcome = judge(&traced, possible, &normal, || result(&bench, &traced));
                let outcome = outcome.and_then(|came| bench.recover(false).map(|()| came));
                match outcome {
                    Ok(Came::Failed) => failed += 1,
                    Ok(Came::Same) => *same.entry((process, possible.1, name(errno))).or_default() += 1,
                    Ok(Came::Passed) => passed += 1,
                    Err(what) => {
                        wrong.push(format!("{at:?} {} = {}: {what}", possible.1, name(errno)));
                        bench.context.call(&["delete", "--force", &bench.context.id]);
                    }
                }
            }
        }
    }
    let count: usize = same.values().sum();
    println!(
        "faults: {:7} errors  {sample}: refused {failed}, done all the same {count}, not reached {passed}",
        verb.name
    );
    if std::env::var_os("VCTX_FAULTS_LIST").is_some() {
        println!("{same:#?}");
    }
    assert!(wrong.is_empty(), "{} with {} wrong:\n{}", verb.name, wrong.len(), wrong.join("\n"));
}

enum Came {
    /// Refused, with a word.
    Failed,
    /// Done as without the fault.
    Same,
    /// The call did not come.
    Passed,
}

fn judge(
    traced: &Traced,
    call: &Possible,
    normal: &str,
    result: impl FnOnce() -> Result<String, String>,
) -> Result<Came, String> {
    let (output, said) = (&traced.output, traced.output.stderr.trim());
    if traced.hung {
        return Err("it hung".into());
    }
    // Without memory a program ends where it is, as one that is killed.
    if output.code != 0 && [libc::SYS_brk, libc::SYS_mmap].contains(&call.0) {
        return Ok(Came::Failed);
    }
    if said.contains("panicked") {
        return Err(format!("it panicked: {}", said.lines().take(2).collect::<Vec<_>>().join(" ")));
    }
    if output.code == 0 {
        let found = result()?;
        if !difference(normal, &found).is_empty() {
            return Err(format!("it succeeded, and the result differs: {}", difference(normal, &found)));
        }
        return Ok(if traced.hit { Came::Same } else { Came::Passed });
    }
    match said.lines().count() {
        1 => Ok(Came::Failed),
        lines => Err(format!("exit code {} with {lines} lines: {said}", output.code)),
    }
}

/// The lines that only one of the texts has; their order is no matter.
fn difference(normal: &str, found: &str) -> String {
    let only = |sign: &str, one: &str, other: &str| {
        // Without a readable /etc/passwd the home folder is `/`, which is no wall.
        let lines = one.lines().filter(|line| !line.starts_with("HOME="));
        let lines = lines.filter(|line| !other.lines().any(|other| other == *line));
        lines.map(|line| format!(" {sign}[{line}]")).collect::<String>()
    };
    only("-", normal, found) + &only("+", found, normal)
}
