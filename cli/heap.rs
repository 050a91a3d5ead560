//! Memory for a command that lives for milliseconds: taken from one piece, and hardly ever given back.
//!
//! Parsing options and a configuration takes some thousand small allocations, and malloc(3) was a third of the instructions
//! of a start. What does not fit is the system allocator's, so that a long command has its memory back.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes; a `run` takes a third of it. Pages that are never touched cost nothing.
const SIZE: usize = 1 << 20;

/// One piece of memory, of which the first `used` bytes are given out.
pub(crate) struct Heap {
    piece: UnsafeCell<Piece>,
    used: AtomicUsize,
}

#[repr(align(4096))]
struct Piece(#[allow(dead_code, reason = "it is used by its address")] [u8; SIZE]);

// SAFETY: the piece is only handed out, in parts that do not overlap, because `used` moves in single atomic steps.
unsafe impl Sync for Heap {}

impl Heap {
    pub(crate) const fn new() -> Heap {
        Heap { piece: UnsafeCell::new(Piece([0; SIZE])), used: AtomicUsize::new(0) }
    }

    /// Has the kernel lay down the first pages at once, which else are a fault each. Before Linux 5.14 they stay that.
    #[cfg_attr(test, allow(dead_code, reason = "the tests have a main of their own"))]
    pub(crate) fn prepare(&self, bytes: usize) {
        // SAFETY: the pages are the piece's own, and are only made present (madvise(2), MADV_POPULATE_WRITE).
        unsafe { libc::madvise(self.start().cast(), bytes.min(SIZE), libc::MADV_POPULATE_WRITE) };
    }

    fn start(&self) -> *mut u8 {
        self.piece.get().cast()
    }

    /// Where a pointer lies in the piece, if it does.
    fn offset(&self, pointer: *mut u8) -> Option<usize> {
        pointer.addr().checked_sub(self.start().addr()).filter(|offset| *offset < SIZE)
    }

    /// Moves the end of what is given out, when it still is `from`.
    fn shift(&self, from: usize, to: usize) -> bool {
        to <= SIZE && self.used.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

// SAFETY: what is handed out is aligned, as long as asked for, and overlaps nothing that lives: a part is taken by moving
// `used` over it, and counts as free only when `used` moves back to its beginning. The rest is the system's.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= align_of::<Piece>() {
            loop {
                let used = self.used.load(Ordering::Relaxed);
                let begin = used.next_multiple_of(layout.align());
                let Some(end) = begin.checked_add(layout.size()).filter(|end| *end <= SIZE) else { break };
                if self.shift(used, end) {
                    return self.start().wrapping_add(begin);
                }
            }
        }
        // SAFETY: the layout is the one that our own caller vouches for, and the system gets it back with what it gives here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match self.offset(pointer) {
            // Only the last part can be given back.
            Some(begin) => drop(self.shift(begin + layout.size(), begin)),
            // SAFETY: it is not ours, so it is the system's.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(begin) = self.offset(pointer) else {
            // SAFETY: it is not ours, so it is the system's, with the layout that it was made with.
            return unsafe { System.realloc(pointer, layout, size) };
        };
        if begin.checked_add(size).is_some_and(|end| self.shift(begin + layout.size(), end)) {
            return pointer;
        }
        if size <= layout.size() {
            return pointer;
        }
        // SAFETY: the caller vouches for the size with this alignment; old and new do not overlap, for the old one lives.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(pointer, layout.size());
                self.dealloc(pointer, layout);
            }
            new
        }
    }
}
