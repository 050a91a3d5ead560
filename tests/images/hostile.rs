//! Layers that try to write outside their folder, or more than there is room for (SECURITY: layer unpacking).

use super::made::{Layer, digest};
use crate::harness::{Case, Output, case, command, rootfs};
use crate::host_run::User;
use std::fs;
use std::path::PathBuf;
use tar::EntryType;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_layer_that_reaches_outside_is_refused),
        case!(a_damaged_archive_is_refused),
        case!(a_layer_that_fills_the_disk_is_refused_at_its_limit),
        case!(a_layer_of_endless_names_is_refused),
        case!(marks_of_overlayfs_are_not_taken_from_a_layer),
        case!(a_link_inside_the_layer_is_followed_inside),
        case!(a_whiteout_below_a_link_takes_nothing_away),
    ]
}

/// Imports a layer as an image by itself.
pub fn import(user: &User, layer: &[u8], options: &[&str]) -> Output {
    let file = user.folder.join("layer.tar");
    fs::write(&file, layer).unwrap();
    user.call(&[&["image", "import"], options, &[file.to_str().unwrap(), "hostile"]].concat())
}

/// The unpacked form of a layer.
pub fn unpacked(user: &User, layer: &[u8]) -> PathBuf {
    user.store().join(".store/layers").join(&digest(layer)["sha256:".len()..])
}

/// Nothing of it is there: no layer, no image, nothing half-written.
#[track_caller]
pub fn nothing_is_left(user: &User) {
    nothing_is_left_but_a_list(user);
    assert!(!user.store().join(".store/images.json").exists(), "an image came into being");
}

/// The same where images were there before.
#[track_caller]
pub fn nothing_is_left_but_a_list(user: &User) {
    let store = user.store().join(".store");
    for folder in ["layers", "stacks", "partial", "pins"] {
        let left: Vec<_> =
            fs::read_dir(store.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn a_layer_that_reaches_outside_is_refused() {
    let outside = rootfs::workspace().join("outside");
    let _ = fs::create_dir(&outside);
    fs::write(outside.join("file"), "untouched").unwrap();
    let path = outside.to_str().unwrap();
    let up = "../../../../../../../../../..";
    let new = Layer::new;
    let table: Vec<(&str, Layer, &str)> = vec![
        ("dots", new().file(&format!("{up}{path}/new"), "x"), "`..`"),
        ("dots inside", new().folder("a").file("a/../../new", "x"), "`..`"),
        ("an absolute name", new().file(&format!("{path}/new"), "x"), "absolute"),
        ("a file through an absolute link", new().symlink("a", path).file("a/new", "x"), "leads out"),
        (
            "a file through a link upward",
            new().symlink("a", &format!("{up}{path}")).file("a/new", "x"),
            "leads out",
        ),
        (
            "a file through two links",
            new().symlink("b", up).symlink("a", "b").file("a/new", "x"),
            "leads out",
        ),
        ("a folder through a link", new().symlink("a", path).folder("a/new"), "leads out"),
        ("an opaque folder through a link", new().symlink("a", path).file("a/.wh..wh..opq", ""), "leads out"),
        ("a hard link to an absolute name", new().hard_link("a", &format!("{path}/file")), "absolute"),
        ("a hard link upward", new().hard_link("a", &format!("{up}{path}/file")), "`..`"),
        ("a hard link through a link", new().symlink("l", path).hard_link("a", "l/file"), "leads out"),
        ("a hard link to nothing", new().hard_link("a", "b"), "not in this layer"),
        ("a hard link to a whiteout", new().file(".wh.b", "").hard_link("a", "b"), "not in this layer"),
        ("a file through a file", new().file("a", "x").file("a/new", "x"), "no folder"),
        ("a whiteout of nothing", new().file(".wh.", ""), "takes away"),
        ("a whiteout of the root", new().file(".wh..", ""), "takes away"),
        ("a whiteout of what is above", new().file(".wh...", ""), "takes away"),
        ("a whiteout of a folder from inside", new().folder("a").file("a/.wh..", ""), "takes away"),
        ("a path through a whiteout", new().file(".wh.a/b", "x"), "whiteout"),
        ("a file as the root", new().file(".", "x"), "root of a layer"),
        ("a link as the root", new().symlink("./", path), "root of a layer"),
        ("an empty name", new().file("", "x"), "no name"),
        ("an empty link", new().symlink("a", ""), "link to nothing"),
        ("a name with a nul", new().pax(&[("path", "a\0b")]).file("a", "x"), "nul"),
        (
            "a long name with dots",
            new().add(EntryType::GNULongName, "l", "", 0, b"../new\0").file("a", "x"),
            "`..`",
        ),
        ("pax records with dots", new().pax(&[("path", "../new")]).file("a", "x"), "`..`"),
        ("a pax link upward", new().pax(&[("linkpath", "../file")]).hard_link("a", "b"), "`..`"),
        ("a name of sparse files with dots", sparse(&[("GNU.sparse.name", "../new")], "0\n"), "`..`"),
        ("an owner that is none", new().pax(&[("uid", "4294967295")]).file("a", "x"), "owner is no id"),
        ("an owner that wraps around", new().pax(&[("uid", "4294967296")]).file("a", "x"), "owner is no id"),
    ];
    for (what, layer, word) in table {
        let user = User::me();
        let refused = import(&user, &layer.bytes(), &[]).refused();
        assert!(refused.stderr.contains(word), "{what}: {:?} is not in {}", word, refused.stderr);
        nothing_is_left(&user);
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(
            (names, fs::read_to_string(outside.join("file")).unwrap()),
            (vec!["file".into()], "untouched".into()),
            "{what}"
        );
    }
}

fn sparse(more: &[(&str, &str)], map: &str) -> Layer {
    let head = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "0")];
    let mut content = map.as_bytes().to_vec();
    content.resize(512, 0);
    Layer::new().pax(&[&head, more].concat()).add(EntryType::Regular, "sparse", "", 0o644, &content)
}

fn a_damaged_archive_is_refused() {
    let whole = Layer::new().file("a", &"x".repeat(5000)).bytes();
    let mut wrong_sum = whole.clone();
    wrong_sum[0] = b'b';
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut in a file", whole[..3000].to_vec(), "cannot be read"),
        ("cut in a header", whole[..300].to_vec(), "cannot be read"),
        ("a wrong checksum", wrong_sum, "checksum"),
        ("no archive at all", b"#!/bin/sh\n".repeat(100), "damaged"),
        ("a sparse map without end", sparse(&[], "9999999999\n").bytes(), "no end"),
        ("a sparse map that overlaps", sparse(&[], "2\n0\n5\n3\n5\n").bytes(), "does not fit"),
        (
            "a pax record that is too long",
            Layer::new().pax(&[]).raw(&pax(b"99 path=a\n")).file("a", "").bytes(),
            "malformed",
        ),
        (
            "a pax record without length",
            Layer::new().raw(&pax(b"path=a\n")).file("a", "").bytes(),
            "malformed",
        ),
        ("a pax size that is none", Layer::new().pax(&[("size", "-1")]).file("a", "").bytes(), "malformed"),
        (
            "a type nobody knows",
            Layer::new().add(EntryType::new(b'Z'), "a", "", 0, b"").bytes(),
            "unknown type",
        ),
    ];
    for (what, bytes, word) in table {
        let user = User::me();
        let refused = import(&user, &bytes, &[]).refused();
        assert!(refused.stderr.contains(word), "{what}: {:?} is not in {}", word, refused.stderr);
        nothing_is_left(&user);
    }
}

fn pax(records: &[u8]) -> Vec<u8> {
    let mut bytes = Layer::new().add(EntryType::XHeader, "pax", "", 0, records).bytes();
    bytes.truncate(bytes.len() - 1024);
    bytes
}

fn a_layer_that_fills_the_disk_is_refused_at_its_limit() {
    let user = User::me();
    let zeros = "\0".repeat(8 << 20);
    let layer = Layer::new().file("a", &zeros).file("b", &zeros).file("c", &zeros).bytes();
    let file = user.folder.join("bomb.tar");
    fs::write(&file, layer).unwrap();
    command::run(std::process::Command::new("gzip").arg(&file)).ok();
    let file = user.path("bomb.tar.gz");
    user.call(&["image", "import", "--limit", "20m", &file, "bomb"])
        .refused_with(&["more than 20971520 bytes"]);
    nothing_is_left(&user);
    user.call(&["image", "import", "--limit", "30m", &file, "bomb"]).ok();
}

fn a_layer_of_endless_names_is_refused() {
    let user = User::me();
    let name = vec![b'a'; 3 << 20];
    let long = Layer::new().add(EntryType::GNULongName, "l", "", 0, &name).file("a", "x");
    import(&user, &long.bytes(), &[]).refused_with(&["larger than 1 mib"]);
    let attribute = "x".repeat(600 << 10);
    let records = [("SCHILY.xattr.user.a", &*attribute)];
    let twice = Layer::new().pax(&records).pax(&records).file("a", "x");
    import(&user, &twice.bytes(), &[]).refused_with(&["larger than 1 mib"]);
    nothing_is_left(&user);
}

fn marks_of_overlayfs_are_not_taken_from_a_layer() {
    let user = User::me();
    let marks = [
        ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ("SCHILY.xattr.user.overlay.opaque", "y"),
        ("SCHILY.xattr.user.kept", "yes"),
    ];
    let layer = Layer::new().pax(&marks).folder("a").bytes();
    import(&user, &layer, &[]).ok();
    let folder = unpacked(&user, &layer).join("a");
    let mut names = vec![0; 4096];
    let length = rustix::fs::listxattr(&folder, &mut names[..]).unwrap();
    let names = String::from_utf8(names[..length].to_vec()).unwrap();
    assert_eq!(
        names.split_terminator('\0').filter(|name| !name.starts_with("security.")).collect::<Vec<_>>(),
        ["user.kept"]
    );
}

fn a_link_inside_the_layer_is_followed_inside() {
    let user = User::me();
    let layer =
        Layer::new().folder("usr").folder("usr/lib").symlink("lib", "usr/lib").file("lib/new", "x").bytes();
    import(&user, &layer, &[]).ok();
    assert_eq!(fs::read_to_string(unpacked(&user, &layer).join("usr/lib/new")).unwrap(), "x");
}

/// umoci writes such, one for each file of the folder that a link or a file replaces.
fn a_whiteout_below_a_link_takes_nothing_away() {
    let outside = rootfs::workspace().join("untouched");
    let _ = fs::create_dir(&outside);
    fs::write(outside.join("file"), "x").unwrap();
    let user = User::me();
    let layer = Layer::new()
        .symlink("a", outside.to_str().unwrap())
        .file("a/.wh.file", "")
        .file("b", "x")
        .file("b/.wh.file", "")
        .bytes();
    import(&user, &layer, &[]).ok();
    assert!(outside.join("file").is_file());
    let names = fs::read_dir(unpacked(&user, &layer)).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
}
