//! The words and options of `vctx network`; part of `args.rs`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use vctx_netns::Subnet;
use vctx_netns::network::Driver;

/// `vctx network` and its own verb.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    #[command(subcommand)]
    pub(crate) verb: NetworkVerb,
}

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// Define a network; its bridge and rules are made when the first context comes.
    Create(NetworkCreateArgs),
    /// List the networks.
    #[command(visible_alias = "list")]
    Ls(NetworkLsArgs),
    /// Remove networks that no running context uses, with their bridges and rules.
    #[command(visible_alias = "remove")]
    Rm(NetworkNames),
    /// Print networks and who has which address, as JSON.
    Inspect(NetworkNames),
    /// Repair: give back what dead contexts have left, and make missing bridges and rules of used networks anew.
    Prune,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkCreateArgs {
    /// What its devices are: bridge, routed (point to point, no bridge) or macvlan (parts of a device of this machine).
    #[arg(long, value_name = "KIND", default_value_t)]
    pub(crate) kind: Driver,
    /// Device of this machine by which its contexts have addresses of their own outside; not with a bridge.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) parent: Option<String>,
    /// Part of a subnet from which contexts get addresses, where others have the rest; with macvlan.
    #[arg(long, value_name = "SUBNET")]
    pub(crate) range: Option<Subnet>,
    /// Router to the outside, once for each family [default: none]; with macvlan.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) gateway: Vec<IpAddr>,
    /// Subnet, such as 10.1.2.0/24 or fd00:1::/64; once for each family [default: a free one of each].
    #[arg(long, value_name = "SUBNET")]
    pub(crate) subnet: Vec<Subnet>,
    /// Reach nothing beyond this machine.
    #[arg(long)]
    pub(crate) internal: bool,
    /// Largest packet in bytes.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub(crate) mtu: Option<u32>,
    /// Name of the network.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkLsArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the names only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkNames {
    /// Names of networks.
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}
