//! The first instructions of the program: what [`super::protect`] would do in the common case, before libc is set up.
//!
//! A process that starts again through a read-only mount sets libc up twice, which costs 0.3 ms of a start (on a virtual
//! machine mostly for cpuid, each of which leaves it). Here the first time is left out. Whatever is unusual is left to
//! `protect`, which asks again. The linker makes `vctx_start` the entry of the command (`cli/build.rs`) where it is linked at
//! a fixed address; other programs, and other machines than x86-64, begin as usual.
//!
//! Nothing is relocated yet, and nothing of libc may be called: no memcpy, whose place is not resolved, and no
//! thread-local. Hence the single bytes, and arguments that are no array.

use core::arch::{asm, global_asm};

use libc::{
    AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, SYS_close, SYS_execveat, SYS_faccessat2, SYS_mount_setattr,
    SYS_open_tree, W_OK,
};

const EXE: &[u8] = b"/proc/self/exe\0";
const OPEN_TREE_CLONE: usize = 1;
const MOUNT_ATTR_RDONLY: u64 = 1;

// The kernel enters with the argument count at the top of the stack, and rdx set for libc (System V ABI, "Process
// Initialization"). Two words keep the stack aligned.
global_asm!(
    ".pushsection .text.vctx_start, \"ax\", @progbits",
    ".globl vctx_start",
    "vctx_start:",
    "mov rdi, rsp",
    "push rdx",
    "push rdx",
    "call {enter}",
    "pop rdx",
    "pop rdx",
    "jmp _start",
    ".popsection",
    enter = sym enter,
);

/// Starts again through a read-only mount, where a verb that puts a child of ours before a guest may have been called
/// and the file could be written. Returns in any other case.
unsafe extern "C" fn enter(stack: *const usize) {
    // SAFETY: the kernel has put argc there, then that many pointers to strings, a null, the environment and a null.
    unsafe {
        let count = *stack;
        let arguments = stack.add(1);
        if !(1..count).any(|index| concerns(*arguments.add(index) as *const u8)) {
            return;
        }
        let (here, exe, whole) = (AT_FDCWD as usize, EXE.as_ptr() as usize, AT_EMPTY_PATH as usize);
        if call(SYS_faccessat2, here, exe, W_OK as usize, AT_EACCESS as usize, 0) != 0 {
            return;
        }
        let tree = call(SYS_open_tree, here, exe, OPEN_TREE_CLONE | libc::O_CLOEXEC as usize, 0, 0);
        if tree < 0 {
            return;
        }
        let tree = tree as usize;
        let empty = EXE.as_ptr().add(EXE.len() - 1) as usize;
        // struct mount_attr: set, clear, propagation, user namespace.
        let readonly = [MOUNT_ATTR_RDONLY, 0, 0, 0];
        if call(SYS_mount_setattr, tree, empty, whole, readonly.as_ptr() as usize, 32) == 0 {
            let environment = arguments.add(count + 1) as usize;
            call(SYS_execveat, tree, empty, arguments as usize, environment, whole);
        }
        call(SYS_close, tree, 0, 0, 0, 0);
    }
}

/// The word is `run`, `create` or `exec`.
///
/// # Safety
///
/// `word` is a string that ends in a zero.
unsafe fn concerns(word: *const u8) -> bool {
    [&b"run\0"[..], b"create\0", b"exec\0"].iter().any(|verb| {
        // SAFETY: bytes are read up to the first that differs, and so not past the zero.
        (0..verb.len()).all(|index| unsafe { word.add(index).read_volatile() } == verb[index])
    })
}

/// A system call.
///
/// # Safety
///
/// As the call.
unsafe fn call(number: libc::c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let result;
    // SAFETY: the kernel keeps all registers but these; what the call does is the caller's to answer for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
