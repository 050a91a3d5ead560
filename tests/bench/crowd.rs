//! Many contexts: several starts at once, starts beside a thousand that live, what each costs in memory, and how long
//! it takes to look at all of them and to end them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::bundle::{Ask, Bundle};
use super::measure::{self, Before, Contender, Sample, Samples};
use super::peer::Peer;
use super::starts::{SLEEPER, pid_of, wait_until_gone};
use super::statistics::{Better, Measure, Value, measures};
use super::{Bench, Result};

/// `run` of true, several at once: what is shown is the time until all have ended.
pub fn at_once(bench: &mut Bench) -> Result<Vec<Measure>> {
    let bundle = Bundle::write(&bench.workspace, "plain", Ask::Plain, &["true"])?;
    let peers: Vec<Peer> = bench.peers.iter().filter(|peer| peer.runs).cloned().collect();
    let mut all = vec![];
    for count in [1, 2, 4] {
        let contenders = peers.iter().map(|peer| {
            let bundle = &bundle;
            let round = move |_| {
                let commands = (0..count).map(|number| peer.run(bundle, &peer.id(number)));
                Ok(vec![("", measure::time_all(commands.collect::<Result<_>>()?)?)])
            };
            Contender { name: peer.name, round: Box::new(round) }
        });
        let (name, contenders) = (format!("{count} at once"), contenders.collect());
        let mut measures = bench.compare(&name, bench.rounds / 2, Before::BackToBack, contenders)?;
        for measure in &mut measures {
            let rate = |(name, figures): (&String, &super::statistics::Figures)| {
                let rate = count as f64 * 1e6 / figures.wall.median;
                Value::new(format!("{count} at once: {name}"), rate, "contexts/s", Better::Neither)
            };
            measure.values = measure.figures.iter().map(rate).collect();
        }
        all.extend(measures);
    }
    Ok(all)
}

/// How many contexts live when starts are measured again.
const ALIVE: [usize; 3] = [0, 100, 1000];

/// A thousand contexts of vctx, then a thousand of crun, then as many plain processes.
pub fn crowd(bench: &mut Bench) -> Result<Vec<Measure>> {
    let sleeper = Bundle::write(&bench.workspace, "sleeper", Ask::Plain, &SLEEPER)?;
    let mut result = vec![];
    let (mut samples, mut costs) = (Samples::new(), Measure::named("what one more context costs"));
    for peer in bench.peers.clone().iter().filter(|peer| ["vctx", "crun"].contains(&peer.name)) {
        let before = kernel_memory()?;
        let mut add = |what, sample: Sample| {
            let of: &mut BTreeMap<String, Vec<Sample>> = samples.entry(what).or_default();
            of.entry(peer.name.to_string()).or_default().push(sample);
        };
        let mut alive = 0;
        for count in ALIVE {
            while alive < count {
                bench.workspace.go_on()?;
                add("create", measure::time(&mut peer.create(&sleeper, &peer.id(100_000 + alive)))?);
                add("start", measure::time(&mut peer.verb(&["start", &peer.id(100_000 + alive)]))?);
                alive += 1;
            }
            result.extend(beside(bench, peer, alive)?);
        }
        costs.values.extend(costs_of(peer.name, before, kernel_memory()?, alive));
        if peer.name == "vctx" {
            costs.values.push(resident(&peer.program)?);
        }
        for _ in 0..10 {
            add("list", measure::time(&mut peer.verb(&["list"]))?);
        }
        end_all(bench, peer, alive, add)?;
    }
    costs.values.extend(plain_processes(*ALIVE.last().unwrap_or(&0))?);
    result.push(slowdown(&result));
    result.extend(measures("each of 1000", &samples, &["one runtime after the other".into()]));
    result.push(costs);
    let known = ALIVE.len() * 2;
    result.iter().skip(known.min(result.len())).for_each(super::report::print);
    Ok(result)
}

/// `run` of true beside those that live.
fn beside(bench: &mut Bench, peer: &Peer, alive: usize) -> Result<Vec<Measure>> {
    let bundle = Bundle::write(&bench.workspace, "plain", Ask::Plain, &["true"])?;
    let both = [peer.clone(), bench.peer("floor").ok_or("the floor program is missing")?];
    let contenders = both.iter().map(|peer| {
        let bundle = &bundle;
        let round = move |number| Ok(vec![("", measure::time(&mut peer.run(bundle, &peer.id(number))?)?)]);
        Contender { name: peer.name, round: Box::new(round) }
    });
    let (name, contenders) = (format!("run beside {alive} of {}", peer.name), contenders.collect());
    bench.compare(&name, bench.rounds, Before::BackToBack, contenders)
}

/// Times with a thousand alive over those with none. The machine has changed meanwhile, so that least times are taken.
fn slowdown(result: &[Measure]) -> Measure {
    let mut slowdown = Measure::named("a start beside 1000 over one beside none");
    for name in ["vctx", "crun"] {
        let of = |count: usize, name: &str| {
            let measure =
                result.iter().find(|measure| measure.name == format!("run beside {count} of {name}"))?;
            measure.figures.get(name)
        };
        if let (Some(none), Some(thousand)) = (of(0, name), of(1000, name)) {
            let better = if name == "vctx" { Better::Less } else { Better::Neither };
            let wall = thousand.wall.minimum / none.wall.minimum;
            let cpu = thousand.cpu.minimum / none.cpu.minimum;
            slowdown.values.push(Value::new(format!("{name}, least wall time"), wall, "", better));
            slowdown.values.push(Value::new(format!("{name}, least processor time"), cpu, "", better));
        }
    }
    slowdown
}

/// Looks at each, kills each, and deletes each.
fn end_all(
    bench: &Bench,
    peer: &Peer,
    alive: usize,
    mut add: impl FnMut(&'static str, Sample),
) -> Result<()> {
    let ids = || (0..alive).map(|number| peer.id(100_000 + number));
    for id in ids() {
        bench.workspace.go_on()?;
        add("state", measure::time(&mut peer.verb(&["state", &id]))?);
    }
    for id in ids() {
        bench.workspace.go_on()?;
        let pid = pid_of(peer, &id)?;
        add("kill", measure::time(&mut peer.verb(&["kill", &id, "KILL"]))?);
        wait_until_gone(pid)?;
        add("delete", measure::time(&mut peer.verb(&["delete", &id]))?);
    }
    Ok(())
}

/// Lines of /proc/meminfo that are the kernel's own, and all that was not free, in bytes.
type Memory = BTreeMap<&'static str, f64>;

fn kernel_memory() -> Result<Memory> {
    // What is freed late is freed before one looks.
    thread::sleep(Duration::from_millis(300));
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = |key: &str| {
        let line = text.lines().find(|line| line.split(':').next() == Some(key));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or_default() * 1024.0
    };
    let keys = ["Slab", "Percpu", "KernelStack", "PageTables"];
    let mut memory: Memory = keys.into_iter().map(|key| (key, line(key))).collect();
    memory.insert("all that is not available any more", line("MemTotal") - line("MemAvailable"));
    Ok(memory)
}

fn costs_of(what: &str, before: Memory, after: Memory, count: usize) -> Vec<Value> {
    let cost = |(key, value): (&&'static str, &f64)| {
        let cost = (value - before[*key]) / count as f64 / 1024.0;
        Value::new(format!("{what}: {key}"), cost, "KiB", Better::Neither)
    };
    after.iter().map(cost).collect()
}

/// Processes whose executable is the runtime, and what they hold resident.
fn resident(program: &Path) -> Result<Value> {
    let program = fs::canonicalize(program)?;
    let mut count = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let same = fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == program);
        count += usize::from(same);
    }
    Ok(Value::new(
        "vctx: its own processes for 1000 detached contexts",
        count as f64,
        "processes",
        Better::Less,
    ))
}

fn plain_processes(count: usize) -> Result<Vec<Value>> {
    let before = kernel_memory()?;
    let spawn = |_| Command::new("/bin/busybox").args(SLEEPER).stdin(Stdio::null()).spawn();
    let mut children: Vec<Child> = (0..count).map(spawn).collect::<std::io::Result<_>>()?;
    let after = kernel_memory();
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    Ok(costs_of("a plain process", before, after?, count))
}
