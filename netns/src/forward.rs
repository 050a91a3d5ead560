//! What others have decided about packets that the machine passes on. Docker sets the policy of iptables' chain FORWARD to
//! DROP when it is the first to switch forwarding on, and leaves it so when it ends; a verdict in our own table cannot
//! overrule that.
//!
//! Where the policy is DROP, a network gets a chain of its own in iptables' table `filter`, and one
//! jump to it at the end of FORWARD, behind the rules of everybody else: what somebody has said about a packet holds, and
//! only what nobody has spoken of passes. No chain of another tool is touched, DOCKER-USER among them. What may come in is
//! kept by our own table. An internal network needs it as well: where the kernel shows bridged packets to these rules
//! (br_netfilter, which is there with Docker), its contexts would lose each other.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::network::Definition;
use crate::{Error, Result};

/// Lets what a network sends and is answered pass, where it would be dropped for want of a rule.
///
/// # Errors
///
/// iptables refuses.
pub(crate) fn admit(network: &Definition) -> Result<()> {
    let chain = network.bridge();
    // What nft ends in a star, iptables ends in a plus.
    let device = network.devices().replace('*', "+");
    for family in families(network) {
        let Some(rules) = family.rules() else { continue };
        if !rules.lines().any(|line| line == "-P FORWARD DROP") || has_jump(&rules, &chain) {
            continue;
        }
        let passes = match network.internal {
            true => format!("-A {chain} -i {device} -o {device} -j ACCEPT"),
            false => format!("-A {chain} -i {device} -j ACCEPT\n-A {chain} -o {device} -j ACCEPT"),
        };
        let change = format!("*filter\n:{chain} - [0:0]\n{passes}\n-A FORWARD -j {chain}\nCOMMIT\n");
        family.restore(network, &change)?;
    }
    Ok(())
}

/// Takes away what `admit` has added.
///
/// # Errors
///
/// iptables refuses.
pub(crate) fn withdraw(network: &Definition) -> Result<()> {
    let chain = network.bridge();
    for family in families(network) {
        if family.rules().is_some_and(|rules| has_jump(&rules, &chain)) {
            let change = format!("*filter\n-D FORWARD -j {chain}\n-F {chain}\n-X {chain}\nCOMMIT\n");
            family.restore(network, &change)?;
        }
    }
    Ok(())
}

fn has_jump(rules: &str, chain: &str) -> bool {
    rules.lines().any(|line| line == format!("-A FORWARD -j {chain}"))
}

/// The programs of one family. A machine without them has nobody who uses them either.
#[derive(Clone, Copy)]
struct Family {
    program: &'static str,
    restore: &'static str,
}

fn families(network: &Definition) -> impl Iterator<Item = Family> {
    let four = Family { program: "/usr/sbin/iptables", restore: "/usr/sbin/iptables-restore" };
    let six = Family { program: "/usr/sbin/ip6tables", restore: "/usr/sbin/ip6tables-restore" };
    let subnets: Vec<Family> =
        network.subnets().map(|subnet| if subnet.is_v4() { four } else { six }).collect();
    subnets.into_iter().filter(|family| Path::new(family.program).exists())
}

impl Family {
    /// The chain FORWARD as `iptables -S` writes it; none where the kernel has no such table.
    fn rules(self) -> Option<String> {
        let output = Command::new(self.program)
            .args(["--wait", "5", "--list-rules", "FORWARD"])
            .stdin(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One transaction: all of it or nothing.
    fn restore(self, network: &Definition, change: &str) -> Result<()> {
        let failed = |message: String| Error::Iptables { name: network.name.clone(), message };
        let run = || -> io::Result<std::process::Output> {
            let mut child = Command::new(self.restore)
                .args(["--wait", "5", "--noflush"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            // One that has gone says why below.
            let _ = child.stdin.take().map(|mut pipe| pipe.write_all(change.as_bytes()));
            child.wait_with_output()
        };
        let output = run().map_err(|error| failed(error.to_string()))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                Err(failed(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().into()))
            }
        }
    }
}
