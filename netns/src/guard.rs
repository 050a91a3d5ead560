//! What keeps a context to its own addresses: rules at the ports of the bridge, so that not even one with CAP_NET_RAW or
//! CAP_NET_ADMIN can pass for another. Who may send what is a function of the port, so all of it is written once, when the
//! network comes up, for every number that a start can get.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

use crate::network::Definition;

/// The chain that holds contexts to their addresses, with the elements of the usual numbers.
pub(crate) fn text(network: &Definition) -> String {
    let elements = elements(network, network.usual());
    if network.is_routed() { format!("{}{elements}", routed(network)) } else { bridged(network, &elements) }
}

/// In the table of the network itself: what comes from a context comes from the device that is its own, and so there is no
/// MAC address that could be another's. What it says of neighbours concerns that device alone.
fn routed(network: &Definition) -> String {
    let (name, devices) = (network.bridge(), network.devices());
    format!(
        "table inet {name} {{
  set own4 {{ type ifname . ipv4_addr; }}
  set own6 {{ type ifname . ipv6_addr; }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname != \"{devices}\" accept
    icmp type redirect drop
    meta nfproto ipv4 iifname . ip saddr != @own4 drop
    icmpv6 type {{ nd-router-advert, nd-redirect }} drop
    ip6 saddr :: icmpv6 type {{ nd-neighbor-solicit, nd-router-solicit, mld2-listener-report }} accept
    meta nfproto ipv6 iifname . ip6 saddr != @own6 drop
  }}
}}
"
    )
}

/// A table of the bridge family. Its first two rules decide nothing that the others would not: most packets are through
/// with one look at a set.
fn bridged(network: &Definition, elements: &str) -> String {
    let (name, number) = (network.bridge(), network.number);
    format!(
        "table bridge {name} {{
  set own {{ type ifname . ether_addr; }}
  set own4 {{ type ifname . ether_addr . ipv4_addr; }}
  set own6 {{ type ifname . ether_addr . ipv6_addr; }}
  set neighbour6 {{ typeof iifname . @th,64,128; }}
  chain guard {{
    type filter hook prerouting priority dstnat; policy accept;
    ether type ip iifname . ether saddr . ip saddr @own4 accept
    ip6 nexthdr {{ tcp, udp }} iifname . ether saddr . ip6 saddr @own6 accept
    iifname != \"vx{number}p*\" accept
    iifname . ether saddr != @own drop
    ether type arp iifname . arp saddr ether . arp saddr ip != @own4 drop
    ether type arp accept
    ether type ip iifname . ether saddr . ip saddr != @own4 drop
    ether type ip accept
    ether type != ip6 drop
    icmpv6 type {{ nd-router-advert, nd-redirect }} drop
    icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @neighbour6 drop
    ip6 saddr :: icmpv6 type {{ nd-neighbor-solicit, nd-router-solicit, mld2-listener-report }} accept
    iifname . ether saddr . ip6 saddr != @own6 drop
  }}
}}
{elements}"
    )
}

/// The commands that let the ports of these numbers send.
pub(crate) fn elements(network: &Definition, leases: impl Iterator<Item = u32>) -> String {
    let (mut own, mut own4, mut own6, mut neighbour6) =
        (String::new(), String::new(), String::new(), String::new());
    for lease in leases {
        let (port, bytes) = (network.port(lease), network.mac(lease));
        // A routed one has the port alone: see `routed`.
        let holder = match network.is_routed() {
            true => format!("\"{port}\""),
            false => format!("\"{port}\" . {}", mac(bytes)),
        };
        // Writing to a string cannot fail.
        let _ = write!(own, "{holder}, ");
        let link_local = IpAddr::V6(link_local(bytes));
        for address in network.addresses(lease).into_iter().chain([link_local]) {
            let _ = write!(if address.is_ipv4() { &mut own4 } else { &mut own6 }, "{holder} . {address}, ");
            if let IpAddr::V6(address) = address {
                let _ = write!(neighbour6, "\"{port}\" . {:#034x}, ", address.to_bits());
            }
        }
    }
    let (table, family) = (network.bridge(), if network.is_routed() { "inet" } else { "bridge" });
    let sets = [("own4", own4), ("own6", own6), ("own", own), ("neighbour6", neighbour6)];
    let sets = sets.into_iter().take(if network.is_routed() { 2 } else { 4 });
    let filled = sets.filter(|(_, elements)| !elements.is_empty());
    filled.map(|(set, elements)| format!("add element {family} {table} {set} {{ {elements} }}\n")).collect()
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The address that the kernel makes of a MAC address (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_holds_the_mac_address() {
        assert_eq!(link_local([2, 0, 1, 0, 0, 2]).to_string(), "fe80::1ff:fe00:2");
    }
}
