//! Makes `vctx_start` of the crate `vctx-context` (`exe/entry.rs`) the first instruction of the command. It runs before
//! any relocation, so only in a program that is linked at a fixed address.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=cli/build.rs");
    let fixed = var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("relocation-model=static"));
    if fixed && var("CARGO_CFG_TARGET_ARCH").is_ok_and(|machine| machine == "x86_64") {
        println!("cargo::rustc-link-arg-bin=vctx=-Wl,--entry=vctx_start");
    }
}
