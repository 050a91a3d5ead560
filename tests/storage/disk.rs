//! File systems made for a test: a file, a loop device, and a mount below the test's own folder.

use crate::harness::{command, leaks};
use std::path::{Path, PathBuf};
use std::process::Command;

/// There when xfs is loaded and was built with quotas.
pub const QUOTAS: &str = "/proc/fs/xfs/xqmstat";

/// A file system of its own, mounted until this is dropped.
pub struct Disk {
    pub path: PathBuf,
}

impl Disk {
    /// `kind` as mkfs.KIND makes it, of so many MiB.
    pub fn new(folder: &Path, kind: &str, options: &[&str], size: u64, mount: &str) -> Disk {
        let image = folder.join(format!("{kind}.img"));
        std::fs::File::create(&image).unwrap().set_len(size << 20).unwrap();
        let program = crate::harness::which(&format!("mkfs.{kind}")).unwrap();
        command::run(Command::new(program).args(options).arg(&image)).ok();
        let path = folder.join(format!("{kind}-disk"));
        std::fs::create_dir(&path).unwrap();
        let options = if mount.is_empty() { "loop".to_owned() } else { format!("loop,{mount}") };
        command::run(Command::new("mount").args(["-o", &options]).arg(&image).arg(&path)).ok();
        Disk { path }
    }

    /// ext4 that holds projects to their limits.
    pub fn ext4(folder: &Path, size: u64) -> Disk {
        let options = ["-q", "-O", "quota,project", "-E", "quotatype=prjquota"];
        Disk::new(folder, "ext4", &options, size, "prjquota")
    }

    /// xfs that does, and lets files share extents.
    pub fn xfs(folder: &Path, size: u64) -> Disk {
        let quota = if Path::new(QUOTAS).exists() { "prjquota" } else { "" };
        Disk::new(folder, "xfs", &["-q", "-m", "reflink=1"], size, quota)
    }

    /// btrfs, whose files share extents.
    pub fn btrfs(folder: &Path, size: u64) -> Disk {
        Disk::new(folder, "btrfs", &["-q"], size, "")
    }

    /// How many groups of subvolumes btrfs counts, and that its counts are good.
    #[track_caller]
    pub fn groups(&self) -> usize {
        let shown = command::run(Command::new("btrfs").args(["qgroup", "show"]).arg(&self.path));
        assert!(!shown.stderr.contains("inconsistent"), "{}", shown.stderr);
        shown.stdout.lines().filter(|line| line.starts_with("1/")).count()
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        command::run(Command::new("sync").arg("-f").arg(&self.path)).ok();
        let about = nix::sys::statvfs::statvfs(&self.path).unwrap();
        (about.blocks() - about.blocks_free()) * about.fragment_size()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        leaks::unmount_below(&self.path);
    }
}
