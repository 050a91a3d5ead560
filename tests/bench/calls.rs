//! System calls of a `run` and of an `exec`, counted by strace(1): a figure that neither noise nor emulation changes.

use std::process::Command;

use super::bundle::{Ask, Bundle};
use super::measure;
use super::peer::{Kind, Peer};
use super::starts::{SLEEPER, pid_of};
use super::statistics::{Better, Measure, Value, spread};
use super::{Bench, Result};

pub fn calls(bench: &mut Bench) -> Result<Vec<Measure>> {
    if measure::which("strace").is_none() {
        return Ok(bench.nothing("system calls", &"strace is not installed"));
    }
    let mut measure = Measure::named("system calls");
    let bundle = Bundle::write(&bench.workspace, "plain", Ask::Plain, &["true"])?;
    let sleeper = Bundle::write(&bench.workspace, "sleeper", Ask::Plain, &SLEEPER)?;
    for peer in bench.peers.iter().filter(|peer| peer.runs) {
        let count = median(bench, |number| peer.run(&bundle, &peer.id(number)))?;
        measure.values.push(value("run", peer, count));
    }
    let mut context = None;
    for peer in bench.peers.iter().filter(|peer| peer.kind != Kind::Bubblewrap) {
        if peer.is_oci() {
            peer.launch(&sleeper, &peer.id(0))?;
        }
        if peer.name == "vctx" {
            context = Some(pid_of(peer, &peer.id(0))?);
        }
        let count = median(bench, |_| Ok(peer.exec(&peer.id(0), context.unwrap_or_default(), "true")))?;
        measure.values.push(value("exec", peer, count));
    }
    for peer in bench.peers.iter().filter(|peer| peer.is_oci()) {
        peer.delete_by_force(&peer.id(0))?;
    }
    super::report::print(&measure);
    Ok(vec![measure])
}

fn value(verb: &str, peer: &Peer, count: f64) -> Value {
    let better = if peer.name == "vctx" { Better::Less } else { Better::Neither };
    Value::new(format!("{verb}, {}", peer.name), count, "calls", better)
}

/// Of three, after one that warms: those that are written in Go differ from run to run.
fn median(bench: &Bench, command: impl Fn(usize) -> Result<Command>) -> Result<f64> {
    let counts = (0..4).map(|number| count(bench, &command(number)?)).collect::<Result<Vec<f64>>>()?;
    Ok(spread(counts[1..].iter().copied()).median)
}

/// The calls of the process and of all that it forks, the guest's among them.
fn count(bench: &Bench, command: &Command) -> Result<f64> {
    let file = bench.workspace.dir.join("calls");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&file).env_clear();
    for (name, value) in command.get_envs() {
        let value = value.unwrap_or_default();
        if name == "LD_PRELOAD" {
            // For the runtime, and not for strace.
            traced.arg("-E").arg(format!("LD_PRELOAD={}", value.to_string_lossy()));
        } else {
            traced.env(name, value);
        }
    }
    traced.arg(command.get_program()).args(command.get_args());
    traced.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    measure::time(&mut traced)?;
    let table = std::fs::read_to_string(&file)?;
    let total = table.lines().find(|line| line.split_whitespace().last() == Some("total"));
    let number = total.and_then(|line| line.split_whitespace().next()?.parse().ok());
    Ok(number.ok_or("strace counts nothing")?)
}
