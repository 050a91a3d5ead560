//! The root filesystem of the test bundles: Debian's static busybox and a few files, made once, hard-linked after.

use serde_json::json;
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
        // A file of its own: while other tests link theirs to it, tar finds the common one changed.
        let (own, linked) = (root.join("own"), root.join("bin/busybox"));
        fs::copy(&linked, &own).unwrap();
        fs::rename(&own, &linked).unwrap();
        let file = workspace().join("image.tar");
        super::run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&file).arg(".")).ok();
        file
    })
}

/// The same files as an OCI archive with the reference `name`, which `ctr image import` reads.
pub fn oci_archive(name: &str) -> PathBuf {
    let folder = workspace().join("oci");
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |kind: &str, bytes: &[u8]| {
        let staged = folder.join("staged");
        fs::write(&staged, bytes).unwrap();
        let digest = super::run(Command::new("sha256sum").arg(&staged)).ok().stdout[..64].to_string();
        fs::rename(&staged, blobs.join(&digest)).unwrap();
        let media = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    };
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let layer = add("layer.v1.tar", &fs::read(archive()).unwrap());
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": { "Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = add("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let mut manifest = add("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({ "io.containerd.image.name": name });
    manifest["platform"] = json!({ "architecture": architecture, "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    fs::write(folder.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string()).unwrap();
    let file = workspace().join("oci.tar");
    super::run(Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&file).arg(".")).ok();
    file
}
