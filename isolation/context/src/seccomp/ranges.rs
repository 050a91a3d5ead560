//! The program as a search tree: the decisions by ranges of numbers instead of one comparison for each number.
//!
//! The kernel checks, translates and tries out every instruction while the context starts, a quarter of a millisecond for
//! an engine's profile with a comparison for each call.

use libc::{BPF_JA, BPF_JEQ, BPF_JGE, sock_filter};

use super::bpf::{self, ARCH, NUMBER};
use super::rules::{self, Rule};

/// What the architecture and the number decide.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// The result.
    Return(u32),
    /// The result of the first of these that holds, and the default action when none does.
    Rules(Vec<Rule>),
}

/// What is decided for the numbers of one audit architecture.
#[derive(Debug)]
pub(super) struct Section {
    /// The number in `seccomp_data.arch`.
    pub(super) audit: u32,
    /// The first number of each range with what is decided there. The first range begins at 0.
    ranges: Vec<(u32, Outcome)>,
}

impl Section {
    /// Decides nothing yet.
    pub(super) fn new(audit: u32) -> Self {
        Self { audit, ranges: Vec::new() }
    }

    /// From this number on, which is not below any other that was given. What was said of it before is forgotten.
    pub(super) fn from(&mut self, number: u32, outcome: Outcome) {
        while self.ranges.last().is_some_and(|&(start, _)| start == number) {
            self.ranges.pop();
        }
        if self.ranges.last().is_none_or(|(_, last)| *last != outcome) {
            self.ranges.push((number, outcome));
        }
    }
}

/// The whole program. Another architecture than those of the sections is killed, as libseccomp does.
pub(super) fn program(sections: &[Section], default: u32) -> Vec<sock_filter> {
    let mut code = vec![bpf::load(ARCH)];
    for section in sections {
        let body = body(section, default);
        code.extend([bpf::jump(BPF_JEQ, section.audit, 1, 0), bpf::jump(BPF_JA, body.len() as u32, 0, 0)]);
        code.extend(body);
    }
    code.push(bpf::ret(libc::SECCOMP_RET_KILL_THREAD));
    code
}

/// The tree, and behind it the rules on arguments, once each.
fn body(section: &Section, default: u32) -> Vec<sock_filter> {
    let mut code = vec![bpf::load(NUMBER)];
    let mut leaves = Vec::new();
    tree(&section.ranges, &mut code, &mut leaves);
    let mut written: Vec<(&[Rule], usize)> = Vec::new();
    for (leaf, rules) in leaves {
        let known = written.iter().find(|(others, _)| *others == rules).map(|&(_, place)| place);
        let place = known.unwrap_or(code.len());
        code[leaf] = bpf::jump(BPF_JA, (place - leaf - 1) as u32, 0, 0);
        if known.is_none() {
            written.push((rules, place));
            code.extend(rules::code(rules, default));
        }
    }
    code
}

/// A search tree over the ranges. A leaf that goes on to rules is to be filled in; `leaves` has its place.
fn tree<'a>(
    ranges: &'a [(u32, Outcome)],
    code: &mut Vec<sock_filter>,
    leaves: &mut Vec<(usize, &'a [Rule])>,
) {
    if let [(_, outcome)] = ranges {
        code.push(match outcome {
            Outcome::Return(action) => bpf::ret(*action),
            Outcome::Rules(rules) => {
                leaves.push((code.len(), rules));
                bpf::ret(libc::SECCOMP_RET_KILL_PROCESS)
            }
        });
        return;
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let branch = code.len();
    code.push(bpf::jump(BPF_JGE, high[0].0, 0, 0));
    let noted = leaves.len();
    tree(low, code, leaves);
    let far = code.len() - branch - 1;
    if let Ok(far) = u8::try_from(far) {
        code[branch].jt = far;
    } else {
        // Farther than a conditional jump reaches: over an unconditional one, which moves the low side by one.
        code[branch].jf = 1;
        code.insert(branch + 1, bpf::jump(BPF_JA, far as u32, 0, 0));
        leaves[noted..].iter_mut().for_each(|(leaf, _)| *leaf += 1);
    }
    tree(high, code, leaves);
}
