//! Settings of the kernel that networks need, below /proc/sys/net.

use std::fs;
use std::path::{Path, PathBuf};

use crate::network::Definition;
use crate::{Error, Result};

/// Lets the machine forward, where the network reaches beyond itself. It is of the whole machine, and stays on when the
/// network goes: others may count on it.
pub(crate) fn forwarding(network: &Definition) -> Result<()> {
    if network.internal && !network.is_routed() {
        return Ok(());
    }
    if network.v4.is_some() {
        set(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")?;
    }
    if network.v6.is_some() {
        keep_router_advertisements()?;
        set(Path::new("/proc/sys/net/ipv6/conf/all/forwarding"), "1")?;
    }
    Ok(())
}

/// Lets packets of 127.0.0.0/8 pass a device, as published ports of 127.0.0.1 want it.
pub(crate) fn route_localnet(device: &str) -> Result<()> {
    set(&PathBuf::from("/proc/sys/net/ipv4/conf").join(device).join("route_localnet"), "1")
}

/// Lets a device answer for neighbours of version 6 that are behind us.
pub(crate) fn proxy_ndp(device: &str) -> Result<()> {
    set(&PathBuf::from("/proc/sys/net/ipv6/conf").join(device).join("proxy_ndp"), "1")
}

/// A machine that forwards ignores router advertisements, and loses its own default route, unless the setting is 2
/// (Documentation/networking/ip-sysctl.rst, `accept_ra`).
fn keep_router_advertisements() -> Result<()> {
    let folder = Path::new("/proc/sys/net/ipv6/conf");
    if read(&folder.join("all/forwarding")) == "1" {
        return Ok(());
    }
    let devices = fs::read_dir(folder).map_err(Error::file("read", folder))?;
    for device in devices.flatten().filter(|device| device.file_name() != "all") {
        let path = device.path().join("accept_ra");
        if read(&path) == "1" {
            set(&path, "2")?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Writes a setting unless it is so already: /proc/sys may be read-only where all is well.
pub(crate) fn set(path: &Path, value: &str) -> Result<()> {
    if read(path) == value {
        return Ok(());
    }
    let sysctl = |source| Error::Sysctl { path: path.into(), value: value.into(), source };
    fs::write(path, value).map_err(sysctl)
}
