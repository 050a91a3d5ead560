//! How the command is linked. `vctx_start` of the crate `vctx-context` (`exe/entry.rs`) is its first instruction: it runs
//! before any relocation, so only in a program that is linked at a fixed address. What a start executes lies side by side
//! (`order.ld`); in a program that is not optimised it would change nothing that counts.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=cli/build.rs");
    println!("cargo::rerun-if-changed=cli/order.ld");
    let fixed = var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("relocation-model=static"));
    if fixed && var("CARGO_CFG_TARGET_ARCH").is_ok_and(|machine| machine == "x86_64") {
        println!("cargo::rustc-link-arg-bin=vctx=-Wl,--entry=vctx_start");
    }
    if let (true, Ok(folder)) = (var("OPT_LEVEL").is_ok_and(|level| level != "0"), var("CARGO_MANIFEST_DIR"))
    {
        println!("cargo::rustc-link-arg-bin=vctx=-Wl,--script={folder}/cli/order.ld");
    }
}
