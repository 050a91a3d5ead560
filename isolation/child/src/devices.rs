//! Device nodes and the usual links of `/dev`.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, mknodat, statat, symlinkat,
};
use rustix::io::Errno;

use crate::Result;
use crate::failure::at;
use crate::handshake::Step;
use crate::mounts::protect_node;
use crate::plan::{Device, Root};
use crate::resolve::{self, Parents};
use crate::root::{attach_at, clone_tree};

/// Makes the devices and links of the plan.
pub(crate) fn make(tree: BorrowedFd<'_>, root: &Root<'_>) -> Result<()> {
    let mut parents = Parents::default();
    for (index, device) in root.devices.iter().enumerate() {
        node(tree, device, &mut parents).map_err(at(Step::Device, index))?;
    }
    for (index, (target, path)) in root.links.iter().enumerate() {
        let made =
            parents.of(tree, path).and_then(|(folder, name)| symlinkat(*target, folder, name.as_c_str()?));
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(at(Step::Link, index)(error)),
        }
    }
    Ok(())
}

fn node<'a>(
    tree: BorrowedFd<'_>,
    device: &Device<'a>,
    parents: &mut Parents<'a>,
) -> core::result::Result<(), Errno> {
    let (folder, name) = parents.of(tree, device.path)?;
    let name = name.as_c_str()?;
    let kind = FileType::from_raw_mode(device.mode);
    let number = rustix::fs::makedev(device.number.0, device.number.1);
    match mknodat(folder, name, kind, Mode::from_raw_mode(device.mode & 0o7777), number) {
        Ok(()) => {
            let owner = (Uid::from_raw(device.owner.0), Gid::from_raw(device.owner.1));
            if device.owner != (0, 0) {
                chownat(folder, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Ok(())
        }
        Err(Errno::EXIST) => {
            let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let same = FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == number;
            if same { Ok(()) } else { bind(tree, device) }
        }
        // mknod(2) of a device is for the first user namespace only.
        Err(Errno::PERM) => bind(tree, device),
        Err(error) => Err(error),
    }
}

/// Binds the host's node over an empty file.
fn bind(tree: BorrowedFd<'_>, device: &Device<'_>) -> core::result::Result<(), Errno> {
    let source = clone_tree(CWD, device.host, false)?;
    let stat = fstat(&source)?;
    let number = rustix::fs::makedev(device.number.0, device.number.1);
    if FileType::from_raw_mode(stat.st_mode) != FileType::from_raw_mode(device.mode) || stat.st_rdev != number
    {
        return Err(Errno::NODEV);
    }
    protect_node(&source)?;
    // A link in the image must not lead the device elsewhere: the place is the name itself.
    let (folder, name) = resolve::ensure_parent(tree, device.path)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = match rustix::fs::openat(&folder, name.as_c_str()?, flags, Mode::empty()) {
        Err(Errno::NOENT) => resolve::ensure_file(tree, device.path)?,
        result => result?,
    };
    attach_at(source.as_fd(), place)
}
