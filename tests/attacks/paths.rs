//! The image, or a guest that shares a volume, leads the runtime's mounts and files out of the root (CVE-2021-30465,
//! CVE-2015-1335, CVE-2024-45310, CVE-2025-24965).

use crate::harness::{Case, Context, case, json};
use rustix::fs::{CWD, RenameFlags};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_mount_target_that_is_swapped_never_leaves_the_root),
        case!(every_path_that_is_made_in_the_root_stays_there),
        case!(a_device_through_a_linked_dev_stays_in_the_root)
            .differs("runc", "1.1 makes the device outside (2026-41579)"),
        case!(a_working_folder_through_a_link_stays_in_the_root),
        case!(a_masked_path_through_a_link_stays_in_the_root),
    ]
}

/// A tree on the host that nothing may touch, and how it looked before.
pub struct Canary {
    pub path: PathBuf,
    before: BTreeSet<String>,
}

impl Canary {
    pub fn new(context: &Context) -> Canary {
        let path = context.dir.join("canary");
        fs::create_dir_all(path.join("folder")).unwrap();
        fs::write(path.join("file"), "untouched").unwrap();
        let before = look(&path);
        Canary { path, before }
    }

    #[track_caller]
    pub fn check(&self) {
        assert_eq!(look(&self.path), self.before, "the canary was touched");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.path.to_str().unwrap()), "a mount has reached the canary");
    }
}

fn look(path: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(path).unwrap().flatten() {
        // Of the link itself: what an attack has made may lead anywhere, to a pipe for one.
        let data = entry.metadata().unwrap();
        let content = data.is_file().then(|| fs::read(entry.path()).ok());
        found.insert(format!("{:?} {:?} {content:?}", entry.path(), data.permissions()));
        if data.is_dir() {
            found.extend(look(&entry.path()));
        }
    }
    found
}

/// Exchanges two names as fast as it can, for as long as it is wanted and at least 10,000 times.
#[derive(Default)]
pub struct Swapper {
    over: AtomicBool,
}

impl Swapper {
    /// Calls `meanwhile`.
    pub fn swap<T>(one: &Path, other: &Path, meanwhile: impl FnOnce() -> T) -> T {
        let swapper = Swapper::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0u64.. {
                    if swapper.over.load(Ordering::Relaxed) && round >= 10_000 {
                        break;
                    }
                    exchange(one, other);
                }
            });
            // A case that fails ends it too.
            let _stop = Stop(&swapper);
            meanwhile()
        })
    }
}

struct Stop<'a>(&'a Swapper);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn exchange(one: &Path, other: &Path) {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

/// The volume belongs to another guest, which swaps a folder for a link to the host's root as fast as it can.
fn a_mount_target_that_is_swapped_never_leaves_the_root() {
    let probe = Context::new();
    let canary = Canary::new(&probe);
    let volume = probe.dir.join("volume");
    fs::create_dir_all(volume.join("swap")).unwrap();
    // As deep as the root is: from a guest's root, the way out and down to the canary.
    symlink(&canary.path, volume.join("link")).unwrap();
    Swapper::swap(&volume.join("swap"), &volume.join("link"), || {
        for _ in 0..crate::harness::rounds(60) {
            let mut context = Context::new();
            context.args(&["true"]);
            context.bind("/volume", &volume, &["rbind"]);
            context.mount("/volume/swap/folder", "tmpfs", "tmpfs", &["mode=700"]);
            context.mount("/volume/swap/made", "tmpfs", "tmpfs", &["mode=700"]);
            context.run();
            canary.check();
        }
    });
    canary.check();
}

fn every_path_that_is_made_in_the_root_stays_there() {
    for link in ["folder", "folder/deeper", "file", "new", "new/deeper/still"] {
        let mut context = Context::new();
        let canary = Canary::new(&context);
        context.args(&["true"]);
        let target = canary.path.join(link);
        symlink(&target, context.root("absolute")).unwrap();
        let relative = format!("../../../../../../../../..{}", target.display());
        symlink(relative, context.root("relative")).unwrap();
        let data = context.file("data", "data");
        for start in ["/absolute", "/relative"] {
            context.bind(&format!("{start}/a"), &data, &["bind"]);
            context.mount(&format!("{start}/b"), "tmpfs", "tmpfs", &[]);
        }
        context.run();
        canary.check();
    }
}

fn a_device_through_a_linked_dev_stays_in_the_root() {
    let mut context = Context::new();
    let canary = Canary::new(&context);
    context.args(&["true"]);
    let mounts = context.spec.pointer_mut("/mounts").unwrap().as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    let dev = context.root("dev");
    let _ = fs::remove_dir_all(&dev);
    symlink(canary.path.join("folder"), dev).unwrap();
    let device = json!({ "path": "/dev/attack", "type": "c", "major": 1, "minor": 3, "fileMode": 438 });
    context.push("/linux/devices", device);
    context.run();
    canary.check();
}

fn a_working_folder_through_a_link_stays_in_the_root() {
    for there in ["made", "folder"] {
        let mut context = Context::new();
        let canary = Canary::new(&context);
        context.args(&["true"]);
        symlink(canary.path.join(there), context.root("link")).unwrap();
        context.set("/process/cwd", json!("/link/deeper"));
        context.run();
        canary.check();
    }
}

/// The links lead to the canary as the host names it, and in the root there are files of the same names: a runtime that
/// followed them on the host would hide the host's files, and leave those of the root to be seen.
fn a_masked_path_through_a_link_stays_in_the_root() {
    let mut context = Context::sh("cat /host-file /host-folder/x");
    let canary = Canary::new(&context);
    let double = context.root(canary.path.to_str().unwrap());
    fs::create_dir_all(double.join("folder")).unwrap();
    fs::write(double.join("file"), "exposed").unwrap();
    fs::write(double.join("folder/x"), "exposed").unwrap();
    symlink(canary.path.join("file"), context.root("host-file")).unwrap();
    symlink(canary.path.join("folder"), context.root("host-folder")).unwrap();
    context.set("/linux/maskedPaths", json!(["/host-file", "/host-folder"]));
    context.set("/linux/readonlyPaths", json!(["/host-file", "/host-folder"]));
    let output = context.run();
    assert!(!output.stdout.contains("exposed"), "{}", output.stdout);
    canary.check();
}
