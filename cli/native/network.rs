//! The network that a context is attached to, from `--net` and the options beside it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use vctx_context::namespace::Joined;
use vctx_netns::Network;
use vctx_netns::network::{DEFAULT, Driver};
use vctx_runtime::network::{Wanted, join};

use super::NativeError;
use super::ids::Ids;
use crate::args::Global;
use crate::create::{networks, store};
use crate::error::Error;
use crate::run_args::{Mounts, RunArgs};

/// The network of ours that is asked for, if one is.
pub(super) fn wanted(global: &Global, args: &RunArgs, name: &str) -> Result<Option<Wanted>, Error> {
    if args.mounts.net == Network::Shared && args.mounts.publish.is_empty() {
        return Ok(None);
    }
    if let Network::Cni(_) | Network::Program(_) = &args.mounts.net {
        return Ok(None);
    }
    let Network::Named(network) = &args.mounts.net else {
        return match &*args.mounts {
            Mounts { ip: Some(_), .. } => Err(NativeError::NeedsNetwork("--ip").into()),
            mounts if !mounts.publish.is_empty() => Err(NativeError::NeedsNetwork("--publish").into()),
            _ => Ok(None),
        };
    };
    if !super::is_root() {
        // The default network has its counterpart in `outer`.
        let needs_root = NativeError::NeedsRoot("--net with a network of ours");
        return if network == DEFAULT { Ok(None) } else { Err(needs_root.into()) };
    }
    let networks = networks(global);
    let definition = networks.open(network)?;
    if definition.driver == Driver::Macvlan && !args.mounts.publish.is_empty() {
        return Err(vctx_netns::Error::NoPorts(definition.name).into());
    }
    if let Some(address) = args.mounts.ip {
        definition.lease_of(address)?;
    }
    let hostname = args.process.hostname.iter().filter(|hostname| *hostname != name);
    let names = std::iter::once(name.to_owned()).chain(hostname.cloned()).collect();
    Ok(Some(Wanted {
        networks,
        definition,
        address: args.mounts.ip,
        names,
        ports: args.mounts.publish.clone(),
    }))
}

/// The address of the host that the context is held to.
pub(super) fn shared(args: &RunArgs) -> Result<Option<Ipv4Addr>, Error> {
    match (&args.mounts.net, args.mounts.ip) {
        (Network::Shared, _) if !super::is_root() => Err(NativeError::NeedsRoot("--net shared").into()),
        (Network::Shared, Some(IpAddr::V4(address))) => Ok(Some(address)),
        (Network::Shared, _) => Err(NativeError::NoSharedAddress.into()),
        _ => Ok(None),
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
pub(super) fn files(global: &Global, args: &RunArgs) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    match &args.mounts.net {
        Network::Named(network) if super::is_root() => {
            let pool = networks(global).pool(network);
            Ok(vec![("/etc/hosts", pool.hosts()), ("/etc/resolv.conf", pool.resolv_conf())])
        }
        Network::Context(id) => Ok(join::files_of(&store(global), id)?),
        _ => Ok(Vec::new()),
    }
}
