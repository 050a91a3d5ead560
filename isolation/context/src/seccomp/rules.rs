//! Rules on the arguments of one system call, and the instructions that try them.
//!
//! A rule holds when all its conditions do. The rules are tried one after another, each from its own loads on, so that
//! what a rule decides depends on nothing but itself; that is what libseccomp's one tree for all of them gets wrong.

use libc::{BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JSET, sock_filter};

use super::bpf;

/// Offset of the arguments in `struct seccomp_data`, and where the halves of one are.
const ARGUMENTS: u32 = 16;
const LOW: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };
const HIGH: u32 = 4 - LOW;

/// An action, and when.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rule {
    /// The filter's result.
    pub(super) action: u32,
    /// At most one for each argument.
    pub(super) conditions: Vec<Condition>,
}

/// One argument compared with a value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Condition {
    /// Which argument, from 0 to 5.
    pub(super) index: u32,
    pub(super) test: Test,
    pub(super) value: u64,
    pub(super) width: Width,
}

/// How.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// These bits of both are the same.
    Masked(u64),
}

/// How much of an argument and a value there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Width {
    /// An architecture of 32 bits: the low halves, so that -1 is -1 there too.
    Low,
    Whole,
}

/// An instruction whose targets are not numbers yet.
struct Step {
    code: sock_filter,
    holds: To,
    fails: To,
}

#[derive(Clone, Copy)]
enum To {
    Next,
    /// The condition holds.
    Pass,
    /// It does not.
    Fail,
}

/// The result of the first rule that holds, and `otherwise` when none does.
pub(super) fn code(rules: &[Rule], otherwise: u32) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for together in rules.chunk_by(|one, other| one.action == other.action && shares_its_load(one, other)) {
        match together {
            [rule] => code.extend(of_rule(rule)),
            // A conditional jump reaches 255 instructions, and each of these has three at most.
            many => many.chunks(80).for_each(|some| code.extend(of_list(some))),
        }
    }
    code.push(bpf::ret(otherwise));
    code
}

fn of_rule(rule: &Rule) -> Vec<sock_filter> {
    let conditions: Vec<_> = rule.conditions.iter().map(steps).collect();
    // Six conditions of six instructions are the longest rule.
    let length: usize = conditions.iter().map(Vec::len).sum();
    let mut code = Vec::with_capacity(length + 1);
    for steps in conditions {
        let end = code.len() + steps.len();
        place(steps, end, length + 1, &mut code);
    }
    code.push(bpf::ret(rule.action));
    code
}

/// Gives steps their targets, which are places in the code of the rule.
fn place(steps: Vec<Step>, pass: usize, fail: usize, code: &mut Vec<sock_filter>) {
    for Step { code: mut one, holds, fails } in steps {
        let behind = code.len() + 1;
        let distance = |to| match to {
            To::Next => 0,
            To::Pass => (pass - behind) as u8,
            To::Fail => (fail - behind) as u8,
        };
        (one.jt, one.jf) = (distance(holds), distance(fails));
        code.push(one);
    }
}

fn steps(condition: &Condition) -> Vec<Step> {
    let (high, low) = halves(condition.value);
    let load_high = load(condition, HIGH);
    let mut steps = match (condition.width, condition.test) {
        (Width::Low, _) => Vec::new(),
        (Width::Whole, Test::Masked(mask)) if halves(mask).0 == 0 => Vec::new(),
        (Width::Whole, Test::Masked(mask)) => {
            [vec![load_high], masked(halves(mask).0, high, To::Next, To::Fail)]
                .into_iter()
                .flatten()
                .collect()
        }
        (Width::Whole, Test::Equal) => vec![load_high, jump(BPF_JEQ, high, To::Next, To::Fail)],
        (Width::Whole, Test::NotEqual) => vec![load_high, jump(BPF_JEQ, high, To::Next, To::Pass)],
        (Width::Whole, Test::Greater | Test::GreaterOrEqual) => {
            vec![load_high, jump(BPF_JGT, high, To::Pass, To::Next), jump(BPF_JEQ, high, To::Next, To::Fail)]
        }
        (Width::Whole, Test::Less | Test::LessOrEqual) => {
            vec![load_high, jump(BPF_JGT, high, To::Fail, To::Next), jump(BPF_JEQ, high, To::Next, To::Pass)]
        }
    };
    steps.push(load(condition, LOW));
    steps.extend(match condition.test {
        Test::Equal => vec![jump(BPF_JEQ, low, To::Pass, To::Fail)],
        Test::NotEqual => vec![jump(BPF_JEQ, low, To::Fail, To::Pass)],
        Test::Greater => vec![jump(BPF_JGT, low, To::Pass, To::Fail)],
        Test::GreaterOrEqual => vec![jump(BPF_JGE, low, To::Pass, To::Fail)],
        Test::Less => vec![jump(BPF_JGE, low, To::Fail, To::Pass)],
        Test::LessOrEqual => vec![jump(BPF_JGT, low, To::Fail, To::Pass)],
        Test::Masked(mask) => masked(halves(mask).1, low, To::Pass, To::Fail),
    });
    steps
}

/// Compares some bits of what is loaded: in one instruction where it is to have none of them, all, or the only one.
fn masked(mask: u32, value: u32, holds: To, fails: To) -> Vec<Step> {
    match value & mask {
        0 => vec![jump(BPF_JSET, mask, fails, holds)],
        value if mask == u32::MAX => vec![jump(BPF_JEQ, value, holds, fails)],
        _ if mask.is_power_of_two() => vec![jump(BPF_JSET, mask, holds, fails)],
        value => {
            let and = Step { code: bpf::and(mask), holds: To::Next, fails: To::Next };
            vec![and, jump(BPF_JEQ, value, holds, fails)]
        }
    }
}

/// Lists of values of one argument are what profiles have most of.
fn shares_its_load(one: &Rule, other: &Rule) -> bool {
    low_half(one).is_some() && low_half(one) == low_half(other)
}

/// Where a rule asks for the low half of one argument alone: its index, and what the high half has to be.
fn low_half(rule: &Rule) -> Option<(u32, Option<u32>)> {
    let [Condition { index, test, value, width }] = &rule.conditions[..] else { return None };
    match (test, width) {
        (Test::Equal, Width::Whole) => Some((*index, Some(halves(*value).0))),
        (Test::Equal, Width::Low) => Some((*index, None)),
        (Test::Masked(mask), _) if *width == Width::Low || halves(*mask).0 == 0 => Some((*index, None)),
        _ => None,
    }
}

/// Rules of one action, any of which may hold, and of which [`low_half`] says the same.
fn of_list(rules: &[Rule]) -> Vec<sock_filter> {
    let first = &rules[0].conditions[0];
    let mut steps = Vec::new();
    if let Some((_, Some(high))) = low_half(&rules[0]) {
        steps.extend([load(first, HIGH), jump(BPF_JEQ, high, To::Next, To::Fail)]);
    }
    let mut is_loaded = false;
    for (left, rule) in (0..rules.len()).rev().zip(rules) {
        if !is_loaded {
            steps.push(load(first, LOW));
        }
        let fails = if left == 0 { To::Fail } else { To::Next };
        let condition = &rule.conditions[0];
        let low = halves(condition.value).1;
        let test = match condition.test {
            Test::Masked(mask) => masked(halves(mask).1, low, To::Pass, fails),
            _ => vec![jump(BPF_JEQ, low, To::Pass, fails)],
        };
        // The mask is put onto what was loaded.
        is_loaded = test.len() == 1;
        steps.extend(test);
    }
    let end = steps.len();
    let mut code = Vec::with_capacity(end + 1);
    place(steps, end, end + 1, &mut code);
    code.push(bpf::ret(rules[0].action));
    code
}

fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

fn load(condition: &Condition, half: u32) -> Step {
    let code = bpf::load(ARGUMENTS + 8 * condition.index + half);
    Step { code, holds: To::Next, fails: To::Next }
}

fn jump(condition: u32, k: u32, holds: To, fails: To) -> Step {
    Step { code: bpf::jump(condition, k, 0, 0), holds, fails }
}
