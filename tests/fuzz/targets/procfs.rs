//! What is read of procfs and cgroupfs: whatever a guest names its processes, mounts and groups, its text does not become
//! another field. The first byte chooses the file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vctx_context::cgroup::fuzzing::{hierarchies, io_stat, pressure, ranges};
use vctx_context::procfs;
use vctx_fuzz::parts;
use vctx_storage::mounts;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, text)) = data.split_first() else { return };
    match kind % 6 {
        0 => stat(text),
        1 => mountinfo(text),
        2 => mount_point(text),
        3 => membership(text),
        4 => figures(text),
        _ => {
            let _ = procfs::parse(text);
            if let Some((offset, size)) = vctx_child::fuzzing::interpreter_segment(text) {
                assert!(text.starts_with(b"\x7fELF"), "{offset} {size}");
            }
        }
    }
});

/// A process's name holds anything but a zero byte.
fn stat(name: &[u8]) {
    let rest = b") Z 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1\n";
    let line = [b"7 (", name, &rest[..]].concat();
    let read = procfs::parse(&line).unwrap();
    assert_eq!((read.start_time, read.zombie), (4242, true), "{name:?}");
}

fn mountinfo(text: &[u8]) {
    let all = mounts::parse(text);
    assert!(all.len() <= text.len());
    for (index, mount) in all.iter().enumerate() {
        assert!(all[..index].iter().all(|other| other.point != mount.point), "{:?} twice", mount.point);
        assert!(
            !all[..index].iter().any(|other| other.point.starts_with(&mount.point)),
            "a child comes first"
        );
    }
}

/// A mount point as the kernel writes it is read as it is.
fn mount_point(name: &[u8]) {
    let mut escaped = b"/".to_vec();
    for &byte in name {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => escaped.extend(format!("\\{byte:03o}").bytes()),
            _ => escaped.push(byte),
        }
    }
    let line = [b"30 27 0:1 / ", &escaped[..], b" rw,- shared:1 - ext4 /dev/x rw\n"].concat();
    let read = mounts::parse(&line);
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].point.as_os_str().as_encoded_bytes(), [b"/", name].concat());
    assert_eq!(read[0].kind, "ext4");
    if let (Ok(point), Ok(line)) = (std::str::from_utf8(name), std::str::from_utf8(&line)) {
        let read = hierarchies("0::/\n", &line.replace("- ext4", "- cgroup2"));
        assert_eq!(read[0].1, Path::new(&format!("/{point}")));
    }
}

fn membership(text: &[u8]) {
    let [membership, mountinfo] = parts::<2>(text).map(String::from_utf8_lossy);
    for (_, point, own) in hierarchies(&membership, &mountinfo) {
        assert!(own.starts_with('/'), "{own:?} at {point:?}");
        assert!(!own.starts_with("/.."), "our group would lie above {point:?}");
    }
}

fn figures(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let (bytes, operations) = io_stat(&text);
    assert!(bytes.len() + operations.len() <= text.len());
    let _ = pressure(&text);
    assert!(ranges(&text).len() <= 65_536 * (1 + text.matches(',').count()));
}
