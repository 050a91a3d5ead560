//! The network that a context is attached to, from `--net` and the options beside it.

use std::path::PathBuf;

use vctx_netns::Network;
use vctx_runtime::network::Wanted;

use super::NativeError;
use crate::args::Global;
use crate::create::networks;
use crate::error::Error;
use crate::run_args::RunArgs;

/// The network of ours that is asked for, if one is.
pub(super) fn wanted(global: &Global, args: &RunArgs, name: &str) -> Result<Option<Wanted>, Error> {
    let Network::Named(network) = &args.mounts.net else {
        return match args.mounts.ip {
            Some(_) => Err(NativeError::NeedsNetwork("--ip").into()),
            None => Ok(None),
        };
    };
    if !super::is_root() {
        return Err(NativeError::NeedsRoot("--net with a network of ours").into());
    }
    let networks = networks(global);
    let definition = networks.open(network)?;
    if let Some(address) = args.mounts.ip {
        definition.lease_of(address)?;
    }
    let hostname = args.process.hostname.iter().filter(|hostname| *hostname != name);
    let names = std::iter::once(name.to_owned()).chain(hostname.cloned()).collect();
    Ok(Some(Wanted { networks, definition, address: args.mounts.ip, names }))
}

/// The files of its network that a context sees: where, and what.
pub(super) fn files(global: &Global, args: &RunArgs) -> Vec<(&'static str, PathBuf)> {
    match &args.mounts.net {
        Network::Named(network) => {
            let pool = networks(global).pool(network);
            vec![("/etc/hosts", pool.hosts()), ("/etc/resolv.conf", pool.resolv_conf())]
        }
        _ => Vec::new(),
    }
}
