//! What keeps a context to its own addresses: rules at the ports of the bridge, so that not even one with CAP_NET_RAW or
//! CAP_NET_ADMIN can pass for another. Who may send what is a function of the port, so all of it is written once, when the
//! network comes up, for every number that a start can get.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

use crate::network::Definition;

/// The table of the bridge family, with the elements of the usual numbers.
pub(crate) fn text(network: &Definition) -> String {
    let (name, number) = (network.bridge(), network.number);
    format!(
        "table bridge {name} {{
  set own {{ type ifname . ether_addr; }}
  set own4 {{ type ifname . ether_addr . ipv4_addr; }}
  set own6 {{ type ifname . ether_addr . ipv6_addr; }}
  set neighbour6 {{ typeof iifname . @th,64,128; }}
  chain guard {{
    type filter hook prerouting priority dstnat; policy accept;
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
{elements}",
        elements = elements(network, network.usual())
    )
}

/// The commands that let the ports of these numbers send.
pub(crate) fn elements(network: &Definition, leases: impl Iterator<Item = u32>) -> String {
    let (mut own, mut own4, mut own6, mut neighbour6) =
        (String::new(), String::new(), String::new(), String::new());
    for lease in leases {
        let port = network.port(lease);
        let mac = mac(network.mac(lease));
        // Writing to a string cannot fail.
        let _ = write!(own, "\"{port}\" . {mac}, ");
        let link_local = link_local(network.mac(lease));
        for address in network.addresses(lease).into_iter().chain([IpAddr::V6(link_local)]) {
            match address {
                IpAddr::V4(address) => {
                    let _ = write!(own4, "\"{port}\" . {mac} . {address}, ");
                }
                IpAddr::V6(address) => {
                    let _ = write!(own6, "\"{port}\" . {mac} . {address}, ");
                    let _ = write!(neighbour6, "\"{port}\" . {:#034x}, ", address.to_bits());
                }
            }
        }
    }
    let bridge = network.bridge();
    let sets = [("own", own), ("own4", own4), ("own6", own6), ("neighbour6", neighbour6)];
    let filled = sets.into_iter().filter(|(_, elements)| !elements.is_empty());
    filled.map(|(set, elements)| format!("add element bridge {bridge} {set} {{ {elements} }}\n")).collect()
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
