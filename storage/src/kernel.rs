//! Calls of the kernel that no package has: project ids and quotas of file systems, sharing of extents, and disks in files.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// `struct fsxattr` (ioctl_fs_getxattr, linux/fs.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct FileAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// Puts a folder into a project, and what is made in it from now on.
pub(crate) fn set_project(folder: impl AsFd, project: u32) -> io::Result<()> {
    let mut attributes = FileAttributes::default();
    let folder = folder.as_fd().as_raw_fd();
    // SAFETY: the kernel writes one `struct fsxattr`, as large as the number says, into a live one of the same layout.
    check(unsafe { libc::ioctl(folder, FS_IOC_FSGETXATTR as _, &raw mut attributes) })?;
    attributes.project = project;
    attributes.flags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the kernel reads one `struct fsxattr`, which the call before has filled.
    check(unsafe { libc::ioctl(folder, FS_IOC_FSSETXATTR as _, &raw const attributes) })
}

/// The project of a file.
pub(crate) fn project(file: impl AsFd) -> io::Result<u32> {
    let mut attributes = FileAttributes::default();
    // SAFETY: the kernel writes one `struct fsxattr`, as large as the number says, into a live one of the same layout.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut attributes) })?;
    Ok(attributes.project)
}

/// `struct if_dqblk` (quotactl(2)): blocks of limits are 1024 bytes, the space in use is in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quota {
    pub(crate) blocks: u64,
    pub(crate) blocks_soft: u64,
    pub(crate) space_used: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_soft: u64,
    pub(crate) inodes_used: u64,
    pub(crate) block_time: u64,
    pub(crate) inode_time: u64,
    pub(crate) valid: u32,
}

const PRJQUOTA: libc::c_uint = 2;
const Q_GETQUOTA: libc::c_uint = 0x80_0007;
const Q_SETQUOTA: libc::c_uint = 0x80_0008;
const Q_XGETQSTAT: libc::c_uint = 0x5805;
/// `FS_QUOTA_PDQ_ENFD` of linux/dqblk_xfs.h.
const PROJECTS_ENFORCED: u16 = 1 << 5;
const QIF_BLIMITS: u32 = 1;
const QIF_ILIMITS: u32 = 4;

/// The file system of a folder enforces limits of projects.
pub(crate) fn enforces_projects(folder: impl AsFd) -> bool {
    // `struct fs_quota_stat` has 80 bytes, the flags at 2.
    let mut state = [0u64; 16];
    // SAFETY: the buffer is longer than the structure that this command writes.
    let done = unsafe { quotactl(folder, Q_XGETQSTAT, 0, state.as_mut_ptr().cast()) };
    let [_, _, low, high, ..] = state[0].to_ne_bytes();
    done.is_ok() && u16::from_ne_bytes([low, high]) & PROJECTS_ENFORCED != 0
}

/// What a project may use, and uses.
pub(crate) fn quota(folder: impl AsFd, project: u32) -> io::Result<Quota> {
    let mut quota = Quota::default();
    // SAFETY: this command writes one `struct if_dqblk` into a live one of the same layout.
    unsafe { quotactl(folder, Q_GETQUOTA, project, (&raw mut quota).cast())? };
    Ok(quota)
}

/// Sets the limits of a project; nothing is none.
pub(crate) fn set_quota(
    folder: impl AsFd,
    project: u32,
    bytes: Option<u64>,
    inodes: Option<u64>,
) -> io::Result<()> {
    let mut quota = Quota::default();
    if let Some(bytes) = bytes {
        quota.blocks = bytes.div_ceil(1024);
        quota.valid |= QIF_BLIMITS;
    }
    if let Some(inodes) = inodes {
        quota.inodes = inodes;
        quota.valid |= QIF_ILIMITS;
    }
    // SAFETY: this command reads one `struct if_dqblk`, and writes nothing.
    unsafe { quotactl(folder, Q_SETQUOTA, project, (&raw mut quota).cast()) }
}

/// quotactl_fd(2), Linux 5.14. `data` is as the command wants it.
unsafe fn quotactl(
    folder: impl AsFd,
    command: libc::c_uint,
    id: u32,
    data: *mut libc::c_void,
) -> io::Result<()> {
    let command = (command << 8) | PRJQUOTA;
    let folder = folder.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed for the call, and the caller has seen to `data` for its command.
    let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, folder, command, id, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct file_dedupe_range` with one target (ioctl_fideduperange(2)).
#[repr(C)]
struct Dedupe {
    offset: u64,
    length: u64,
    count: u16,
    reserved: [u16; 3],
    target: i64,
    target_offset: u64,
    done: u64,
    status: i32,
    reserved_target: u32,
}

const FIDEDUPERANGE: u32 = 0xc018_9436;
const FILE_DEDUPE_RANGE_DIFFERS: i32 = 1;

/// Lets two files share the extents of a range, if the kernel finds it equal. Gives how many bytes; none where they differ.
pub(crate) fn share(one: impl AsFd, other: impl AsFd, offset: u64, length: u64) -> io::Result<Option<u64>> {
    let mut call = Dedupe {
        offset,
        length,
        count: 1,
        reserved: [0; 3],
        target: other.as_fd().as_raw_fd().into(),
        target_offset: offset,
        done: 0,
        status: 0,
        reserved_target: 0,
    };
    // SAFETY: the count says that one target follows, and it does: the structure is live and of the kernel's layout.
    check(unsafe { libc::ioctl(one.as_fd().as_raw_fd(), FIDEDUPERANGE as _, &raw mut call) })?;
    match call.status {
        FILE_DEDUPE_RANGE_DIFFERS => Ok(None),
        0 => Ok(Some(call.done)),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const _: () =
    assert!(size_of::<FileAttributes>() == 28 && size_of::<Dedupe>() == 56 && size_of::<Quota>() == 72);

/// `struct fiemap` with room for one extent (ioctl FS_IOC_FIEMAP, fiemap.rst).
#[repr(C)]
#[derive(Default)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    logical: u64,
    physical: u64,
    extent_length: u64,
    extent_reserved: [u64; 2],
    extent_flags: u32,
    extent_reserved_flags: [u32; 3],
}

const FS_IOC_FIEMAP: u32 = 0xc020_660b;
const FIEMAP_FLAG_SYNC: u32 = 1;
/// Not on disk yet, or inside of what the file system keeps for itself.
const FIEMAP_EXTENT_NO_PLACE: u32 = 0x2 | 0x4 | 0x200;

/// Where on disk the first extent of a file lies; none where it has no place of its own.
pub(crate) fn first_extent(file: impl AsFd) -> io::Result<Option<u64>> {
    let mut map = Map { length: u64::MAX, flags: FIEMAP_FLAG_SYNC, count: 1, ..Map::default() };
    // SAFETY: the count says that there is room for one extent behind the head, and there is.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut map) })?;
    let has_place = map.mapped == 1 && map.extent_flags & FIEMAP_EXTENT_NO_PLACE == 0;
    Ok(has_place.then_some(map.physical))
}

const _: () = assert!(size_of::<Map>() == 32 + 56);

/// `struct loop_config` (linux/loop.h), of whose `struct loop_info64` the flags alone are set here.
#[repr(C)]
struct Loop {
    file: u32,
    block: u32,
    places: [u64; 5],
    numbers: [u32; 3],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
    reserved: [u64; 8],
}

const LOOP_SET_CAPACITY: u32 = 0x4c07;
const LOOP_CONFIGURE: u32 = 0x4c0a;
const LOOP_CTL_GET_FREE: u32 = 0x4c82;
/// The device goes with its last user; and its pages are in memory once, as those of its file system.
const AUTOCLEAR_AND_DIRECT: u32 = 4 | 16;
const EXT4_IOC_RESIZE_FS: u32 = 0x4008_6610;

/// The number of a loop device that is free now (loop(4)).
pub(crate) fn free_loop(control: impl AsFd) -> io::Result<i32> {
    // SAFETY: this command takes no pointer, and the descriptor is borrowed for the call.
    let number = unsafe { libc::ioctl(control.as_fd().as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    check(number.min(0)).map(|()| number)
}

/// Lays a file behind a loop device, with sectors of `block` bytes (Linux 5.8).
pub(crate) fn configure_loop(device: impl AsFd, file: impl AsFd, block: u32) -> io::Result<()> {
    let call = Loop {
        file: file.as_fd().as_raw_fd().cast_unsigned(),
        block,
        places: [0; 5],
        numbers: [0; 3],
        flags: AUTOCLEAR_AND_DIRECT,
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one `struct loop_config` of the same layout; the descriptors are borrowed for the call.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_CONFIGURE as _, &raw const call) })
}

/// Lets a loop device find that its file has become longer.
pub(crate) fn measure_loop(device: impl AsFd) -> io::Result<()> {
    // SAFETY: this command takes no pointer, and the descriptor is borrowed for the call.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_SET_CAPACITY as _) })
}

/// Enlarges a mounted ext4 to so many blocks.
pub(crate) fn resize_ext4(folder: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one number, which lives until the call returns.
    check(unsafe { libc::ioctl(folder.as_fd().as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &raw const blocks) })
}

const _: () = assert!(size_of::<Loop>() == 304);
