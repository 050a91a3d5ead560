//! What can fail on a network: one variant a step, with the name or path that it failed on.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::Subnet;

/// A failed step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is not one.
    #[error(
        "{0:?} is no name of a network: lower-case letters, digits and _ - . make one, a letter first, 32 at most"
    )]
    Name(String),
    /// There is no such network.
    #[error(
        "there is no network {0:?}; `vctx network ls` shows those that there are, `vctx network create {0}` makes it"
    )]
    Absent(String),
    /// The name is taken.
    #[error("the network {0:?} exists already; remove it, or choose another name")]
    Exists(String),
    /// It is in use.
    #[error("the network {name:?} is in use by {}; delete them first", users.join(", "))]
    InUse {
        /// Its name.
        name: String,
        /// Ids of contexts.
        users: Vec<String>,
    },
    /// An option that another kind of network has.
    #[error("{option}: a {driver} network has no such thing; leave it out, or choose another --kind")]
    Unfit {
        /// As typed.
        option: &'static str,
        /// What the devices are.
        driver: crate::network::Driver,
    },
    /// A macvlan network needs a device.
    #[error("--kind macvlan needs --parent with a device of this machine, such as eth0")]
    NeedsParent,
    /// A network on a device needs the addresses that are known there.
    #[error("--parent needs --subnet, such as 192.168.1.0/24: the addresses that machines behind it know")]
    NeedsSubnet,
    /// There is no such device.
    #[error("--parent {0}: there is no such network device; `ip link` shows those that there are")]
    NoParent(String),
    /// The device is down.
    #[error(
        "the network device {0:?}, on which the network lies, is down; `ip link set {0} up` brings it up"
    )]
    ParentDown(String),
    /// The range lies elsewhere.
    #[error("--range {range}: is no part of {subnets} that contexts could have")]
    RangeOutside {
        /// As asked for.
        range: Subnet,
        /// The subnets of the network.
        subnets: String,
    },
    /// The router lies elsewhere.
    #[error("--gateway {gateway}: is no address of {subnets}")]
    GatewayOutside {
        /// As asked for.
        gateway: IpAddr,
        /// The subnets of the network.
        subnets: String,
    },
    /// Two routers of one family.
    #[error("--gateway: a network has one router of IPv4 and one of IPv6")]
    Gateways,
    /// An address that contexts would get is somebody else's.
    #[error(
        "{address} is this machine's or a router's: contexts need addresses that are nobody's; give another --subnet, or with --kind macvlan a --range of it"
    )]
    NotForContexts {
        /// The address.
        address: IpAddr,
    },
    /// A network without rules of ours leads no ports anywhere.
    #[error(
        "--publish: contexts of the macvlan network {0:?} are reached under their own addresses; leave it out"
    )]
    NoPorts(String),
    /// A subnet is too small.
    #[error("the subnet {0} is too small; four addresses are the least")]
    Small(Subnet),
    /// Two subnets of one family.
    #[error("{0} and {1} are of one family; a network has one subnet of IPv4 and one of IPv6")]
    Family(Subnet, Subnet),
    /// A subnet overlaps with what there is.
    #[error("the subnet {subnet} overlaps with {other}; choose another, or leave --subnet out")]
    Overlap {
        /// As asked for.
        subnet: Subnet,
        /// A network or a route, and what it is.
        other: String,
    },
    /// No subnet is free.
    #[error("no private subnet is free on this machine; give one with --subnet")]
    NoSubnet,
    /// All addresses are taken.
    #[error(
        "the network {0:?} has no free address; delete contexts, or make a network with a larger --subnet (a bridge has 1023 ports)"
    )]
    Exhausted(String),
    /// A wanted address is not of the network.
    #[error("--ip {address}: is not an address for contexts of the network {network:?}, which has {subnets}")]
    Foreign {
        /// As asked for.
        address: IpAddr,
        /// Name of the network.
        network: String,
        /// Its subnets.
        subnets: String,
    },
    /// A wanted address is taken.
    #[error("--ip {address}: is in use by {holder}")]
    Taken {
        /// As asked for.
        address: IpAddr,
        /// Who has it.
        holder: String,
    },
    /// An address is not the machine's.
    #[error(
        "--ip {0}: is no address of this machine beside its loopback; `ip address` shows them, `ip address add` makes one"
    )]
    NotLocal(IpAddr),
    /// A port is taken.
    #[error("--publish: the port {port} is in use by {holder}; choose another, or end that")]
    Port {
        /// Protocol and number.
        port: String,
        /// Who has it.
        holder: String,
    },
    /// A port of an address of a family that the network does not have.
    #[error("--publish {publish}: the network {network:?} has no subnet of that family")]
    PortFamily {
        /// As asked for.
        publish: String,
        /// Name of the network.
        network: String,
    },
    /// The program that an ordinary user's network needs is missing.
    #[error("--net {program}: the program is not there; install the package {package}")]
    NoHelper {
        /// Its name.
        program: &'static str,
        /// Who brings it.
        package: &'static str,
    },
    /// Neither of them is there.
    #[error(
        "neither pasta nor slirp4netns is there, one of which carries an ordinary user's network; install the package passt"
    )]
    NoHelpers,
    /// A warning.
    #[error(
        "--net: the context has its loopback only, for neither pasta nor slirp4netns is there, one of which carries an ordinary user's network; install the package passt"
    )]
    LoopbackOnly,
    /// slirp4netns knows version 4 only.
    #[error(
        "--publish {publish}: slirp4netns leads no ports of IPv6; install the package passt, or give an IPv4 address"
    )]
    HelperFamily {
        /// As asked for.
        publish: String,
    },
    /// The program cannot be run.
    #[error("cannot run {program}, which carries the network")]
    RunHelper {
        /// Its name.
        program: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// The program has ended at once, or refuses.
    #[error("{program}, which carries the network, fails: {message}")]
    HelperFailed {
        /// Its name.
        program: &'static str,
        /// What it says.
        message: String,
    },
    /// The program does not end.
    #[error("the process {0}, which carries the network, does not end")]
    HelperStays(i32),
    /// A port that is root's.
    #[error(
        "--publish: the port {0} is for root only; choose one from 1024 on, or lower net.ipv4.ip_unprivileged_port_start"
    )]
    LowPort(u16),
    /// A port that cannot be had.
    #[error("--publish {publish}: the port {port} cannot be had; choose another, or end who has it")]
    CannotBind {
        /// As asked for.
        publish: String,
        /// The port of the machine.
        port: u16,
        /// Cause.
        source: io::Error,
    },
    /// There is no such configuration of plugins.
    #[error(
        "--net cni:{name}: no configuration in {} has this name; `vctx network ls` shows those that there are", folder.display()
    )]
    NoConfiguration {
        /// As asked for.
        name: String,
        /// Where they lie.
        folder: PathBuf,
    },
    /// A configuration of plugins that we cannot use.
    #[error("{}: is no configuration of CNI that can be used: {reason}", path.display())]
    Configuration {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A plugin is missing.
    #[error(
        "the CNI plugin {plugin:?} is in none of {folders}; install the package containernetworking-plugins"
    )]
    NoPlugin {
        /// Its name.
        plugin: String,
        /// Where was looked.
        folders: String,
    },
    /// No plugin leads ports to a context.
    #[error(
        "--publish: no plugin of cni:{0} has the capability portMappings; leave it out, or add portmap there"
    )]
    NoPortMappings(String),
    /// A plugin cannot be run, or takes too long.
    #[error("the CNI plugin {plugin:?} does not end its {verb}")]
    Plugin {
        /// Its name.
        plugin: String,
        /// What it was asked.
        verb: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// A plugin refuses.
    #[error("the CNI plugin {plugin:?} fails at {verb}: {message}")]
    PluginSays {
        /// Its name.
        plugin: String,
        /// What it was asked.
        verb: &'static str,
        /// What it says.
        message: String,
    },
    /// A plugin prints something else.
    #[error("the CNI plugin {plugin:?} of cni:{name} succeeds, but prints no result")]
    Garbage {
        /// Its name.
        plugin: String,
        /// Name of the configuration.
        name: String,
    },
    /// What plugins have made could not be taken away.
    #[error("the network is not taken away; mend the plugin and try again, or remove {} to forget it", path.display())]
    Undeleted {
        /// Where it is written down.
        path: PathBuf,
        /// Cause.
        source: Box<Error>,
    },
    /// A file of a network.
    #[error("cannot {action} {}", path.display())]
    File {
        /// The verb of the sentence.
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A definition is not as we write it.
    #[error("the definition in {} is damaged; correct or remove it", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A setting of the kernel.
    #[error("cannot write {value} to {}, which networks need", path.display())]
    Sysctl {
        /// File below /proc/sys.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Cause.
        source: io::Error,
    },
    /// The kernel refuses a device, an address or a route.
    #[error("cannot {action} {name:?}")]
    Link {
        /// The verb of the sentence.
        action: &'static str,
        /// Name of the device.
        name: String,
        /// Cause.
        source: io::Error,
    },
    /// iptables refuses.
    #[error(
        "iptables refuses the rules of the network {name:?}, which the policy DROP of its chain FORWARD makes necessary: {message}"
    )]
    Iptables {
        /// Name of the network.
        name: String,
        /// First line of what it says.
        message: String,
    },
    /// firewalld refuses.
    #[error(
        "firewalld does not take the network {name:?} into its zone \"trusted\", and refuses what comes from it: {message}"
    )]
    Firewalld {
        /// Name of the network.
        name: String,
        /// First line of what it says.
        message: String,
    },
    /// No name server can be reached.
    #[error(
        "the context can ask no name server: /etc/resolv.conf of this machine names only its own loopback; give one with --dns"
    )]
    NoNameServer,
    /// The kernel does not hold a context to a rate.
    #[error(
        "--net-rate: the kernel does not hold {port:?} to it, for want of {part} perhaps; load its module, or leave the rate out"
    )]
    Rate {
        /// Name of the device.
        port: String,
        /// The part of the kernel that was asked.
        part: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// nft is missing.
    #[error("cannot run nft, which makes the rules of a network; install the package nftables")]
    NoNft(#[source] io::Error),
    /// nft refuses.
    #[error("nft refuses the rules of the network {name:?}: {message}")]
    Nft {
        /// Name of the network.
        name: String,
        /// First line of what it says.
        message: String,
    },
}

impl Error {
    /// For `map_err`: a file of a network.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { action, path, source }
    }

    /// For `map_err`: a device.
    pub(crate) fn link(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> Error {
        let name = name.to_owned();
        move |source| Error::Link { action, name, source }
    }
}
