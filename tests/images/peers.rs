//! Images that other tools make, and ours read by them.

use super::made::{Layer, Layout};
use crate::harness::{Case, Need, case, command, json, which};
use crate::host_run::User;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        case!(the_tree_is_the_one_that_umoci_unpacks).needs(Need::Root).needs(Need::Program("umoci")),
        case!(every_form_is_read_back),
        case!(skopeo_reads_and_writes_what_we_do).needs(Need::Program("skopeo")),
    ]
}

fn layers() -> Vec<Layer> {
    let low = Layer::new()
        .pax(&[("mtime", "1000000000.123456789")])
        .folder(".")
        .busybox(&["sh", "cat"])
        .folder("etc")
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
        .file("etc/gone", "x")
        .pax(&[("uid", "1234"), ("gid", "4321"), ("mtime", "-5.5")])
        .file("etc/owned", "x")
        .hard_link("etc/linked", "etc/owned")
        .symlink("etc/absolute", "/etc/passwd")
        .symlink("etc/dangling", "../../absent")
        .add(tar::EntryType::Fifo, "etc/fifo", "", 0o620, b"")
        .device("etc/device", (1, 7))
        .add(tar::EntryType::Regular, "etc/setuid", "", 0o6755, b"x")
        .pax(&[("SCHILY.xattr.user.note", "a=b\nc"), ("SCHILY.xattr.security.capability", CAPABILITY)])
        .file("etc/capable", "x")
        .add(tar::EntryType::Directory, "tmp", "", 0o1777, b"")
        .add(tar::EntryType::Directory, "locked", "", 0o000, b"")
        .file("locked/inside", "x")
        .folder("usr")
        .folder("usr/share")
        .file("usr/share/a", "low")
        .folder("opt")
        .file("opt/low", "x");
    let middle = Layer::new()
        .folder("etc")
        .file("etc/.wh.gone", "")
        .file("etc/passwd", "changed\n")
        .folder("opt")
        .file("opt/.wh..wh..opq", "")
        .file("opt/new", "x")
        .file("usr/share/a", "no folder of it is in this layer")
        .file("tmp/left", "nor of this");
    let top = Layer::new()
        .folder("etc")
        .file("etc/fifo", "now a file")
        .symlink("opt", "etc")
        .file("usr/share/b", "x");
    vec![low, middle, top]
}

/// `cap_net_raw+ep` as the kernel keeps it (VFS_CAP_REVISION_2).
const CAPABILITY: &str = "\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn the_tree_is_the_one_that_umoci_unpacks() {
    let user = User::me();
    let layout = Layout::new(user.folder.join("layout"), layers());
    let mut manifest = layout.manifest();
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "tree" });
    let source = layout.done_with(vec![manifest]);
    user.call(&["image", "import", source.to_str().unwrap(), "tree"]).ok();
    let bundle = user.folder.join("bundle");
    let image = format!("{}:tree", source.display());
    command::run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle)).ok();
    // The context's own root, looked at from outside while it runs.
    let name = user.marker.clone();
    user.call(&[
        "run",
        "-d",
        "--name",
        &name,
        "tree",
        "sh",
        "-c",
        "cat /etc/fifo; read x < /dev/null; while :; do cat /dev/zero; done > /dev/null",
    ])
    .ok();
    let state: serde_json::Value = serde_json::from_str(&user.call(&["state", &name]).ok().stdout).unwrap();
    let root = format!("/proc/{}/root", state["pid"]);
    let (ours, theirs) = (tree(Path::new(&root)), tree(&bundle.join("rootfs")));
    for (path, about) in &theirs {
        assert_eq!(ours.get(path), Some(about), "{path}");
    }
    let more: Vec<_> = ours.keys().filter(|path| !theirs.contains_key(*path)).collect();
    assert!(more.is_empty(), "only in ours: {more:?}");
    user.call(&["delete", "--force", &name]).ok();
}

/// Everything that can be told of the files below a root, but for the folders that a context mounts over.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if ["dev", "proc", "sys"].contains(&&*name) {
                continue;
            }
            found.insert(name, about(&path));
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

fn about(path: &Path) -> String {
    let about = fs::symlink_metadata(path).unwrap();
    let kind = about.file_type();
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut attributes: Vec<String> = String::from_utf8(names[..length].to_vec())
        .unwrap()
        .split_terminator('\0')
        .map(str::to_owned)
        .collect();
    attributes.retain(|name| !name.starts_with("trusted.overlay."));
    attributes.sort();
    let attributes: Vec<_> = attributes
        .iter()
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, &**name, &mut value[..]).unwrap();
            format!("{name}={:?}", &value[..length])
        })
        .collect();
    let content = match kind {
        kind if kind.is_symlink() => fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec(),
        kind if kind.is_file() => fs::read(path).unwrap(),
        _ => vec![],
    };
    let device = if kind.is_char_device() { about.rdev() } else { 0 };
    let links = if kind.is_dir() { 0 } else { about.nlink() };
    format!(
        "{:o} {}:{} {}.{:09} {device} {links} {attributes:?} {}",
        about.mode(),
        about.uid(),
        about.gid(),
        about.mtime(),
        about.mtime_nsec(),
        super::made::digest(&content)
    )
}

fn every_form_is_read_back() {
    let user = User::me();
    let layer = Layer::new().busybox(&["echo"]);
    let layout = Layout::new(user.folder.join("layout"), vec![layer]);
    user.call(&["image", "import", layout.done().to_str().unwrap(), "example.org/team/app:1.2"]).ok();
    let id = user.call(&["image", "ls", "-q"]).ok().stdout;
    for (format, target) in [("oci", "folder"), ("oci", "oci.tar"), ("docker", "docker.tar")] {
        let target = user.path(target);
        user.call(&["image", "export", "-f", format, "example.org/team/app:1.2", &target]).ok();
        user.call(&["image", "rm", id.trim()]).ok();
        let printed = user.call(&["image", "import", &target]).ok();
        assert_eq!(printed.line(), "example.org/team/app:1.2", "{format} {target}");
        assert_eq!(user.call(&["image", "ls", "-q"]).ok().stdout, id, "{format} {target}");
        assert_eq!(user.call(&["run", "--rm", id.trim(), "echo", "runs"]).ok().line(), "runs");
    }
    command::run(Command::new("gzip").arg(user.path("docker.tar"))).ok();
    let packed = fs::read(user.path("docker.tar.gz")).unwrap();
    let mut import = user.command(&["image", "import", "-", "packed"]);
    command::run_with(&mut import, &packed, command::BOUND).ok();
    assert_eq!(user.call(&["run", "--rm", "packed", "echo", "runs"]).ok().line(), "runs");
}

fn skopeo_reads_and_writes_what_we_do() {
    let user = User::me();
    let layout = Layout::new(
        user.folder.join("layout"),
        vec![Layer::new().busybox(&["echo"]), Layer::new().file("b", "x")],
    );
    user.call(&["image", "import", layout.done().to_str().unwrap(), "app:1"]).ok();
    user.call(&["image", "export", "app:1", &user.path("oci.tar")]).ok();
    user.call(&["image", "export", "-f", "docker", "app:1", &user.path("docker.tar")]).ok();
    let skopeo = |args: &[&str]| {
        let mut command = Command::new(which("skopeo").unwrap());
        command::run(
            command
                .arg("--insecure-policy")
                .args(args)
                .current_dir(&user.folder)
                .env("HOME", user.path("home")),
        )
        .ok()
    };
    for (source, target, read, options) in [
        (
            "oci-archive:oci.tar",
            "oci:zstd:app:2",
            "zstd",
            &["--dest-compress-format", "zstd", "--dest-compress"][..],
        ),
        (
            "oci-archive:oci.tar",
            "oci:gzip:app:3",
            "gzip",
            &["--dest-compress-format", "gzip", "--dest-compress"],
        ),
        ("docker-archive:docker.tar", "docker-archive:again.tar:app:4", "again.tar", &[]),
    ] {
        skopeo(&[&["copy"], options, &[source, target]].concat());
        let name = user.call(&["image", "import", &user.path(read)]).ok();
        assert_eq!(user.call(&["run", "--rm", name.line(), "echo", "runs"]).ok().line(), "runs");
    }
}
