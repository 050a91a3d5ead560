//! The slow path: from a validated profile to the program, with runc's reading of the OCI rules.
//!
//! What a call's rules decide, whoever is asked first:
//! - A rule without conditions decides alone, the first of them, whatever rules with conditions there are.
//! - Else the strictest rule that holds does, in the kernel's own order of actions (seccomp(2), "if multiple filters
//!   exist"), and of two of one action the first. The profile's order does not make a filter weaker.
//! - Else the default action.
//! - A rule that repeats the default action says nothing.

use std::collections::BTreeMap;

use libc::sock_filter;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::numbers::{Multiplexed, Numbers};
use super::ranges::{self, Outcome, Section};
use super::rules::{Condition, Rule, Test, Width};
use super::{Error, architecture};

/// Marks the numbers of x32; the kernel reports them under x86_64.
const X32_BIT: u32 = 0x4000_0000;
/// libseccomp's result for a number that belongs to an architecture which is not part of the filter.
const FOREIGN: Outcome = Outcome::Return(libc::SECCOMP_RET_KILL_THREAD);
/// A system call that is newer than the profile is answered with ENOSYS and not with the profile's refusal, because a C
/// library falls back to an older call on ENOSYS only (moby#42680).
const NEWER: Outcome = Outcome::Return(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);

/// Compiles the program.
pub(super) fn lower(profile: &LinuxSeccomp) -> Result<Vec<sock_filter>, Error> {
    let architectures = architecture::of(profile);
    architecture::check(&architectures)?;
    let reading = Reading { profile, default: profile.default_action().as_u32(profile.default_errno_ret()) };
    let mut audits: Vec<u32> = Vec::new();
    for audit in architectures.iter().copied().map(architecture::audit) {
        if !audits.contains(&audit) {
            audits.push(audit);
        }
    }
    let sections: Vec<_> = audits.iter().map(|&audit| reading.section(audit, &architectures)).collect();
    let program = ranges::program(&sections, reading.default);
    match program.len() {
        instructions if instructions > libc::BPF_MAXINSNS as usize => Err(Error::TooLong { instructions }),
        _ => Ok(program),
    }
}

/// A rule for one name or number, with its place in the profile.
type Placed = (usize, Rule);

struct Reading<'a> {
    profile: &'a LinuxSeccomp,
    /// The result of the default action.
    default: u32,
}

impl Reading<'_> {
    /// All numbers of one audit architecture.
    fn section(&self, audit: u32, architectures: &[Arch]) -> Section {
        let mut section = Section::new(audit);
        let all: Vec<Arch> =
            architectures.iter().copied().filter(|&arch| architecture::audit(arch) == audit).collect();
        let newest = match all.iter().find(|&&arch| arch != Arch::ScmpArchX32) {
            Some(&arch) => self.add(&mut section, arch, 0),
            None => {
                section.from(0, FOREIGN);
                None
            }
        };
        if all.contains(&Arch::ScmpArchX32) {
            self.add(&mut section, Arch::ScmpArchX32, X32_BIT);
        } else if audit == Arch::ScmpArchX86_64 as u32 && newest.is_none() {
            // With a newest call, x32 gets ENOSYS as all that is beyond it; a kernel without x32 says the same.
            section.from(X32_BIT, FOREIGN);
            // What a tracer puts in to skip a call.
            section.from(u32::MAX, Outcome::Return(self.default));
        }
        section
    }

    /// The numbers of one architecture, which begin at `first`; the newest that the profile mentions, if it matters.
    fn add(&self, section: &mut Section, arch: Arch, first: u32) -> Option<u32> {
        let (calls, newest) = self.calls(arch);
        section.from(first, Outcome::Return(self.default));
        for (number, rules) in calls {
            section.from(number, outcome(rules));
            section.from(number + 1, Outcome::Return(self.default));
        }
        let newest = newest.filter(|_| self.refuses())?;
        section.from(newest + 1, NEWER);
        Some(newest)
    }

    /// Only a default action that refuses hides that a call is not there.
    fn refuses(&self) -> bool {
        use LinuxSeccompAction::{ScmpActAllow, ScmpActLog, ScmpActTrace};
        !matches!(self.profile.default_action(), ScmpActAllow | ScmpActLog | ScmpActTrace)
    }

    /// The rules by number, and the largest number of all names, whatever their action. Names that libseccomp does not
    /// know are skipped: profiles are written for newer kernels, too.
    fn calls(&self, arch: Arch) -> (BTreeMap<u32, Vec<Placed>>, Option<u32>) {
        let numbers = Numbers::of(arch);
        let (mut calls, mut newest) = (BTreeMap::<u32, Vec<Placed>>::new(), None);
        for (name, rules) in self.names(architecture::width(arch)) {
            if let Some(one) = numbers.multiplexed(name) {
                calls.entry(one.number).or_default().extend(self.of_family(&one, &rules));
            }
            if let Some(number) = numbers.direct(name) {
                newest = newest.max(Some(number));
                calls.entry(number).or_default().extend(rules);
            }
        }
        calls.retain(|_, rules| !rules.is_empty());
        (calls, newest)
    }

    /// The rules by name.
    fn names(&self, width: Width) -> BTreeMap<&str, Vec<Placed>> {
        let mut names = BTreeMap::<&str, Vec<Placed>>::new();
        for (place, rule) in self.profile.syscalls().iter().flatten().enumerate() {
            // EPERM where no error number is given, for a tracer too.
            let action = rule.action().as_u32(rule.errno_ret());
            for name in rule.names() {
                let rules = names.entry(name).or_default();
                if action != self.default {
                    let all = alternatives(rule, width).into_iter();
                    rules.extend(all.map(|conditions| (place, Rule { action, conditions })));
                }
            }
        }
        names
    }

    /// The same call by way of `socketcall` or `ipc`. The arguments that rules ask for are behind a pointer there, or in
    /// other places: such a call gets what its strictest rule gives it, so that none of them is evaded.
    fn of_family(&self, one: &Multiplexed, rules: &[Placed]) -> Option<Placed> {
        let (place, _) = *rules.first()?;
        let action = match rules.iter().find(|(_, rule)| rule.conditions.is_empty()) {
            Some((_, rule)) => rule.action,
            None => rules.iter().map(|(_, rule)| rule.action).fold(self.default, stricter),
        };
        let test = Test::Masked(one.mask.into());
        let which = Condition { index: 0, test, value: one.call.into(), width: Width::Low };
        (action != self.default).then(|| (place, Rule { action, conditions: vec![which] }))
    }
}

/// What the rules about one number decide.
fn outcome(mut rules: Vec<Placed>) -> Outcome {
    rules.sort_by_key(|&(place, _)| place);
    match rules.iter().find(|(_, rule)| rule.conditions.is_empty()) {
        Some((_, rule)) => Outcome::Return(rule.action),
        None => {
            rules.sort_by_key(|(_, rule)| severity(rule.action));
            Outcome::Rules(rules.into_iter().map(|(_, rule)| rule).collect())
        }
    }
}

/// The kernel compares actions as signed numbers, without their data; the smallest is the strictest.
fn severity(action: u32) -> i32 {
    (action & libc::SECCOMP_RET_ACTION_FULL) as i32
}

fn stricter(one: u32, other: u32) -> u32 {
    if severity(other) < severity(one) { other } else { one }
}

/// Lists of conditions, one of which has to hold as a whole. With two conditions on one argument, each of a rule's is
/// enough: libseccomp takes one for an argument, runc therefore reads them so, and profiles are written for it.
fn alternatives(rule: &LinuxSyscall, width: Width) -> Vec<Vec<Condition>> {
    let args = rule.args().as_deref().unwrap_or_default();
    let repeats = |(place, arg): (usize, &LinuxSeccompArg)| {
        args[..place].iter().any(|other| other.index() == arg.index())
    };
    let conditions = args.iter().map(|arg| condition(arg, width));
    match args.iter().enumerate().any(repeats) {
        true => conditions.map(|one| vec![one]).collect(),
        false => vec![conditions.collect()],
    }
}

fn condition(arg: &LinuxSeccompArg, width: Width) -> Condition {
    use LinuxSeccompOperator as Op;
    let (test, value) = match arg.op() {
        Op::ScmpCmpNe => (Test::NotEqual, arg.value()),
        Op::ScmpCmpLt => (Test::Less, arg.value()),
        Op::ScmpCmpLe => (Test::LessOrEqual, arg.value()),
        Op::ScmpCmpEq => (Test::Equal, arg.value()),
        Op::ScmpCmpGe => (Test::GreaterOrEqual, arg.value()),
        Op::ScmpCmpGt => (Test::Greater, arg.value()),
        Op::ScmpCmpMaskedEq => (Test::Masked(arg.value()), arg.value_two().unwrap_or(0)),
    };
    Condition { index: arg.index() as u32, test, value, width }
}
