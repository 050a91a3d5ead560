//! What the behaviour tests stand on: cases with requirements, the runtime under test, bundles, engines.
//!
//! Read in this order: a test file lists `Case`s, `Suites` turns them into libtest-mimic trials, a case makes a
//! `Context` (bundle + driver), and dropping the `Context` deletes it and fails the case if anything is left.

pub mod agent;
pub mod bpf;
pub mod cgroup;
pub mod command;
pub mod context;
pub mod engine;
pub mod leaks;
pub mod net;
pub mod pty;
pub mod rootfs;
pub mod spec;
#[cfg(target_arch = "x86_64")]
pub mod tracer;

pub use command::{Output, run};
pub use context::Context;
pub use serde_json::json;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// What a case needs of the machine or of the runtime under test.
#[derive(Clone, Copy)]
pub enum Need {
    /// The tests run as root.
    Root,
    /// The runtime under test is vctx: the case shows something that no peer has.
    Vctx,
    /// A program in `PATH` (or in an `sbin`).
    Program(&'static str),
    /// A file or folder of this machine's kernel or init.
    Path(&'static str),
    /// A program of ours beside the runtime, and the package that it is built from.
    Beside(&'static str),
    /// A machine without this file or folder.
    NoPath(&'static str),
    /// A criu that works on this kernel.
    Criu,
    /// Linux of this version, or a later one.
    Linux(u32, u32),
    /// It takes minutes of a machine that does nothing else: a recipe of its own sets this variable, and has this name.
    Recipe(&'static str, &'static str),
}

impl Need {
    fn missing(self) -> Option<String> {
        match self {
            Need::Root if !nix::unistd::geteuid().is_root() => Some("needs root".into()),
            Need::Vctx if peer() != "vctx" => Some(format!("vctx only, and {} is under test", peer())),
            Need::Program(name) if which(name).is_none() => Some(format!("needs the program {name}")),
            Need::Beside(name) if !runtime().with_file_name(name).exists() => {
                Some(format!("needs {name}: cargo build --package {name}"))
            }
            Need::Recipe(variable, recipe) if std::env::var_os(variable).is_none() => {
                Some(format!("has a recipe of its own: make {recipe}"))
            }
            Need::Path(path) if !Path::new(path).exists() => Some(format!("this machine has no {path}")),
            Need::NoPath(path) if Path::new(path).exists() => Some(format!("this machine has {path}")),
            Need::Criu if criu().is_none() => {
                Some("needs a criu that works on this kernel: tests/criu/provide".into())
            }
            Need::Linux(major, minor) if kernel() < (major, minor) => {
                Some(format!("needs Linux {major}.{minor}"))
            }
            _ => None,
        }
    }
}

/// The criu that `make test` has found or brought: `criu/bin/criu` beside what was built.
pub fn criu() -> Option<PathBuf> {
    let tests = std::env::current_exe().ok()?;
    tests.ancestors().map(|folder| folder.join("criu/bin/criu")).find(|criu| criu.exists())
}

/// Lets everything that the tests start find that criu, engines too.
pub fn find_criu() {
    let Some(criu) = criu() else { return };
    let folder = criu.parent().unwrap().canonicalize().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    // SAFETY: the tests have one thread yet, so nobody reads the variables meanwhile.
    unsafe { std::env::set_var("PATH", format!("{}:{path}", folder.display())) };
}

/// Major and minor version of the running kernel.
pub fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// One behaviour: its name is a sentence, its body panics when the sentence is wrong.
pub struct Case {
    name: &'static str,
    needs: Vec<Need>,
    differs: Vec<(&'static str, &'static str)>,
    body: fn(),
}

impl Case {
    pub fn new(name: &'static str, body: fn()) -> Case {
        Case { name, needs: vec![], differs: vec![], body }
    }

    /// Its sentence.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn needs(mut self, need: Need) -> Case {
        self.needs.push(need);
        self
    }

    /// `peer` is known not to show this behaviour. The case still runs there; its failure is reported as ignored, with
    /// the reason.
    pub fn differs(mut self, peer: &'static str, reason: &'static str) -> Case {
        self.differs.push((peer, reason));
        self
    }

    fn run(&self, suite_needs: &[Need]) -> Result<Completion, Failed> {
        let unmet = suite_needs.iter().chain(&self.needs).find_map(|need| need.missing());
        if let Some(reason) = unmet.or_else(unusable) {
            return Ok(Completion::ignored_with(reason));
        }
        let Err(panic) = panic::catch_unwind(AssertUnwindSafe(self.body)) else {
            return Ok(Completion::Completed);
        };
        if let Some((peer, reason)) = self.differs.iter().find(|(name, _)| *name == peer()) {
            return Ok(Completion::ignored_with(format!("{peer} differs: {reason}")));
        }
        drop(panic);
        Err(LAST_PANIC.take().into())
    }
}

/// `case!(name)`: the case whose sentence is the function's name.
macro_rules! case {
    ($body:ident) => {
        $crate::harness::Case::new(stringify!($body), $body)
    };
}
pub(crate) use case;

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The whole collection, in the order in which it is run.
pub struct Suites {
    arguments: Arguments,
    part: Part,
    trials: Vec<Trial>,
}

/// Which part of the collection is run, where several machines share it or one has time for some only.
struct Part {
    /// `VCTX_TEST_SHARD=2/3`: the second of three, which together are all.
    shard: usize,
    shards: usize,
    /// `VCTX_TEST_SUITES=exec,hooks`: these suites alone.
    suites: Option<Vec<String>>,
    /// How many have been dealt out: cases, and suites that are not divided.
    dealt: usize,
}

impl Part {
    fn chosen() -> Part {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let (shard, shards) = match variable("VCTX_TEST_SHARD") {
            None => (1, 1),
            Some(text) => text
                .split_once('/')
                .and_then(|(shard, shards)| Some((shard.parse().ok()?, shards.parse().ok()?)))
                .filter(|(shard, shards)| (1..=*shards).contains(shard))
                .unwrap_or_else(|| panic!("VCTX_TEST_SHARD={text} is not of the form 1/2")),
        };
        let suites = variable("VCTX_TEST_SUITES").map(|text| text.split(',').map(str::to_string).collect());
        Part { shard, shards, suites, dealt: 0 }
    }

    fn has(&self, suite: &str) -> bool {
        self.suites.as_ref().is_none_or(|suites| suites.iter().any(|name| name == suite))
    }

    /// Whether the next one is ours.
    fn deal(&mut self) -> bool {
        self.dealt += 1;
        self.dealt % self.shards == self.shard % self.shards
    }
}

impl Suites {
    pub fn new() -> Suites {
        let mut arguments = Arguments::from_args();
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        arguments.test_threads.get_or_insert(2 * cores);
        panic::set_hook(Box::new(|info| {
            let text = info.to_string();
            LAST_PANIC.with(|last| {
                if last.borrow().is_empty() {
                    last.replace(text);
                }
            });
        }));
        Suites { arguments, part: Part::chosen(), trials: vec![] }
    }

    /// Adds what is to be run of a suite. One that needs a program is not divided: its engine takes long to start.
    pub fn add(&mut self, suite: &str, needs: &'static [Need], cases: Vec<Case>) {
        let whole = needs.iter().any(|need| matches!(need, Need::Program(_)));
        if !self.part.has(suite) || (whole && !self.part.deal()) {
            return;
        }
        for case in cases {
            if !whole && !self.part.deal() {
                continue;
            }
            self.trials.push(Trial::ignorable_test(format!("{suite}::{}", case.name), move || {
                LAST_PANIC.take();
                case.run(needs)
            }));
        }
    }

    /// Runs all, stops the engines, removes the temporary folders, and exits as cargo's own harness would.
    pub fn run(self) {
        if !self.arguments.list {
            println!("runtime under test: {} ({})", peer(), runtime().display());
        }
        let conclusion = libtest_mimic::run(&self.arguments, self.trials);
        clean_up();
        conclusion.exit()
    }
}

type Cleanup = Box<dyn FnOnce() + Send>;
static CLEANUPS: Mutex<Vec<Cleanup>> = Mutex::new(Vec::new());

/// Registers work for the end of the test process, whether the tests pass or fail; last registered runs first.
pub fn at_end(cleanup: impl FnOnce() + Send + 'static) {
    CLEANUPS.lock().unwrap().push(Box::new(cleanup));
}

/// Does what was registered.
pub fn clean_up() {
    let cleanups = std::mem::take(&mut *CLEANUPS.lock().unwrap());
    cleanups.into_iter().rev().for_each(|cleanup| cleanup());
}

/// The runtime under test, as an absolute path.
pub fn runtime() -> &'static Path {
    static RUNTIME: OnceLock<PathBuf> = OnceLock::new();
    RUNTIME.get_or_init(|| match std::env::var("VCTX_UNDER_TEST").as_deref() {
        Err(_) | Ok("" | "vctx") => PathBuf::from(env!("CARGO_BIN_EXE_vctx")),
        Ok(name) => which(name).unwrap_or_else(|| panic!("VCTX_UNDER_TEST={name} is not installed")),
    })
}

/// Why the runtime under test can run nothing on this machine: crun manages no hybrid machine whose version 2 hierarchy
/// has a controller, such as hugetlb.
fn unusable() -> Option<String> {
    let controllers =
        std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    let refuses = peer() == "crun" && !controllers.trim().is_empty();
    refuses.then(|| format!("crun refuses a hybrid machine with {} on version 2", controllers.trim()))
}

/// The runtime's own name: `vctx`, `runc`, `crun`, or another file name.
pub fn peer() -> &'static str {
    runtime().file_name().unwrap().to_str().unwrap()
}

/// Finds a program as a shell would, and in the `sbin` folders, where Debian keeps runc and dockerd.
pub fn which(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).canonicalize().ok();
    }
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

/// How many times slower than a real one this machine is: `VCTX_TEST_SLOW`, which the emulated machine sets.
pub fn slowness() -> u32 {
    std::env::var("VCTX_TEST_SLOW").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// How often to try what wins by repetition: fewer times on a slow machine, where each takes as many times longer.
pub fn rounds(usual: u32) -> u32 {
    (usual / slowness()).max(10)
}

/// Polls until `probe` yields something; for states that only a command can tell. Panics after `seconds`, on a machine
/// of usual speed.
pub fn eventually<T>(what: &str, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds) * slowness();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s in vain: {what}");
        std::thread::sleep(Duration::from_millis(8));
    }
}
