//! Layers: an archive is read within its limits, and what it is unpacked to lies in its folder. The headers' checksums are
//! put right before, which no change of a byte would find.
#![no_main]

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rustix::fs::{CWD, Mode, OFlags, openat};
use vctx_storage::image::archive::{Archive, Entry, Kind};
use vctx_storage::image::unpack::{Limits, Owners, Unpack, unpack};

const BLOCK: usize = 512;
const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 1000, paths: 1 << 16 };

/// A folder of this process's: in it the root of the layer, and a file that is none of the layer's.
static OWN: LazyLock<PathBuf> = LazyLock::new(|| {
    let own = std::env::temp_dir().join(format!("vctx-fuzz-{}", std::process::id()));
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("canary"), "untouched").unwrap();
    own
});

fuzz_target!(|data: &[u8]| {
    let mut data = data.to_vec();
    put_checksums(&mut data);
    read(&data);
    let root = OWN.join("root");
    fs::create_dir(&root).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, &root, flags, Mode::empty()).unwrap();
    let how = Unpack { owners: Owners::Caller, privileged: false, limits: LIMITS };
    if let Ok(done) = unpack(&data[..], folder, &how) {
        assert!(done.bytes <= LIMITS.bytes && done.entries <= LIMITS.entries);
        // The last entry may go beyond it, by the paths of two thousand folders.
        let paths: usize = done.implied.iter().map(Vec::len).sum();
        assert!(paths <= LIMITS.paths as usize + (4 << 20));
    }
    let mut names: Vec<_> = fs::read_dir(&*OWN).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["canary", "root"], "something was made outside");
    let canary = OWN.join("canary");
    assert_eq!(fs::read_to_string(&canary).unwrap(), "untouched");
    assert_eq!(fs::metadata(&canary).unwrap().nlink(), 1, "a link leads out");
    no_device(&root).unwrap();
    vctx_remove::tree(&root).unwrap();
});

fn put_checksums(data: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = data.get_mut(at..at + BLOCK) {
        if block.iter().any(|&byte| byte != 0) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
        let digits = block[124..136].iter().take_while(|byte| (b'0'..=b'7').contains(byte));
        let size = digits.fold(0_usize, |size, &byte| size.wrapping_mul(8) + usize::from(byte - b'0'));
        at = at.saturating_add(BLOCK).saturating_add(size.min(1 << 32).next_multiple_of(BLOCK));
    }
}

fn read(data: &[u8]) {
    let mut archive = Archive::new(data);
    let mut buffer = [0; 4096];
    while let Ok(Some(entry)) = archive.next_entry() {
        sound(&entry);
        let mut read = 0;
        while let Ok(count) = archive.read(&mut buffer) {
            if count == 0 {
                assert_eq!(read, entry.size, "{entry:?}");
                break;
            }
            read += count as u64;
        }
        assert!(read <= entry.size && archive.position <= data.len() as u64);
    }
}

fn sound(entry: &Entry) {
    let attributes: usize = entry.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(entry.path.len() + entry.link.len() + attributes <= 2 << 20);
    assert!(entry.mode <= 0o7777 && entry.modified.1 < 1_000_000_000);
    assert!(entry.kind == Kind::File || entry.size == 0, "{entry:?}");
    assert!(matches!(entry.kind, Kind::Character | Kind::Block) || entry.device == (0, 0));
    let Some((length, pieces)) = &entry.sparse else { return };
    assert_eq!(pieces.iter().map(|(_, size)| size).sum::<u64>(), entry.size, "{entry:?}");
    let mut end = 0;
    for &(offset, size) in pieces {
        assert!(offset >= end && offset.checked_add(size).is_some_and(|end| end <= *length), "{entry:?}");
        end = offset + size;
    }
}

/// Without the rights for it, none is made but whiteouts, which are 0:0.
fn no_device(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let about = fs::symlink_metadata(&path)?;
        assert!(!about.file_type().is_block_device(), "{path:?}");
        assert!(!about.file_type().is_char_device() || about.rdev() == 0, "{path:?}");
        if about.is_dir() {
            no_device(&path)?;
        }
    }
    Ok(())
}
