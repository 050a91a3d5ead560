//! firewalld refuses what comes from a device that it has in no zone; where the kernel shows bridged packets to the rules
//! (br_netfilter), also what the contexts of one network send to each other. A verdict of ours overrules none of its.
//!
//! So where its table is there, the devices of a network are put into its zone `trusted`, in what it has stored as well:
//! a reload forgets the rest. That zone would also open the machine itself to the contexts, so our own table keeps it shut.
//! A zone that somebody else has chosen holds, and nothing of this is done.

use std::process::{Command, Stdio};

use crate::network::Definition;
use crate::{Error, Result, rules};

const ZONE: &str = "trusted";

/// Puts the devices of a network into the zone. They are in it, and the machine is to be kept shut ([`text`]).
///
/// # Errors
///
/// firewalld does not answer, or refuses.
pub(crate) fn admit(network: &Definition) -> Result<bool> {
    let refused = |message: String| Error::Firewalld { name: network.name.clone(), message };
    if !is_there(network)? {
        return Ok(false);
    }
    let devices = devices(network);
    let now = zone_of(&devices).map_err(refused)?;
    if now.is_some() {
        return Ok(now.as_deref() == Some(ZONE));
    }
    // What is stored comes first: one that is in the zone now is in the stored one too.
    let add = format!("--add-interface={devices}");
    ask(&["--permanent", "--zone", ZONE, &add]).map_err(refused)?;
    ask(&["--zone", ZONE, &add]).map_err(refused)?;
    Ok(true)
}

/// Takes the devices out of the zone. One that stays there means nothing without its network.
pub(crate) fn withdraw(network: &Definition) {
    let devices = devices(network);
    if is_there(network).unwrap_or(false) && zone_of(&devices).is_ok_and(|zone| zone.as_deref() == Some(ZONE))
    {
        let remove = format!("--remove-interface={devices}");
        let _ = ask(&["--permanent", "--zone", ZONE, &remove]);
        let _ = ask(&["--zone", ZONE, &remove]);
    }
}

/// What keeps the machine shut, to be added to the table of the network. Again does no harm.
pub(crate) fn text(network: &Definition) -> String {
    let (table, devices) = (network.bridge(), network.devices());
    let chain = |rules: &str| format!("table inet {table} {{\n  chain machine {{\n{rules}  }}\n}}\n");
    let empty = chain("    type filter hook input priority filter; policy accept;\n");
    let rules = chain(&format!(
        "    iifname \"{devices}\" ct state established,related accept
    iifname \"{devices}\" meta l4proto {{ icmp, icmpv6 }} accept
    iifname \"{devices}\" reject with icmpx admin-prohibited
"
    ));
    format!("{empty}flush chain inet {table} machine\n{rules}")
}

/// Asked of the kernel, so that a machine without it waits for no program; and of this namespace.
fn is_there(network: &Definition) -> Result<bool> {
    rules::has_table("firewalld").map_err(Error::link("ask for the rules of", &network.bridge()))
}

/// What nft ends in a star, firewalld ends in a plus.
fn devices(network: &Definition) -> String {
    network.devices().replace('*', "+")
}

fn zone_of(devices: &str) -> std::result::Result<Option<String>, String> {
    match ask(&[&format!("--get-zone-of-interface={devices}")]) {
        Ok(zone) => Ok(Some(zone)),
        Err(message) if message == "no zone" => Ok(None),
        Err(message) => Err(message),
    }
}

/// Gives the first line of what it says, on failure as well.
fn ask(arguments: &[&str]) -> std::result::Result<String, String> {
    let run = Command::new("/usr/bin/firewall-cmd").args(arguments).stdin(Stdio::null()).output();
    let output = run.map_err(|error| format!("firewall-cmd: {error}"))?;
    let said = [&output.stdout, &output.stderr].into_iter().find(|text| !text.is_empty());
    let said = said.map(|text| String::from_utf8_lossy(text).lines().next().unwrap_or_default().to_owned());
    let said = said.unwrap_or_default();
    if output.status.success() { Ok(said) } else { Err(said) }
}
