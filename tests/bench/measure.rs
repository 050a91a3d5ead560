//! One measurement: a process is spawned and waited for, with wall time and processor time; and rounds of many.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::sys::wait::{WaitPidFlag, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use super::Result;
use super::workspace::Workspace;

/// What one operation took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// From before the spawn until it was waited for, in microseconds.
    pub wall: f64,
    /// User and system time of the process and of all that it or we have reaped meanwhile, in microseconds.
    pub cpu: f64,
}

/// Spawns the command, waits for it, and insists on its success.
///
/// The standard library spawns by posix_spawn(3), which shares our memory until the execve: our own size does not count.
pub fn time(command: &mut Command) -> Result<Sample> {
    let errors = tempfile::tempfile()?;
    command.stderr(errors.try_clone()?);
    let cpu = children_cpu()?;
    let start = Instant::now();
    let status = wait(&mut spawn(command)?)?;
    let wall = start.elapsed().as_secs_f64() * 1e6;
    reap();
    let cpu = children_cpu()? - cpu;
    insist(command, status, errors)?;
    Ok(Sample { wall, cpu })
}

/// Spawns all, and waits until the last has ended.
pub fn time_all(mut commands: Vec<Command>) -> Result<Sample> {
    let errors = tempfile::tempfile()?;
    for command in &mut commands {
        command.stderr(errors.try_clone()?);
    }
    let cpu = children_cpu()?;
    let start = Instant::now();
    let children: Vec<Child> = commands.iter_mut().map(spawn).collect::<Result<_>>()?;
    let ended: Vec<_> = children.into_iter().map(|mut child| wait(&mut child)).collect();
    let wall = start.elapsed().as_secs_f64() * 1e6;
    reap();
    let cpu = children_cpu()? - cpu;
    for (command, status) in commands.iter().zip(ended) {
        insist(command, status?, errors.try_clone()?)?;
    }
    Ok(Sample { wall, cpu })
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|error| format!("{}: {error}", Path::new(command.get_program()).display()).into())
}

/// How long anything that is measured may take.
const LIMIT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Waits for the end, and ends what does not end by itself.
fn wait(child: &mut Child) -> Result<ExitStatus> {
    let process = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&LIMIT))?;
    if ended == 0 {
        child.kill()?;
        child.wait()?;
        return Err(format!("did not end within {} s", LIMIT.tv_sec).into());
    }
    Ok(child.wait()?)
}

/// An error with what the program wrote there, unless it succeeded.
fn insist(command: &Command, status: ExitStatus, mut errors: File) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    errors.rewind()?;
    errors.read_to_string(&mut text)?;
    let program = Path::new(command.get_program()).display();
    Err(format!("{program} {}: {status}: {}", words(command), text.trim()).into())
}

fn words(command: &Command) -> String {
    command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64)
}

/// Waits for the orphans that have ended: processes of contexts that were detached. Children that somebody still
/// holds as `Child` must not be alive when this is called.
pub fn reap() {
    while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
}

pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

/// What stands before a measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// The one before it has just ended.
    BackToBack,
    /// Nothing has run for 50 ms: a shell, or a request that comes now and then.
    Quiet,
    /// The page cache was dropped: the first start after a boot.
    Cold,
}

impl Before {
    fn prepare(self) -> Result<()> {
        match self {
            Before::BackToBack => {}
            Before::Quiet => thread::sleep(Duration::from_millis(50)),
            Before::Cold => {
                rustix::fs::sync();
                std::fs::write("/proc/sys/vm/drop_caches", "3")?;
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// The operations of one round of one contender: their names, and what each took.
pub type Round = Vec<(&'static str, Sample)>;

/// One of those that are compared.
pub struct Contender<'a> {
    pub name: &'a str,
    /// Does round `n`; only what it returns was timed.
    pub round: Box<dyn FnMut(usize) -> Result<Round> + 'a>,
}

/// What the rounds gave: of each operation, of each contender, one sample a round, in the order of the rounds.
pub type Samples = BTreeMap<&'static str, BTreeMap<String, Vec<Sample>>>;

/// Runs the rounds, each contender once in each, in an order that is shuffled anew. A contender that fails is left out
/// from there on and its samples are dropped, with a note.
pub fn rounds(
    workspace: &Workspace,
    dice: &mut Dice,
    count: usize,
    before: Before,
    mut contenders: Vec<Contender>,
) -> Result<(Samples, Vec<String>)> {
    let (mut samples, mut notes) = (Samples::new(), vec![]);
    for number in 0..count + 1 {
        dice.shuffle(&mut contenders);
        let mut failed = vec![];
        for contender in &mut contenders {
            workspace.go_on()?;
            before.prepare()?;
            match (contender.round)(number) {
                // The first round warms.
                Ok(_) if number == 0 => {}
                Ok(round) => round.into_iter().for_each(|(operation, sample)| {
                    let of = samples.entry(operation).or_default();
                    of.entry(contender.name.to_string()).or_default().push(sample);
                }),
                Err(error) => {
                    workspace.go_on()?;
                    notes.push(format!("{} is left out: {error}", contender.name));
                    failed.push(contender.name);
                }
            }
        }
        contenders.retain(|contender| !failed.contains(&contender.name));
        samples.values_mut().for_each(|of| of.retain(|name, _| !failed.contains(&name.as_str())));
    }
    Ok((samples, notes))
}

/// A reproducible order: the seed is printed, and `--seed` takes it.
pub struct Dice(pub u64);

impl Dice {
    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}
