//! Makes `vctx_start` of the crate `vctx-context` (`exe/entry.rs`) the first instruction of the command.

fn main() {
    println!("cargo::rerun-if-changed=cli/build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|machine| machine == "x86_64") {
        println!("cargo::rustc-link-arg-bin=vctx=-Wl,--entry=vctx_start");
    }
}
