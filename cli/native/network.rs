//! The network that a context is attached to, from `--net` and the options beside it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use vctx_context::namespace::Joined;
use vctx_netns::Network;
use vctx_netns::network::{DEFAULT, Driver};
use vctx_netns::rate::Rates;
use vctx_netns::resolver::{Reach, hosts, is_lost, usual};
use vctx_runtime::network::{Wanted, join};

use super::NativeError;
use super::ids::Ids;
use crate::args::Global;
use crate::create::{networks, store};
use crate::error::Error;
use crate::run_args::{Mounts, RunArgs};

/// Files in the folder of a context's state.
const RESOLV_CONF: &str = "own.resolv.conf";
const HOSTS: &str = "own.hosts";

/// The network of ours that is asked for, if one is.
pub(super) fn wanted(global: &Global, args: &RunArgs, name: &str) -> Result<Option<Wanted>, Error> {
    if args.mounts.net == Network::Shared && args.mounts.publish.is_empty() && args.mounts.net_rate.is_none()
    {
        return Ok(None);
    }
    if let Network::Cni(_) | Network::Program(_) = &args.mounts.net {
        return if args.mounts.net_rate.is_none() {
            Ok(None)
        } else {
            Err(NativeError::NoDeviceToHold.into())
        };
    }
    let Network::Named(network) = &args.mounts.net else {
        return match &*args.mounts {
            Mounts { net_rate: Some(_), .. } => Err(NativeError::NoDeviceToHold.into()),
            mounts if !mounts.publish.is_empty() => Err(NativeError::NeedsNetwork("--publish").into()),
            mounts if !mounts.ip.is_empty() => Err(NativeError::NeedsNetwork("--ip").into()),
            _ => Ok(None),
        };
    };
    if !super::is_root() {
        // The default network has its counterpart in `outer`.
        let needs_root = NativeError::NeedsRoot("--net with a network of ours");
        let may_be = network == DEFAULT && args.mounts.net_rate.is_none();
        return if may_be { Ok(None) } else { Err(needs_root.into()) };
    }
    let networks = networks(global);
    let definition = networks.open(network)?;
    if definition.driver == Driver::Macvlan && !args.mounts.publish.is_empty() {
        return Err(vctx_netns::Error::NoPorts(definition.name).into());
    }
    if definition.driver == Driver::Macvlan && args.mounts.net_rate.is_some() {
        return Err(NativeError::NoDeviceToHold.into());
    }
    let leases: Vec<u32> =
        args.mounts.ip.iter().map(|address| definition.lease_of(*address)).collect::<Result<_, _>>()?;
    if leases.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(NativeError::TwoNumbers.into());
    }
    let hostname = args.process.hostname.iter().filter(|hostname| *hostname != name);
    let names = std::iter::once(name.to_owned()).chain(hostname.cloned()).collect();
    Ok(Some(Wanted {
        networks,
        definition,
        address: args.mounts.ip.first().copied(),
        names,
        entries: args.mounts.add_host.clone(),
        ports: args.mounts.publish.clone(),
        rates: args.mounts.net_rate.unwrap_or_default().applied_to(Rates::default()),
    }))
}

/// The addresses of the host that the context is held to.
pub(super) fn shared(args: &RunArgs) -> Result<Vec<IpAddr>, Error> {
    match &args.mounts.net {
        Network::Shared if !super::is_root() => Err(NativeError::NeedsRoot("--net shared").into()),
        Network::Shared if args.mounts.ip.is_empty() => Err(NativeError::NoSharedAddress.into()),
        // One of version 4 in the clothes of version 6 is what it is.
        Network::Shared => Ok(args.mounts.ip.iter().map(IpAddr::to_canonical).collect()),
        _ => Ok(Vec::new()),
    }
}

/// The network namespace of somebody else that the context joins, and its path.
pub(super) fn joined(global: &Global, args: &RunArgs, ids: &Ids) -> Result<Option<(Joined, PathBuf)>, Error> {
    match &args.mounts.net {
        Network::Namespace(_) | Network::Context(_) if ids.mappings.is_some() => {
            Err(NativeError::NeedsRoot("--net with another's namespace").into())
        }
        Network::Namespace(path) => Ok(Some((join::of_path(path)?, path.clone()))),
        Network::Context(id) => Ok(Some(join::of_context(&store(global), id)?)),
        _ => Ok(None),
    }
}

/// The files of its network that a context sees: where, and what.
pub(super) fn files(
    global: &Global,
    args: &RunArgs,
    name: &str,
) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    Ok(match &args.mounts.net {
        Network::Named(network) if super::is_root() => {
            let pool = networks(global).pool(network);
            let own = !args.mounts.add_host.is_empty();
            let hosts = if own { pool.own_hosts(name) } else { pool.hosts() };
            vec![("/etc/hosts", hosts), ("/etc/resolv.conf", pool.resolv_conf())]
        }
        Network::Context(id) => join::files_of(&store(global), id)?,
        _ => Vec::new(),
    })
}

/// Puts what a context asks for beside its network in place of what the network gives: files of its own, in the folder of
/// its state.
pub(super) fn put_own(files: &mut Vec<(&'static str, PathBuf)>, folder: &Path, args: &RunArgs) {
    for (file, _) in made(args) {
        let place = if file == HOSTS { "/etc/hosts" } else { "/etc/resolv.conf" };
        files.retain(|(before, _)| *before != place);
        files.push((place, folder.join(file)));
    }
}

/// The files that are written for this context: name and content.
pub(super) fn made(args: &RunArgs) -> Vec<(String, String)> {
    let net = &args.mounts.net;
    let reach = if *net == Network::Host { Reach::All } else { Reach::NoLoopback };
    let asked = args.mounts.resolver();
    let mut files = Vec::new();
    // A context that shares the host's network has the host's file, and may not reach the servers that it names.
    if !asked.is_none() || (*net == Network::Shared && usual(Reach::All) != usual(Reach::NoLoopback)) {
        files.push((RESOLV_CONF.to_owned(), asked.file(reach)));
    }
    let entries = &args.mounts.add_host;
    // A network of ours has the names in the file that it keeps.
    let kept = matches!(net, Network::Named(_)) && super::is_root();
    if !entries.is_empty() && !kept {
        let reach = if *net == Network::Shared { Reach::All } else { reach };
        files.push((HOSTS.to_owned(), hosts(reach, entries)));
    }
    files
}

/// What it will do without.
pub(super) fn warnings(args: &RunArgs) -> Vec<vctx_runtime::Error> {
    let reaches_out = matches!(args.mounts.net, Network::Named(_) | Network::Shared);
    match reaches_out && super::is_root() && args.mounts.dns.is_empty() && is_lost() {
        true => vec![vctx_netns::Error::NoNameServer.into()],
        false => Vec::new(),
    }
}
