//! What the fuzzers share: a reader of choices, and two small machines for what is compiled.

pub mod machine;

use libfuzzer_sys::arbitrary::Unstructured;

/// Turns the fuzzer's bytes into choices. With nothing left every choice is the first.
pub struct Choices<'a>(pub Unstructured<'a>);

impl<'a> Choices<'a> {
    pub fn new(data: &'a [u8]) -> Choices<'a> {
        Choices(Unstructured::new(data))
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0.choose_index(end).unwrap_or(0)
    }

    pub fn one<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    pub fn yes(&mut self) -> bool {
        self.below(2) == 1
    }

    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// Any number, more often one at an edge.
    pub fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::from(self.byte()),
            1 => 1 << (self.byte() % 64),
            2 => (1_u64 << (self.byte() % 64)).wrapping_sub(1),
            _ => self.0.arbitrary().unwrap_or(0),
        }
    }
}

/// The parts of an input, which zero bytes separate.
pub fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut rest = data.splitn(N, |&byte| byte == 0);
    std::array::from_fn(|_| rest.next().unwrap_or_default())
}
