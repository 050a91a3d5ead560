//! The command line: Go's spelling of options, then clap, whose values parse themselves. One word a line.
#![no_main]
// The command's own files, of which this uses the parsing.
#![allow(dead_code)]

#[path = "../../../cli/args.rs"]
mod args;
#[path = "../../../cli/argv.rs"]
mod argv;
#[path = "../../../cli/checkpoint_args.rs"]
mod checkpoint_args;
#[path = "../../../cli/grants.rs"]
mod grants;
#[path = "../../../cli/image_args.rs"]
mod image_args;
#[path = "../../../cli/network_args.rs"]
mod network_args;
#[path = "../../../cli/run_args.rs"]
mod run_args;
#[path = "../../../cli/storage_args.rs"]
mod storage_args;
#[path = "../../../cli/values.rs"]
mod values;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::{LazyLock, Mutex};

use args::{Cli, Verb};
use clap::{Command, CommandFactory, FromArgMatches};
use libfuzzer_sys::fuzz_target;

static COMMAND: LazyLock<Mutex<Command>> = LazyLock::new(|| Mutex::new(Cli::command()));

fuzz_target!(|data: &[u8]| {
    let mut words = vec![OsString::from("vctx")];
    words.extend(data.split(|&byte| byte == b'\n').map(|word| OsString::from_vec(word.to_vec())));
    let mut command = COMMAND.lock().expect("one thread");
    let normal = argv::normalise(words.clone(), &mut command);
    assert_eq!(argv::normalise(normal.clone(), &mut command), normal, "not idempotent");
    assert_eq!(words.len(), normal.len());
    for (before, after) in words.iter().zip(&normal) {
        let dash = [b"-", before.as_bytes()].concat();
        assert!(before == after || after.as_bytes() == dash, "{before:?} became {after:?}");
    }
    let guest = |list: &[OsString]| list.iter().position(|word| word == "--");
    if let (Some(before), Some(after)) = (guest(&words), guest(&normal)) {
        assert_eq!(words[before..], normal[after..], "a word of the guest's was changed");
    }
    argv::verb(&normal, &command);
    let matches = command.clone().try_get_matches_from(&normal);
    let Ok(cli) = matches.and_then(|matches| Cli::from_arg_matches(&matches)) else { return };
    match cli.verb {
        Verb::Kill(kill) => assert!((0..=64).contains(&kill.signal.0), "signal {}", kill.signal.0),
        Verb::Exec(exec) => {
            if let Some(user) = exec.user {
                let numbers = words.iter().any(|word| number_within(word.as_bytes(), user.uid));
                assert!(numbers, "nobody has said {}", user.uid);
            }
        }
        _ => {}
    }
});

/// Somewhere in the word stands that number.
fn number_within(word: &[u8], number: u32) -> bool {
    let mut runs = word.split(|byte| !byte.is_ascii_digit()).filter(|run| !run.is_empty());
    runs.any(|run| std::str::from_utf8(run).is_ok_and(|run| run.parse() == Ok(number)))
}
