//! Entries on disk and in the binary.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::{engine_profile, profile};
use crate::seccomp::{DEFAULT_CAPABILITIES, bpf, cache, compile, compile_default, default_profile, lower};

/// Replaces the default profile's entry: `cargo test -p vctx-context -- --ignored regenerate`, then commit the file.
/// To be run after each change of the profile, or of the compiler; the next test fails until then.
#[test]
#[ignore = "writes into the source tree"]
fn regenerate_the_prebuilt_default_filter() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/seccomp/default.x86_64.bpf");
    let profile = default_profile(DEFAULT_CAPABILITIES);
    let program = lower::lower(&profile).unwrap();
    fs::write(path, cache::Key::of(&profile).seal(&program)).unwrap();
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_prebuilt_default_filter_is_what_is_compiled() {
    let profile = default_profile(DEFAULT_CAPABILITIES);
    let key = cache::Key::of(&profile);
    let fresh = lower::lower(&profile).unwrap();
    let prebuilt = cache::prebuilt(&key).expect("regenerate the prebuilt filter, see above");
    if cache::PREBUILT == key.seal(&fresh) {
        return;
    }
    // Another libseccomp than the one it was made with may arrange the program differently, or know more names.
    assert_ne!(
        cache::PREBUILT[8..16],
        key.seal(&fresh)[8..16],
        "same libseccomp, different program: regenerate"
    );
    assert!(!prebuilt.is_empty());
}

#[test]
fn the_default_filter_is_the_default_profiles_for_all_capabilities() {
    for capabilities in [0, 1, DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES | 1 << 12, u64::MAX]
        .into_iter()
        .chain((0..41).map(|bit| 1 << bit))
    {
        let short = compile_default(capabilities, None).unwrap().unwrap();
        let long = compile(&default_profile(capabilities), None).unwrap().unwrap();
        assert_eq!(bpf::to_bytes(&short.program), bpf::to_bytes(&long.program), "{capabilities:#x}");
        assert_eq!((short.flags, short.listener), (long.flags, long.listener));
    }
}

/// An entry with another program for the same profile: whoever returns it has read the file, and not compiled.
fn poison(folder: &Path) -> (PathBuf, Vec<u8>) {
    let path = only_entry(folder);
    let allow_all =
        bpf::from_bytes(&bpf::to_bytes(&[libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 }]));
    let entry = cache::Key::of(&engine_profile()).seal(&allow_all.unwrap());
    fs::write(&path, &entry).unwrap();
    (path, entry)
}

fn only_entry(folder: &Path) -> PathBuf {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "one entry and no leftovers: {entries:?}");
    entries.remove(0)
}

fn compiled(folder: &Path) -> Vec<u8> {
    bpf::to_bytes(&compile(&engine_profile(), Some(folder)).unwrap().unwrap().program)
}

#[test]
fn the_second_time_the_program_comes_from_the_file() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/b");
    let first = compiled(&folder);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(only_entry(&folder)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(compiled(&folder), first);
    poison(&folder);
    assert_eq!(compiled(&folder).len(), 8, "the entry is used without asking libseccomp");
}

#[test]
fn an_entry_of_another_owner_or_open_to_others_is_not_used_but_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let good = compiled(folder.path());
    for mode in [0o620, 0o602, 0o666] {
        let (path, _) = poison(folder.path());
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(compiled(folder.path()), good, "mode {mode:o}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let (path, _) = poison(folder.path());
    if chown(&path, Some(65534), None).is_err() {
        eprintln!("SKIP: changing a file's owner needs root");
        return;
    }
    assert_eq!(compiled(folder.path()), good);
}

#[test]
fn an_entry_behind_a_link_is_not_used() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let good = compiled(folder.path());
    let (path, entry) = poison(folder.path());
    let target = elsewhere.path().join("target");
    fs::write(&target, &entry).unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    assert_eq!(compiled(folder.path()), good);
    assert_eq!(fs::read(&target).unwrap(), entry, "and not written through");
}

#[test]
fn a_damaged_entry_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let good = compiled(folder.path());
    let path = only_entry(folder.path());
    let entry = fs::read(&path).unwrap();
    let places = (0..40).chain((40..entry.len()).step_by(397)).chain([entry.len() - 1]);
    for place in places {
        let mut damaged = entry.clone();
        damaged[place] ^= 0x40;
        fs::write(&path, damaged).unwrap();
        assert_eq!(compiled(folder.path()), good, "byte {place}");
        assert_eq!(fs::read(&path).unwrap(), entry, "byte {place}: repaired");
    }
    for length in [0, 7, 31, 40, entry.len() - 8, entry.len() - 1] {
        fs::write(&path, &entry[..length]).unwrap();
        assert_eq!(compiled(folder.path()), good, "length {length}");
    }
    fs::write(&path, [&entry[..], &[0; 8]].concat()).unwrap();
    assert_eq!(compiled(folder.path()), good, "longer");
}

#[test]
fn an_entry_under_another_profiles_name_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let good = compiled(folder.path());
    let path = only_entry(folder.path());
    let other = profile(r#"{"defaultAction": "SCMP_ACT_LOG"}"#);
    fs::write(&path, cache::Key::of(&other).seal(&lower::lower(&other).unwrap())).unwrap();
    assert_eq!(compiled(folder.path()), good, "as if the hashes collided");
}

#[test]
fn an_unusable_folder_costs_only_the_time() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let good = compiled(tempfile::tempdir().unwrap().path());
    assert_eq!(compiled(file.path()), good, "a file in place of the folder");
    assert_eq!(compiled(Path::new("/proc/seccomp")), good, "no files can be made here");
    assert_eq!(compiled(Path::new("/dev/full/x")), good);
}

#[test]
fn many_writers_leave_one_sound_entry() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| compiled(folder.path()))).collect();
        let mut programs: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
        programs.dedup();
        assert_eq!(programs.len(), 1);
    });
    only_entry(folder.path());
}

#[test]
fn flags_and_listener_are_no_part_of_the_entry() {
    let folder = tempfile::tempdir().unwrap();
    let mut changed = engine_profile();
    compile(&changed, Some(folder.path())).unwrap();
    changed.set_flags(Some(vec![oci_spec::runtime::LinuxSeccompFilterFlag::SeccompFilterFlagLog]));
    changed.set_listener_path(Some("/run/agent.sock".into()));
    let filter = compile(&changed, Some(folder.path())).unwrap().unwrap();
    assert_eq!(filter.flags, libc::SECCOMP_FILTER_FLAG_LOG as u32);
    assert_eq!(filter.listener, None, "no call asks for the agent");
    only_entry(folder.path());
}
