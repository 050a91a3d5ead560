//! The soak: thousands of starts, four at once, with commands that are killed at random times. What the machine holds at the
//! end must be what it held at the beginning. `make soak` runs it; it is no case of the suites, for it takes long.

use crate::harness::{Context, bpf, clean_up, command, leaks, runtime};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Started beside each other.
const WORKERS: u64 = 4;
/// Starts before the first look, which fill the kernel's and our own caches.
const WARM_UP: usize = 200;
/// The kernel frees much of what is gone only later; it gets this long.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs the soak if this process was started for one.
pub fn main() -> Option<()> {
    let starts: usize = std::env::var("VCTX_SOAK").ok()?.parse().expect("VCTX_SOAK is a number of starts");
    let seed = std::env::var("VCTX_SOAK_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919);
    println!(
        "soak: {starts} starts, {WORKERS} at once, seed {seed} (VCTX_SOAK_SEED), {}",
        runtime().display()
    );
    run(WARM_UP, seed);
    let before = Look::now();
    let begun = Instant::now();
    let times = run(starts, seed + 1);
    let took = begun.elapsed();
    let (after, wrong) = settled(&before);
    println!("{:32} {:>12} {:>12} {:>12}", "", "before", "after", "may grow by");
    for (name, (count, bound)) in &before.0 {
        println!("{name:32} {count:>12} {:>12} {bound:>12}", after.0[name].0);
    }
    let slower = report(&times, took);
    clean_up();
    assert!(wrong.is_empty(), "grown: {}", wrong.join(", "));
    assert!(!slower, "a start takes longer at the end than at the beginning");
    Some(())
}

/// Runs starts, and gives the time of each that was not killed, in the order in which they ended.
fn run(starts: usize, seed: u64) -> Vec<Duration> {
    let next = AtomicUsize::new(0);
    let times = Mutex::new(Vec::with_capacity(starts));
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (next, times) = (&next, &times);
            scope.spawn(move || {
                let mut context = Context::sh("echo started");
                context.set("/linux/resources/pids", crate::harness::json!({ "limit": 100 }));
                context.set("/linux/resources/memory", crate::harness::json!({ "limit": 64 << 20 }));
                context.write_config();
                let mut random = Random(seed.wrapping_mul(WORKERS).wrapping_add(worker) | 1);
                while next.fetch_add(1, Ordering::Relaxed) < starts {
                    match random.below(4) {
                        0 => kill_one(&context, &mut random),
                        _ => times.lock().unwrap().push(one(&context)),
                    }
                }
            });
        }
    });
    times.into_inner().unwrap()
}

/// From the call of `run` to its end.
fn one(context: &Context) -> Duration {
    let begun = Instant::now();
    let output = command::run(context.command().args(["run", "--bundle"]).arg(&context.dir).arg(&context.id));
    assert_eq!((output.code, output.stdout.as_str()), (0, "started\n"), "{}", output.stderr);
    begun.elapsed()
}

/// `run` or `create`, killed within the time that it takes, and what the next command makes of it.
fn kill_one(context: &Context, random: &mut Random) {
    let verb = if random.below(2) == 0 { "run" } else { "create" };
    let mut command = context.command();
    command.args([verb, "--bundle"]).arg(&context.dir).arg(&context.id);
    let null = || Stdio::null();
    let mut child = command.stdin(null()).stdout(null()).stderr(null()).spawn().unwrap();
    std::thread::sleep(Duration::from_micros(random.below(20_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    command::run(context.command().args(["delete", "--force", &context.id])).ok();
    let left = leaks::settle_quickly(&context.id, &context.dir, &context.state_root, 0);
    assert!(left.is_empty(), "a killed {verb} has left {left:#?}");
}

/// Xorshift: the same seed gives the same kills.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What the machine holds: (count, by how much it may grow). The whole machine is looked at, so that a bound leaves room for
/// what else runs on it; a leak of one in a start would be above each by far.
struct Look(BTreeMap<&'static str, (i64, i64)>);

impl Look {
    fn now() -> Look {
        let mut all = BTreeMap::new();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        let memory = |key: &str| number(meminfo.lines().find_map(|line| line.strip_prefix(key)).unwrap());
        all.insert("unreclaimable slab, KiB", (memory("SUnreclaim:"), 32 << 10));
        all.insert("kernel stacks, KiB", (memory("KernelStack:"), 4 << 10));
        all.insert("per-CPU memory, KiB", (memory("Percpu:"), 8 << 10));
        let open = number(&fs::read_to_string("/proc/sys/fs/file-nr").unwrap());
        all.insert("open files", (open, 1000));
        all.insert("descriptors of this process", (entries("/proc/self/fd"), 0));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        all.insert("mounts of the host", (mounts as i64, 8));
        all.insert("processes", (processes(), 60));
        all.insert("BPF programs", (bpf::programs().len() as i64, 60));
        all.insert("network devices", (entries("/sys/class/net"), 8));
        all.insert("control groups, dying ones too", (known_groups(), 250));
        let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
        for (name, slab, bound) in [
            ("network namespaces", "net_namespace ", 40),
            ("pid namespaces", "pid_namespace ", 250),
            ("mounts of all namespaces", "mnt_cache ", 600),
            ("sockets", "sock_inode_cache ", 500),
        ] {
            if let Some(line) = slabs.lines().find_map(|line| line.strip_prefix(slab)) {
                all.insert(name, (number(line), bound));
            }
        }
        Look(all)
    }

    fn grown(&self, before: &Look) -> Vec<String> {
        let grown = self.0.iter().filter(|(name, (count, bound))| *count > before.0[*name].0 + bound);
        grown.map(|(name, (count, _))| format!("{name}: {} to {count}", before.0[name].0)).collect()
    }
}

/// Looks until nothing has grown, or patience is at its end.
fn settled(before: &Look) -> (Look, Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let after = Look::now();
        let wrong = after.grown(before);
        if wrong.is_empty() || Instant::now() > deadline {
            return (after, wrong);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The first number of a text.
fn number(text: &str) -> i64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

fn entries(folder: &str) -> i64 {
    fs::read_dir(folder).unwrap().count() as i64
}

fn processes() -> i64 {
    let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit())).count() as i64
}

/// The groups that the kernel knows: those that were removed live on while anything of them is in use. Version 1 counts
/// them itself, version 2 says how many are dying.
fn known_groups() -> i64 {
    let unified = Path::new("/sys/fs/cgroup/cgroup.stat");
    if let Ok(text) = fs::read_to_string(unified) {
        return text.lines().filter_map(|line| line.split(' ').nth(1)).map(number).sum();
    }
    let table = fs::read_to_string("/proc/cgroups").unwrap();
    let memory = table.lines().find(|line| line.starts_with("memory")).expect("the memory controller");
    number(memory.split('\t').nth(2).unwrap())
}

/// Prints the times of the first and the last tenth; true when a start has become slower by more than half.
fn report(times: &[Duration], took: Duration) -> bool {
    let tenth = (times.len() / 10).max(1);
    let median = |part: &[Duration]| {
        let mut sorted = part.to_vec();
        sorted.sort();
        sorted[sorted.len() / 2]
    };
    let (first, last) = (median(&times[..tenth]), median(&times[times.len() - tenth..]));
    println!("{:32} {first:>12.1?} {last:>12.1?}", "median time of a start");
    println!("{} starts to their end, the others killed, in {:.0} s", times.len(), took.as_secs_f64());
    last > first * 3 / 2 + Duration::from_millis(5)
}
