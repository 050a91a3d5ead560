//! Makes a filter small: the same decisions, by ranges of numbers instead of one comparison for each number.
//!
//! The kernel checks, translates and tries out every instruction while the context starts, a quarter of a millisecond for
//! an engine's profile. What a program decides for an architecture and a number, before it reads an argument, is
//! constant between the constants that it compares with; so those decisions are asked from the program itself and
//! written down again as a search tree. Parts that read arguments are copied as they are.

use std::collections::{BTreeMap, BTreeSet};

use libc::{BPF_JA, BPF_JEQ, BPF_JGE, sock_filter};

use super::bpf::{self, ARCH, NUMBER};

/// The instructions that decide about architecture and number.
const LOAD: u16 = 0x20;
const ALWAYS: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// What is known without the arguments.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Outcome {
    /// The result.
    Return(u32),
    /// The place of the first instruction that reads an argument, and the number that leads there.
    Arguments(usize, u32),
}

/// The same filter, smaller; `None` where the program has instructions that are not understood here.
pub(super) fn shrink(program: &[sock_filter], audits: &[u32]) -> Option<Vec<sock_filter>> {
    let trees = audits.iter().map(|&audit| ranges(program, audit)).collect::<Option<Vec<_>>>()?;
    // An architecture that no section is for: any number that is none of them.
    let foreign = (0..).find(|audit| !audits.contains(audit))?;
    let Outcome::Return(foreign) = decide(program, 0, foreign, 0)? else { return None };

    let mut code = vec![bpf::load(ARCH)];
    for (&audit, ranges) in audits.iter().zip(&trees) {
        let mut section = vec![bpf::load(NUMBER)];
        let mut leaves = Vec::new();
        tree(ranges, &mut section, &mut leaves);
        for (leaf, target, number) in leaves {
            section[leaf] = bpf::jump(BPF_JA, (section.len() - leaf - 1) as u32, 0, 0);
            copy_reachable(program, audit, number, target, &mut section)?;
        }
        code.extend([bpf::jump(BPF_JEQ, audit, 1, 0), bpf::jump(BPF_JA, section.len() as u32, 0, 0)]);
        code.extend(section);
    }
    code.push(bpf::ret(foreign));
    Some(code)
}

/// The first number of each range with its outcome.
fn ranges(program: &[sock_filter], audit: u32) -> Option<Vec<(u32, Outcome)>> {
    let compared = program.iter().filter(|one| matches!(one.code, EQUAL | GREATER | GREATER_OR_EQUAL));
    let mut starts: BTreeSet<u32> = compared.flat_map(|one| [one.k, one.k.saturating_add(1)]).collect();
    starts.insert(0);
    let mut ranges: Vec<(u32, Outcome)> = Vec::new();
    for start in starts {
        let outcome = decide(program, 0, audit, start)?;
        if ranges.last().is_none_or(|&(_, last)| last != outcome) {
            ranges.push((start, outcome));
        }
    }
    Some(ranges)
}

/// Follows the program from a place where it loads; every jump goes forward, so it ends.
fn decide(program: &[sock_filter], mut at: usize, audit: u32, number: u32) -> Option<Outcome> {
    let mut value = 0;
    loop {
        let one = program.get(at)?;
        let holds = match one.code {
            LOAD if one.k == ARCH => {
                value = audit;
                at += 1;
                continue;
            }
            LOAD if one.k == NUMBER => {
                value = number;
                at += 1;
                continue;
            }
            LOAD => return Some(Outcome::Arguments(at, number)),
            RETURN => return Some(Outcome::Return(one.k)),
            ALWAYS => {
                at += 1 + one.k as usize;
                continue;
            }
            EQUAL => value == one.k,
            GREATER => value > one.k,
            GREATER_OR_EQUAL => value >= one.k,
            _ => return None,
        };
        at += 1 + usize::from(if holds { one.jt } else { one.jf });
    }
}

/// A search tree over the ranges. A leaf that goes on to arguments is to be filled in; `leaves` has its place here, the
/// place in the old program, and the number.
fn tree(ranges: &[(u32, Outcome)], code: &mut Vec<sock_filter>, leaves: &mut Vec<(usize, usize, u32)>) {
    if let [(_, outcome)] = ranges {
        code.push(match *outcome {
            Outcome::Return(action) => bpf::ret(action),
            Outcome::Arguments(target, number) => {
                leaves.push((code.len(), target, number));
                bpf::ret(0)
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
        leaves[noted..].iter_mut().for_each(|(leaf, ..)| *leaf += 1);
    }
    tree(high, code, leaves);
}

/// Appends what one number can reach from an argument's load on, in the old order, so that jumps only become shorter.
/// Where the old program goes back to the number, for it has other numbers to try, the rest is known and cut short.
fn copy_reachable(
    program: &[sock_filter],
    audit: u32,
    number: u32,
    target: usize,
    code: &mut Vec<sock_filter>,
) -> Option<()> {
    let mut reachable = BTreeMap::new();
    let mut open = vec![target];
    while let Some(at) = open.pop() {
        if reachable.contains_key(&at) {
            continue;
        }
        let mut one = *program.get(at)?;
        if one.code == LOAD && (one.k == ARCH || one.k == NUMBER) {
            one = match decide(program, at, audit, number)? {
                Outcome::Return(action) => bpf::ret(action),
                Outcome::Arguments(next, _) => bpf::jump(BPF_JA, (next - at - 1) as u32, 0, 0),
            };
        }
        open.extend(next(at, one));
        reachable.insert(at, one);
    }
    let places: BTreeMap<usize, usize> = reachable.keys().copied().zip(code.len()..).collect();
    for (&old, &new) in &places {
        let mut one = reachable[&old];
        let distance = |jump: usize| places[&(old + 1 + jump)] - new - 1;
        match one.code & 0x07 {
            0x05 if one.code == ALWAYS => one.k = distance(one.k as usize) as u32,
            0x05 => {
                one.jt = distance(one.jt.into()) as u8;
                one.jf = distance(one.jf.into()) as u8;
            }
            _ => {}
        }
        code.push(one);
    }
    Some(())
}

/// Where an instruction may go on.
fn next(at: usize, one: sock_filter) -> Vec<usize> {
    match one.code & 0x07 {
        0x05 if one.code == ALWAYS => vec![at + 1 + one.k as usize],
        0x05 => vec![at + 1 + usize::from(one.jt), at + 1 + usize::from(one.jf)],
        0x06 => vec![],
        _ => vec![at + 1],
    }
}
