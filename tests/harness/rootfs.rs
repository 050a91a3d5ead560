//! The root filesystem of the test bundles: Debian's static busybox and a few files, made once, hard-linked after.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// The folder of this test process. Everybody may pass through it: contexts with mapped users do.
pub fn workspace() -> &'static Path {
    static WORKSPACE: OnceLock<PathBuf> = OnceLock::new();
    WORKSPACE.get_or_init(|| {
        let folder = TempDir::with_prefix("vctx-tests-").unwrap().keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.clone();
        super::at_end(move || {
            super::leaks::unmount_below(&folder);
            let _ = fs::remove_dir_all(&folder);
        });
        path
    })
}

/// Makes a root filesystem in `target`, which must be on the workspace's file system.
pub fn populate(target: &Path) {
    static BUSYBOX: OnceLock<(PathBuf, Vec<String>)> = OnceLock::new();
    let (busybox, applets) = BUSYBOX.get_or_init(|| {
        let installed = super::which("busybox").expect("the tests need busybox (package busybox-static)");
        let copy = workspace().join("busybox");
        fs::copy(&installed, &copy).unwrap();
        let list = Command::new(&installed).arg("--list").output().unwrap().stdout;
        (copy, String::from_utf8(list).unwrap().lines().map(String::from).collect())
    });
    for folder in ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var"] {
        fs::create_dir_all(target.join(folder)).unwrap();
    }
    fs::set_permissions(target.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::hard_link(busybox, target.join("bin/busybox")).unwrap();
    for applet in applets.iter().filter(|name| *name != "busybox") {
        symlink("busybox", target.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n";
    fs::write(target.join("etc/passwd"), passwd).unwrap();
    fs::write(target.join("etc/group"), "root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n").unwrap();
}

/// A tar archive of the root filesystem, for `import`.
pub fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let root = workspace().join("image");
        populate(&root);
        let file = workspace().join("image.tar");
        super::run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&file).arg(".")).ok();
        file
    })
}
