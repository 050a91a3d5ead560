//! `vctx network`: define networks, show them, remove them, repair them.

use std::collections::HashMap;

use serde_json::{Value, json};
use vctx_netns::network::{DEFAULT, Definition, GATEWAY, Wanted};
use vctx_runtime::network::prune;

use crate::args::Global;
use crate::create::{networks, store};
use crate::error::Error;
use crate::exit::ExitCode;
use crate::network_args::{NetworkCreateArgs, NetworkLsArgs, NetworkVerb};
use crate::output;

/// Runs the verb.
pub(crate) fn run(global: &Global, verb: NetworkVerb) -> Result<ExitCode, Error> {
    match verb {
        NetworkVerb::Create(args) => create(global, args)?,
        NetworkVerb::Ls(args) => ls(global, &args)?,
        NetworkVerb::Rm(args) => {
            let store = store(global);
            for name in args.names {
                networks(global).remove(&name, |id, lease| store.holds_lease(id, &name, lease))?;
                output::text(&format!("{name}\n"))?;
            }
        }
        NetworkVerb::Inspect(args) => {
            let all: Result<Vec<Value>, Error> =
                args.names.iter().map(|name| inspect(global, name)).collect();
            output::json(&all?)?;
        }
        NetworkVerb::Prune => {
            for line in prune(&store(global), &networks(global))? {
                output::text(&format!("{line}\n"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(global: &Global, args: NetworkCreateArgs) -> Result<(), Error> {
    let NetworkCreateArgs { subnet, internal, mtu, name } = args;
    let made = networks(global).create(&Wanted { name, subnets: subnet, internal, mtu })?;
    output::text(&format!("{}\n", made.name))
}

fn ls(global: &Global, args: &NetworkLsArgs) -> Result<(), Error> {
    let all = networks(global).list()?;
    if args.quiet {
        return output::text(&all.iter().map(|one| format!("{}\n", one.name)).collect::<String>());
    }
    if args.json {
        return output::json(&all.iter().map(describe).collect::<Vec<_>>());
    }
    let heading = ["NAME", "BRIDGE", "SUBNETS", "REACH"].map(str::to_owned).to_vec();
    let row = |one: &Definition| {
        let subnets: Vec<String> = one.subnets().map(|subnet| subnet.to_string()).collect();
        let reach = if one.internal { "internal" } else { "outside" };
        vec![one.name.clone(), one.bridge(), subnets.join(","), reach.into()]
    };
    let rows: Vec<_> = [heading].into_iter().chain(all.iter().map(row)).collect();
    output::table(&rows)
}

fn describe(network: &Definition) -> Value {
    json!({
        "name": network.name,
        "default": network.name == DEFAULT,
        "driver": "bridge",
        "bridge": network.bridge(),
        "subnets": network.subnets().collect::<Vec<_>>(),
        "gateways": network.addresses(GATEWAY),
        "internal": network.internal,
        "mtu": network.mtu,
    })
}

fn inspect(global: &Global, name: &str) -> Result<Value, Error> {
    let (store, networks) = (store(global), networks(global));
    let network = networks.open(name)?;
    let pool = networks.pool(name);
    let leases = pool.leases(&pool.lock()?)?;
    let contexts: HashMap<String, Value> = leases
        .into_iter()
        .map(|(lease, id)| {
            let alive = store.holds_lease(&id, name, lease);
            let about = json!({
                "addresses": network.addresses(lease), "port": network.port(lease), "running": alive,
            });
            (id, about)
        })
        .collect();
    let mut value = describe(&network);
    value["contexts"] = json!(contexts);
    Ok(value)
}
