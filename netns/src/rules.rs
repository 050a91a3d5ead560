//! The rules of a network: two tables of nftables(8), named after its bridge, made by one transaction of `nft` when the
//! network comes up, so that either all of them are there or none. No other table is touched: what others accept or drop
//! in theirs goes on to hold beside.
//!
//! A start only asks whether they are there, by netlink: `nft` takes milliseconds.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::network::Definition;
use crate::{Error, Result};

/// Makes the rules of a network, or makes them anew.
///
/// # Errors
///
/// nft is missing, or refuses.
pub fn make(network: &Definition) -> Result<()> {
    nft(network, &format!("{}{}", without(network), text(network)))
}

/// Removes the rules of a network.
///
/// # Errors
///
/// nft is missing, or refuses.
pub fn remove(network: &Definition) -> Result<()> {
    if are_there(network)? { nft(network, &without(network)) } else { Ok(()) }
}

/// The rules of a network are there.
///
/// # Errors
///
/// netfilter does not answer.
pub fn are_there(network: &Definition) -> Result<bool> {
    let name = network.bridge();
    has_table(&name).map_err(Error::link("ask for the rules of", &name))
}

/// Adding before deleting makes the deletion work whether the table is there or not.
fn without(network: &Definition) -> String {
    let name = network.bridge();
    format!("table inet {name}\ndelete table inet {name}\n")
}

/// Source addresses are masked on the way out, and nobody comes in who was not asked: neither other networks, nor what is
/// beyond the machine. Networks know nothing of each other: each guards itself.
fn text(network: &Definition) -> String {
    let bridge = network.bridge();
    let mut masked = String::new();
    if !network.internal {
        for subnet in network.subnets() {
            let family = if subnet.is_v4() { "ip" } else { "ip6" };
            masked.push_str(&format!("    {family} saddr {subnet} oifname != \"{bridge}\" masquerade\n"));
        }
    }
    let outward = if network.internal { format!("    iifname \"{bridge}\" drop\n") } else { String::new() };
    format!(
        "table inet {bridge} {{
  comment \"vctx network {name}\"
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
{masked}  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{bridge}\" oifname \"{bridge}\" accept
    oifname \"{bridge}\" ct state established,related accept
    oifname \"{bridge}\" ct status dnat accept
    oifname \"{bridge}\" drop
{outward}  }}
}}
",
        name = network.name
    )
}

fn nft(network: &Definition, text: &str) -> Result<()> {
    let program =
        ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"].into_iter().find(|path| Path::new(path).exists());
    let mut child = Command::new(program.unwrap_or("nft"))
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::NoNft)?;
    // An nft that has gone says why below.
    let _ = child.stdin.take().map(|mut pipe| pipe.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(Error::NoNft)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    Err(Error::Nft { name: network.name.clone(), message })
}

/// Asks nf_tables for a table of the family `inet` (linux/netfilter/nf_tables.h, NFT_MSG_GETTABLE).
fn has_table(name: &str) -> io::Result<bool> {
    const GET_TABLE: u16 = (10 << 8) | 1;
    const REQUEST: u16 = 1;
    const INET: u8 = 1;
    let mut message = Vec::with_capacity(64);
    message.extend([0; 4]);
    message.extend(GET_TABLE.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([INET, 0, 0, 0]);
    // NFTA_TABLE_NAME, with its zero.
    let length = 4 + name.len() as u16 + 1;
    message.extend(length.to_ne_bytes());
    message.extend(1_u16.to_ne_bytes());
    message.extend(name.as_bytes());
    message.push(0);
    message.resize(message.len().next_multiple_of(4), 0);
    let length = (message.len() as u32).to_ne_bytes();
    message[..4].copy_from_slice(&length);
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        // NLMSG_ERROR with -ENOENT.
        (Some(2), Some(-2)) => Ok(false),
        (Some(2), Some(code)) if code != 0 => Err(io::Error::from_raw_os_error(-code)),
        _ => Ok(true),
    }
}
