//! Networks that other programs make: plugins of CNI, and what ordinary users have in place of a bridge.

use vctx_netns::cni::Configuration;
use vctx_netns::network::DEFAULT;
use vctx_netns::usermode::Helper;
use vctx_netns::{Network, cni};
use vctx_runtime::network::outer::Wanted;

use super::NativeError;
use super::ids::Ids;
use crate::args::Global;
use crate::create::networks;
use crate::error::Error;
use crate::log::Log;
use crate::run_args::{Mounts, RunArgs};

/// The network of that kind that is asked for, if one is.
pub(super) fn wanted(
    global: &Global,
    args: &RunArgs,
    name: &str,
    ids: &Ids,
) -> Result<Option<Wanted>, Error> {
    let Mounts { net, publish, .. } = &*args.mounts;
    let is_ordinary = ids.mappings.is_some();
    let program = match net {
        Network::Cni(_) if is_ordinary => return Err(NativeError::NeedsRoot("--net cni:NAME").into()),
        Network::Cni(configuration) => return cni(global, args, name, configuration).map(Some),
        Network::Program(program) if !is_ordinary => {
            return Err(NativeError::ForOrdinaryUsers(program.name()).into());
        }
        Network::Program(program) => Some(*program),
        Network::Named(network) if is_ordinary && network == DEFAULT => None,
        _ => return Ok(None),
    };
    if !args.mounts.ip.is_empty() {
        return Err(NativeError::NeedsRoot("--ip").into());
    }
    match Helper::find(program, publish) {
        Ok(helper) => Ok(Some(Wanted::Helper(helper))),
        // Nothing but the way to the outside is lost, and that is told.
        Err(vctx_netns::Error::NoHelpers) if publish.is_empty() => {
            Log::new(global).warnings(&[vctx_netns::Error::LoopbackOnly.into()]);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn cni(global: &Global, args: &RunArgs, name: &str, configuration: &str) -> Result<Wanted, Error> {
    let configuration = Configuration::find(configuration)?;
    let Mounts { ip, publish, .. } = &*args.mounts;
    cni::check(&configuration, publish)?;
    let hostname = args.process.hostname.iter().filter(|hostname| *hostname != name);
    Ok(Wanted::Cni {
        attachments: networks(global).attachments(),
        configuration: Box::new(configuration),
        ports: publish.clone(),
        address: ip.first().copied(),
        names: std::iter::once(name.to_owned()).chain(hostname.cloned()).collect(),
    })
}

/// The files that a context has of it, in the folder of its state.
pub(super) fn files(wanted: &Wanted) -> &'static [(&'static str, &'static str)] {
    match wanted {
        Wanted::Cni { .. } => &[("/etc/hosts", "hosts"), ("/etc/resolv.conf", "resolv.conf")],
        Wanted::Helper(_) => &[("/etc/resolv.conf", "resolv.conf")],
    }
}
