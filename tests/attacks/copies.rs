//! A guest lies in wait for `vctx cp`: its links, its pipes and devices, folders that it exchanges meanwhile
//! (CVE-2019-14271, 2026-41567).

use super::paths::{Canary, Swapper};
use crate::harness::{Case, Context, case, command, rounds};
use crate::images::made::Layer;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_copy_out_follows_no_link_out_of_the_root).needs(crate::harness::Need::Vctx),
        case!(a_copy_in_follows_no_link_out_of_the_root).needs(crate::harness::Need::Vctx),
        case!(a_copy_into_a_folder_that_is_swapped_stays_in_the_root).needs(crate::harness::Need::Vctx),
        case!(a_pipe_that_takes_the_place_of_a_file_holds_no_copy_up).needs(crate::harness::Need::Vctx),
        case!(a_copy_runs_nothing_of_the_guests).needs(crate::harness::Need::Vctx),
        case!(an_archive_that_climbs_is_refused).needs(crate::harness::Need::Vctx),
    ]
}

/// A path in the context, as an end of a copy.
fn at(context: &Context, path: &str) -> String {
    format!("{}:{path}", context.id)
}

fn cp(context: &Context, args: &[&str]) -> command::Output {
    context.call(&[&["cp", "-L"], args].concat())
}

fn a_copy_out_follows_no_link_out_of_the_root() {
    let context = Context::idle();
    let canary = Canary::new(&context);
    let out = context.dir.join("out");
    fs::create_dir(&out).unwrap();
    let out = out.to_str().unwrap();
    let climbing = format!("../../../../../../../../..{}", canary.path.display());
    symlink(&canary.path, context.root("absolute")).unwrap();
    symlink(climbing, context.root("relative")).unwrap();
    for path in ["/absolute/file", "/relative/file", "/absolute", "/proc/1/root/../..", "/proc/self/root"] {
        cp(&context, &[&at(&context, path), out]);
    }
    let taken = command::run(std::process::Command::new("grep").args(["-rl", "untouched", out]));
    assert_eq!(taken.stdout, "", "the canary was read");
    context.call(&["kill", &context.id, "KILL"]).ok();
    context.wait_stopped();
    for path in ["/absolute/file", "/relative/file", "/absolute"] {
        cp(&context, &[&at(&context, path), out]);
    }
    let taken = command::run(std::process::Command::new("grep").args(["-rl", "untouched", out]));
    assert_eq!(taken.stdout, "", "the canary was read");
}

fn a_copy_in_follows_no_link_out_of_the_root() {
    let context = Context::idle();
    let canary = Canary::new(&context);
    symlink(&canary.path, context.root("absolute")).unwrap();
    symlink(canary.path.join("file"), context.root("to-file")).unwrap();
    symlink(canary.path.join("new"), context.root("to-new")).unwrap();
    let data = context.file("data", "attack");
    let data = data.to_str().unwrap();
    for path in ["/absolute", "/absolute/file", "/absolute/made", "/to-file", "/to-new", "/absolute/folder/"]
    {
        cp(&context, &[data, &at(&context, path)]);
        canary.check();
    }
    // The tree that comes in has a folder where the guest has a link.
    fs::create_dir_all(context.dir.join("tree/absolute/folder")).unwrap();
    fs::write(context.dir.join("tree/absolute/file"), "attack").unwrap();
    let tree = context.dir.join("tree/.");
    cp(&context, &[tree.to_str().unwrap(), &at(&context, "/")]);
    canary.check();
}

fn a_copy_into_a_folder_that_is_swapped_stays_in_the_root() {
    let context = Context::idle();
    let canary = Canary::new(&context);
    fs::create_dir(context.root("swap")).unwrap();
    symlink(&canary.path, context.root("link")).unwrap();
    let data = context.file("data", "attack");
    fs::create_dir(context.dir.join("tree")).unwrap();
    fs::write(context.dir.join("tree/file"), "attack").unwrap();
    let tree = context.dir.join("tree/.");
    let out = context.dir.join("out");
    Swapper::swap(&context.root("swap"), &context.root("link"), || {
        for _ in 0..rounds(100) {
            cp(&context, &[data.to_str().unwrap(), &at(&context, "/swap/file")]);
            cp(&context, &[tree.to_str().unwrap(), &at(&context, "/swap")]);
            cp(&context, &[&at(&context, "/swap/file"), out.to_str().unwrap()]);
            assert_ne!(fs::read_to_string(&out).ok().as_deref(), Some("untouched"), "the canary was read");
            canary.check();
        }
    });
    canary.check();
}

/// A reader of a pipe would wait for ever.
fn a_pipe_that_takes_the_place_of_a_file_holds_no_copy_up() {
    let context = Context::idle();
    fs::write(context.root("file"), "content").unwrap();
    let pipe = context.root("pipe");
    command::run(std::process::Command::new("mkfifo").arg(&pipe)).ok();
    let out = context.dir.join("out");
    Swapper::swap(&context.root("file"), &pipe, || {
        for _ in 0..rounds(200) {
            let mut call = context.command();
            call.args(["cp", &at(&context, "/file"), out.to_str().unwrap()]);
            let (output, ended) = command::attempt(&mut call, b"", Duration::from_secs(20));
            assert!(ended, "the copy waits: {}", output.stderr);
        }
    });
}

/// The programs and libraries of the image are the guest's.
fn a_copy_runs_nothing_of_the_guests() {
    let context = Context::idle();
    for name in ["tar", "cp", "cat"] {
        let path = context.root(&format!("bin/{name}"));
        let _ = fs::remove_file(&path);
        fs::write(&path, "#!/bin/sh\ntouch /executed\n").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    for library in ["libnss_files.so.2", "libc.so.6", "libnss_compat.so.2"] {
        fs::create_dir_all(context.root("lib/x86_64-linux-gnu")).unwrap();
        symlink("/bin/tar", context.root(&format!("lib/x86_64-linux-gnu/{library}"))).unwrap();
    }
    let out = context.dir.join("out");
    cp(&context, &[&at(&context, "/etc"), out.to_str().unwrap()]).ok();
    cp(&context, &[out.to_str().unwrap(), &at(&context, "/back")]).ok();
    assert!(!context.root("executed").exists());
    assert!(context.root("back/passwd").exists());
}

fn an_archive_that_climbs_is_refused() {
    let context = Context::idle();
    let canary = Canary::new(&context);
    symlink(&canary.path, context.root("outside")).unwrap();
    let climbing = format!("../../../../../../../../..{}", canary.path.display());
    let layer = Layer::new;
    let archives = [
        layer().file(&format!("{climbing}/made"), "attack"),
        layer().symlink("link", canary.path.to_str().unwrap()).file("link/made", "attack"),
        layer().symlink("link", &climbing).file("link/made", "attack"),
        layer().file("outside/made", "attack"),
        layer().hard_link("hard", canary.path.join("file").to_str().unwrap()),
        layer().symlink("link", canary.path.to_str().unwrap()).hard_link("hard", "link/file"),
    ];
    for (number, archive) in archives.into_iter().enumerate() {
        let mut call = context.command();
        call.args(["cp", "-", &at(&context, "/")]);
        let bytes = archive.bytes();
        let output = command::run_with(&mut call, &bytes, Duration::from_secs(20));
        output.refused();
        canary.check();
        assert!(!context.root("hard").exists(), "archive {number}");
        assert!(!context.root("link").exists(), "archive {number} was kept in part");
    }
}
