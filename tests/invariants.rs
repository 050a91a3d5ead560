//! The invariants of ARCHITECTURE.md that the source itself can be asked for. They read files and run nothing, so they
//! need no root and hold for every runtime under test.

use crate::harness::{Case, case};
use std::fs;
use std::path::{Path, PathBuf};

pub fn cases() -> Vec<Case> {
    vec![
        case!(only_the_command_prints),
        case!(networks_and_storage_know_neither_oci_nor_each_other),
        case!(dependencies_point_downward),
        case!(validation_and_planning_make_no_system_call),
        case!(the_child_has_no_allocator),
        case!(guest_paths_are_resolved_in_one_place),
        case!(namespace_flags_are_named_below_the_runtime_only),
        case!(unsafe_code_is_in_named_modules_only),
        case!(every_unsafe_block_says_which_invariant_holds),
        case!(the_wall_clock_is_read_for_what_is_shown_only),
        case!(a_fuzzer_has_every_file_of_the_command_that_its_files_use),
        case!(every_file_opens_with_its_job),
        case!(files_stay_readable_in_one_sitting),
        case!(nothing_is_left_to_be_done),
    ]
}

/// The folders of the program's own code; the tests are not among them.
const CODE: [&str; 5] = ["cli", "runtime", "isolation", "netns", "storage"];

/// Where `unsafe` may be written. A module comes here with a reason, and goes when it can do without.
const UNSAFE: [&str; 19] = [
    "cli/entry.rs",                            // the function that libc calls
    "cli/heap.rs",                             // the allocator
    "cli/supervise.rs",                        // prctl(2), ioctl(2) of terminals
    "isolation/child/src/sys.rs",              // all raw system calls of the child
    "isolation/context/src/apart.rs",          // fork(2) and setns(2) of a helper
    "isolation/context/src/cgroup/procs.rs",   // a signal's number becomes a signal
    "isolation/context/src/cgroup/program.rs", // bpf(2)
    "isolation/context/src/criu/process.rs",   // between fork(2) and execve(2) of criu
    "isolation/context/src/exe/entry.rs",      // before libc is set up
    "isolation/context/src/exe/mod.rs",        // execveat(2)
    "isolation/context/src/namespace.rs",      // ioctl(2) of namespaces
    "isolation/context/src/probe.rs",          // fork(2), and calls that are tried out
    "isolation/context/src/seccomp/mod.rs",    // seccomp(2) asked for what it can do
    "isolation/context/src/spawn.rs",          // clone3(2)
    "isolation/context/src/watch.rs",          // fcntl(2) of who gets a signal
    "runtime/src/hooks.rs",                    // between fork(2) and execve(2) of a hook
    "storage/remove/src/btrfs.rs",             // ioctl(2) of btrfs
    "storage/src/kernel.rs",                   // quotactl_fd(2), ioctl(2) of file systems
    "tests/bench/floor.rs",                    // system calls and nothing else: it measures the kernel
];

/// Code lines of any file.
const CODE_LINES: usize = 400;

struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
}

impl Source {
    /// The lines that are code, with their numbers: no comment lines, and nothing of a test module at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let own = self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = own.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with("//"))
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("tests.rs")
    }

    /// `path:line` of each code line in which one of the words stands.
    fn places(&self, words: &[&str]) -> Vec<String> {
        let found = |line: &str| words.iter().any(|word| line.contains(word));
        self.code().filter(|(_, line)| found(line)).map(|(at, _)| format!("{}:{at}", self.path)).collect()
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files below the folders.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    folders.iter().for_each(|folder| collect(&repository().join(folder), &mut files));
    assert!(!files.is_empty(), "no Rust file below {folders:?}");
    files.sort();
    let name = |file: &PathBuf| file.strip_prefix(repository()).unwrap().to_str().unwrap().to_string();
    files.iter().map(|file| Source { path: name(file), text: fs::read_to_string(file).unwrap() }).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

#[track_caller]
fn assert_none(what: &str, places: &[String]) {
    assert!(places.is_empty(), "{what}: {}", places.join(", "));
}

/// The places of the words in what is not test code.
fn places(folders: &[&str], words: &[&str]) -> Vec<String> {
    let files = sources(folders).into_iter().filter(|source| !source.is_test());
    files.flat_map(|source| source.places(words)).collect()
}

/// The names below `[dependencies]` of a crate.
fn dependencies(folder: &str) -> Vec<String> {
    let manifest = read(&format!("{folder}/Cargo.toml"));
    let section = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let names = section.take_while(|line| !line.starts_with('[')).filter(|line| !line.trim().is_empty());
    names.map(|line| line.split(['.', ' ', '=']).next().unwrap().to_string()).collect()
}

fn only_the_command_prints() {
    let words = ["print!(", "println!(", "dbg!(", "stdout()", "stderr()"];
    assert_none("a library prints", &places(&CODE[1..], &words));
}

fn networks_and_storage_know_neither_oci_nor_each_other() {
    for (folder, other) in [("netns", "vctx-storage"), ("storage", "vctx-netns")] {
        let known = dependencies(folder);
        for stranger in ["oci-spec", "vctx-runtime", "vctx-context", "vctx-child", other] {
            assert!(!known.iter().any(|name| name == stranger), "{folder} depends on {stranger}");
        }
    }
}

fn dependencies_point_downward() {
    let own = |folder| dependencies(folder).into_iter().filter(|name| name.starts_with("vctx-"));
    assert_eq!(
        own("runtime").collect::<Vec<_>>(),
        ["vctx-child", "vctx-context", "vctx-netns", "vctx-remove"]
    );
    assert_eq!(own("isolation/context").collect::<Vec<_>>(), ["vctx-child"]);
    assert_eq!(own("isolation/child").count(), 0);
    assert_eq!(dependencies("isolation/child"), ["libc", "rustix"]);
}

fn validation_and_planning_make_no_system_call() {
    // Constants and types of these crates are allowed; what follows is how one asks the system for something.
    let words = [
        "std::fs",
        "std::env",
        "std::process",
        "std::net",
        "std::time",
        "rustix::",
        "nix::",
        "libc::syscall",
        "unsafe",
        "canonicalize(",
        ".exists(",
        ".is_file(",
        ".is_dir(",
        ".metadata(",
        "symlink_metadata(",
        "read_link(",
        "read_dir(",
        "File::",
        "procfs::",
    ];
    let mount = Source { path: "runtime/src/mount.rs".into(), text: read("runtime/src/mount.rs") };
    for source in sources(&["runtime/src/validate", "runtime/src/plan"]).into_iter().chain([mount]) {
        assert!(source.code().count() > 0, "{} is empty", source.path);
        assert_none("asks the system", &source.places(&words));
    }
}

fn the_child_has_no_allocator() {
    let lib = read("isolation/child/src/lib.rs");
    assert!(lib.lines().any(|line| line == "#![no_std]"), "the child crate is no longer no_std");
    let words = ["extern crate", "std::", "alloc::"];
    assert_none("the child reaches for std or alloc", &places(&["isolation/child"], &words));
}

fn guest_paths_are_resolved_in_one_place() {
    // One is for what vctx does to a root, one for copies of files, one for layers that are being unpacked.
    let files = ["isolation/child/src/resolve.rs:", "storage/src/inside.rs:", "storage/src/image/within.rs:"];
    let users = places(&CODE, &["openat2(", "SYS_openat2,"]);
    let is_elsewhere = |place: &String| !files.iter().any(|file| place.starts_with(file));
    let elsewhere: Vec<_> = users.into_iter().filter(is_elsewhere).collect();
    assert_none("openat2 is called elsewhere", &elsewhere);
}

fn namespace_flags_are_named_below_the_runtime_only() {
    let named = places(&["cli", "runtime", "storage", "netns"], &["CLONE_NEW", "CloneFlags"]);
    assert_none("a namespace flag is named", &named);
}

fn unsafe_code_is_in_named_modules_only() {
    let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "unsafe("];
    let bench = sources(&["tests/bench"]);
    let files = sources(&CODE).into_iter().filter(|source| !source.is_test()).chain(bench);
    let found: Vec<String> =
        files.filter(|source| !source.places(&words).is_empty()).map(|source| source.path).collect();
    assert_eq!(found, UNSAFE, "left: where unsafe code is; right: where it may be");
}

/// Notes that say nothing of the place where they stand.
const ROTE: [&str; 6] =
    ["are valid", "is valid", "numbers only", "as above", "sets an attribute", "by this function's contract"];

/// clippy sees that there is a note; this sees that it says something. `make check` prints the count.
fn every_unsafe_block_says_which_invariant_holds() {
    let mut blocks = 0;
    for source in sources(&CODE).into_iter().filter(|source| !source.is_test()) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in source.code().filter(|(_, line)| line.contains("unsafe {")) {
            blocks += 1;
            // The note stands before the statement, which can begin a line or two above the block.
            let before =
                lines[..at - 1].iter().rposition(|line| line.trim_start().starts_with("// SAFETY: "));
            let begin = before.filter(|begin| at - begin <= 6).unwrap_or_else(|| {
                panic!("{}:{at} has no note: {line}", source.path);
            });
            let note: Vec<&str> = lines[begin..at]
                .iter()
                .map_while(|line| line.trim_start().strip_prefix("// "))
                .flat_map(str::split_whitespace)
                .collect();
            let (words, note) = (note.len(), note.join(" "));
            assert!(words > 6, "{}:{at}: which invariant? {note}", source.path);
            let rote = ROTE.iter().find(|rote| note.contains(**rote));
            assert!(rote.is_none(), "{}:{at} is rote: {note}", source.path);
        }
    }
    assert!(blocks > 30, "the sources were read wrongly: {blocks} blocks");
}

/// It may jump, in either direction: nothing waits by it, and nothing is decided by it.
fn the_wall_clock_is_read_for_what_is_shown_only() {
    let found = places(&CODE, &["SystemTime::now", "CLOCK_REALTIME", "ClockId::Realtime"]);
    let files: Vec<&str> = found.iter().map(|place| place.split(':').next().unwrap()).collect();
    let shown = [
        "cli/log.rs",                   // the time of a record
        "runtime/src/copy.rs",          // when a context was made
        "runtime/src/create.rs",        // the same
        "storage/src/image/acquire.rs", // when an image came
        "storage/src/snapshot.rs",      // when it was taken, by which the list is ordered
        "storage/src/volume.rs",        // when it was made
    ];
    assert_eq!(files, shown, "left: where the clock is read; right: where it is shown");
}

/// Fuzzers are built by themselves, and rarely: what is missing there should be seen here.
fn a_fuzzer_has_every_file_of_the_command_that_its_files_use() {
    let mut files = 0;
    for fuzzer in sources(&["tests/fuzz/targets"]) {
        let paths = fuzzer.text.lines().filter_map(|line| line.strip_prefix("#[path = \"../../../"));
        for path in paths.map(|rest| rest.trim_end_matches("\"]")) {
            files += 1;
            let text = read(path);
            let used = text.lines().filter_map(|line| line.strip_prefix("use crate::"));
            for module in used.map(|rest| rest.split([':', ';', ' ']).next().unwrap()) {
                let is_there = fuzzer.text.lines().any(|line| line == format!("mod {module};"));
                assert!(is_there, "{} has {path}, and not `{module}`", fuzzer.path);
            }
        }
    }
    assert!(files > 6, "the fuzzers were read wrongly: {files} files");
}

fn every_file_opens_with_its_job() {
    for source in sources(&CODE).into_iter().chain(sources(&["tests"])) {
        let first = source.text.lines().next().unwrap_or_default();
        let job = first.strip_prefix("//! ").unwrap_or_default();
        assert!(job.len() >= 10, "{} opens with {first:?}, and not with its job", source.path);
    }
}

fn files_stay_readable_in_one_sitting() {
    for source in sources(&CODE).into_iter().chain(sources(&["tests"])) {
        let lines = source.code().count();
        assert!(lines <= CODE_LINES, "{} has {lines} lines of code, and may have {CODE_LINES}", source.path);
    }
}

fn nothing_is_left_to_be_done() {
    let words = ["todo!(", "unimplemented!("];
    assert_none("unfinished", &places(&CODE, &words));
}
