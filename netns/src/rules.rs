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
use crate::ports::Publish;
use crate::{Error, Result, forward, guard, zone};

/// Makes the rules of a network, or makes them anew.
///
/// # Errors
///
/// nft is missing, or refuses.
pub fn make(network: &Definition) -> Result<()> {
    forward::admit(network)?;
    // A firewalld that does not answer is no reason not to start: `prune` tells of it.
    let machine = if zone::admit(network).unwrap_or(false) { zone::text(network) } else { String::new() };
    let made =
        nft(network, &format!("{}{}{}{machine}", without(network), text(network), guard::text(network)));
    if made.is_err() {
        let _ = forward::withdraw(network);
    }
    made
}

/// Sees to it that what a network whose rules are there sends is passed on (`forward`, `zone`).
///
/// # Errors
///
/// iptables, firewalld or nft refuses.
pub fn admit_forwarding(network: &Definition) -> Result<()> {
    forward::admit(network)?;
    if zone::admit(network)? { nft(network, &zone::text(network)) } else { Ok(()) }
}

/// Removes the rules of a network.
///
/// # Errors
///
/// nft is missing, or refuses.
pub fn remove(network: &Definition) -> Result<()> {
    forward::withdraw(network)?;
    zone::withdraw(network);
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

/// Lets the port of a lease send that is beyond the usual numbers, as `--ip` can ask for.
///
/// # Errors
///
/// nft is missing, or refuses.
pub fn admit(network: &Definition, lease: u32) -> Result<()> {
    if network.usual().contains(&lease) {
        return Ok(());
    }
    nft(network, &guard::elements(network, std::iter::once(lease)))
}

/// Redirects ports of the machine to a lease.
///
/// # Errors
///
/// nft is missing, or refuses; or the network has no address of the family.
pub fn publish(network: &Definition, lease: u32, ports: &[Publish]) -> Result<()> {
    let mut text = String::new();
    for publish in ports {
        let before = text.len();
        for (map, key, guest) in keys(publish, &network.bridge()) {
            let Some(subnet) = network.subnets().find(|subnet| subnet.is_v4() == map.ends_with('4')) else {
                continue;
            };
            let to = subnet.nth(lease);
            text.push_str(&format!("add element inet {map} {{ {key} : {to} . {guest} }}\n"));
        }
        if text.len() == before {
            let (publish, network) = (publish.to_string(), network.name.clone());
            return Err(Error::PortFamily { publish, network });
        }
    }
    if text.is_empty() { Ok(()) } else { nft(network, &text) }
}

/// Ends the redirection of ports. One that is gone is none.
pub fn withdraw(bridge: &str, ports: &[Publish]) {
    let each = ports.iter().flat_map(|publish| keys(publish, bridge));
    let lines: Vec<String> =
        each.map(|(map, key, _)| format!("delete element inet {map} {{ {key} }}\n")).collect();
    if !lines.is_empty() && !matches!(run_nft(&lines.concat()), Ok(None)) {
        // One that is missing keeps the others of its transaction.
        lines.iter().for_each(|line| drop(run_nft(line)));
    }
}

/// The elements of a range: table and map, key, port of the guest.
fn keys<'a>(publish: &'a Publish, bridge: &'a str) -> impl Iterator<Item = (String, String, u16)> + 'a {
    let protocol = publish.protocol();
    let maps: &[&str] = match publish.address {
        None => &["any4", "any6"],
        Some(address) if address.is_ipv4() => &["at4"],
        Some(_) => &["at6"],
    };
    let address = publish.address.map_or(String::new(), |address| format!("{address} . "));
    let each = move |(host, guest)| {
        let key = format!("{address}{protocol} . {host}");
        maps.iter().map(move |map| (format!("{bridge} {map}"), key.clone(), guest))
    };
    publish.pairs().flat_map(each)
}

/// Adding before deleting makes the deletion work whether the table is there or not.
fn without(network: &Definition) -> String {
    let name = network.bridge();
    ["inet", "bridge"].map(|family| format!("table {family} {name}\ndelete table {family} {name}\n")).concat()
}

/// Source addresses are masked on the way out, and nobody comes in who was not asked: neither other networks, nor what is
/// beyond the machine, but by a published port. Networks know nothing of each other: each guards itself.
///
/// What the machine sends to a published port of its own, 127.0.0.1 among the addresses, is redirected as well, and masked
/// where the context could not answer: from the loopback, and from a context of the same network. The kernel routes no
/// such packet of ::1, so that one is left to be refused.
fn text(network: &Definition) -> String {
    let (table, devices) = (network.bridge(), network.devices());
    let mut masked = String::new();
    for subnet in network.subnets() {
        let family = if subnet.is_v4() { "ip" } else { "ip6" };
        // By the address: bridged packets that the kernel shows to the rules (br_netfilter) come from no device here.
        masked.push_str(&format!(
            "    {family} saddr {subnet} oifname \"{devices}\" ct status dnat masquerade\n"
        ));
        // With a device of the machine, the addresses are those of a network that it leads to.
        if !network.internal && network.parent.is_none() {
            masked.push_str(&format!("    {family} saddr {subnet} oifname != \"{devices}\" masquerade\n"));
        }
    }
    let outward = if network.internal { format!("    iifname \"{devices}\" drop\n") } else { String::new() };
    let inward = network.parent.iter();
    let inward: String =
        inward.map(|parent| format!("    iifname \"{parent}\" oifname \"{devices}\" accept\n")).collect();
    format!(
        "table inet {table} {{
  comment \"vctx network {name}\"
  map any4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map at4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map any6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  map at6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  chain publish {{
    dnat ip to ip daddr . meta l4proto . th dport map @at4
    dnat ip to meta l4proto . th dport map @any4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
    dnat ip6 to meta l4proto . th dport map @any6
  }}
  chain loopback {{
    type filter hook prerouting priority raw; policy accept;
    iifname \"{devices}\" ip daddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump publish
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 accept
    fib daddr type local jump publish
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"{devices}\" ip saddr 127.0.0.0/8 masquerade
{masked}  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{devices}\" oifname \"{devices}\" accept
{inward}    oifname \"{devices}\" ct state established,related accept
    oifname \"{devices}\" ct status dnat accept
    oifname \"{devices}\" drop
{outward}  }}
}}
",
        name = network.name
    )
}

fn nft(network: &Definition, text: &str) -> Result<()> {
    match run_nft(text)? {
        None => Ok(()),
        Some(message) => Err(Error::Nft { name: network.name.clone(), message }),
    }
}

/// Gives the first line of what it says against the text.
fn run_nft(text: &str) -> Result<Option<String>> {
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
    let message = || String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    Ok((!output.status.success()).then(message))
}

/// Asks nf_tables for a table of the family `inet` (linux/netfilter/nf_tables.h, NFT_MSG_GETTABLE).
pub(crate) fn has_table(name: &str) -> io::Result<bool> {
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
    // Both an error and a table with its comment are less.
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        // NLMSG_ERROR with -ENOENT.
        (Some(2), Some(-2)) => Ok(false),
        (Some(2), Some(code)) if code != 0 => Err(io::Error::from_raw_os_error(-code)),
        _ => Ok(true),
    }
}
