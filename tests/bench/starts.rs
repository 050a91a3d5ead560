//! What a start costs: `run`, `exec`, and the verbs of a context's life one by one.

use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

use super::bundle::{Ask, Bundle};
use super::measure::{self, Before, Contender, Round};
use super::peer::{Kind, Peer};
use super::statistics::Measure;
use super::{Bench, Result};

/// A program that does nothing until it is killed. As the first process of its namespace, only KILL ends it.
pub const SLEEPER: [&str; 2] = ["sleep", "100000"];

/// `run` of true with each bundle, back to back, after quiet, and with a cold page cache.
pub fn run(bench: &mut Bench) -> Result<Vec<Measure>> {
    let mut measures = vec![];
    for ask in Ask::ALL {
        measures.extend(run_once(bench, ask, Before::BackToBack, bench.rounds, "run")?);
    }
    measures.extend(run_once(bench, Ask::Plain, Before::Quiet, bench.rounds, "run after quiet")?);
    measures.extend(run_once(bench, Ask::Limits, Before::Quiet, bench.rounds, "run after quiet")?);
    measures.extend(run_once(bench, Ask::Plain, Before::Cold, bench.rounds.min(9), "run cold")?);
    Ok(measures)
}

pub fn run_once(
    bench: &mut Bench,
    ask: Ask,
    before: Before,
    rounds: usize,
    name: &str,
) -> Result<Vec<Measure>> {
    let bundle = match Bundle::write(&bench.workspace, ask.name(), ask, &["true"]) {
        Ok(bundle) => bundle,
        Err(error) => return Ok(bench.nothing(&format!("{name}: {}", ask.name()), &error)),
    };
    // Neither can limit anything or load a profile as a file of rules.
    let fits =
        |peer: &Peer| peer.is_oci() || !matches!(ask, Ask::Limits | Ask::Seccomp) || peer.kind == Kind::Floor;
    let peers: Vec<Peer> = bench.peers.iter().filter(|peer| peer.runs && fits(peer)).cloned().collect();
    let contenders = peers.iter().map(|peer| {
        let bundle = &bundle;
        let round = move |number| -> Result<Round> {
            Ok(vec![("", measure::time(&mut peer.run(bundle, &peer.id(number))?)?)])
        };
        Contender { name: peer.name, round: Box::new(round) }
    });
    bench.compare(&format!("{name}: {}", ask.name()), rounds, before, contenders.collect())
}

/// `exec` of true in a context that runs, made by each runtime itself. The floor joins vctx's.
pub fn exec(bench: &mut Bench) -> Result<Vec<Measure>> {
    let mut measures = vec![];
    for ask in [Ask::Plain, Ask::Seccomp, Ask::User] {
        match Bundle::write(&bench.workspace, "sleeper", ask, &SLEEPER) {
            Ok(bundle) => measures.extend(exec_in(bench, &bundle)?),
            Err(error) => measures.extend(bench.nothing(&format!("exec: {}", ask.name()), &error)),
        }
    }
    Ok(measures)
}

fn exec_in(bench: &mut Bench, bundle: &Bundle) -> Result<Vec<Measure>> {
    let name = format!("exec: {}", bundle.ask.name());
    let mut peers: Vec<Peer> = bench.peers.iter().filter(|peer| peer.is_oci()).cloned().collect();
    let mut notes = vec![];
    peers.retain(|peer| {
        peer.launch(bundle, &peer.id(0)).map_err(|error| notes.push(error.to_string())).is_ok()
    });
    let mut all = peers.clone();
    let mut pid = 0;
    if let Some(vctx) = peers.iter().find(|peer| peer.name == "vctx") {
        pid = pid_of(vctx, &vctx.id(0))?;
        let joins = |peer: &&Peer| peer.kind == Kind::Floor && bundle.ask != Ask::User;
        all.extend(bench.peers.iter().filter(joins).cloned());
    }
    let contenders = all.iter().map(|peer| {
        let round = move |_| -> Result<Round> {
            Ok(vec![("", measure::time(&mut peer.exec(&peer.id(0), pid, "true"))?)])
        };
        Contender { name: peer.name, round: Box::new(round) }
    });
    let result = bench.compare(&name, bench.rounds, Before::BackToBack, contenders.collect());
    peers.iter().try_for_each(|peer| peer.delete_by_force(&peer.id(0)))?;
    let mut measures = result?;
    notes.iter().for_each(|note| println!("  left out: {note}"));
    measures.iter_mut().for_each(|measure| measure.notes.extend(notes.clone()));
    Ok(measures)
}

/// The first process of a context, as its runtime tells it.
pub fn pid_of(peer: &Peer, context: &str) -> Result<u32> {
    let output = peer.verb(&["state", context]).stdout(std::process::Stdio::piped()).output()?;
    let state: Value = serde_json::from_slice(&output.stdout)?;
    Ok(state["pid"].as_u64().ok_or("state tells no pid")? as u32)
}

/// `create start state kill delete`, each apart. The processor time of a verb is its own and that of children it has
/// waited for; the guest's part of a start is then nobody's.
pub fn verbs(bench: &mut Bench) -> Result<Vec<Measure>> {
    let bundle = Bundle::write(&bench.workspace, "sleeper", Ask::Plain, &SLEEPER)?;
    let peers: Vec<Peer> = bench.peers.iter().filter(|peer| peer.is_oci()).cloned().collect();
    let contenders = peers.iter().map(|peer| {
        let bundle = &bundle;
        Contender { name: peer.name, round: Box::new(move |number| life(peer, bundle, &peer.id(number))) }
    });
    bench.compare("verbs", bench.rounds, Before::BackToBack, contenders.collect())
}

fn life(peer: &Peer, bundle: &Bundle, context: &str) -> Result<Round> {
    let verb = |words: &[&str]| measure::time(&mut peer.verb(words));
    let create = measure::time(&mut peer.create(bundle, context))?;
    let start = verb(&["start", context])?;
    let state = verb(&["state", context])?;
    let pid = pid_of(peer, context)?;
    let kill = verb(&["kill", context, "KILL"])?;
    wait_until_gone(pid)?;
    let delete = verb(&["delete", context])?;
    Ok(vec![("create", create), ("start", start), ("state", state), ("kill", kill), ("delete", delete)])
}

/// Waits until the process, an orphan that became ours, has been reaped.
pub fn wait_until_gone(pid: u32) -> Result<()> {
    let start = Instant::now();
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        measure::reap();
        if start.elapsed() > Duration::from_secs(10) {
            return Err(format!("process {pid} does not end").into());
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
