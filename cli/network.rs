//! `vctx network`: define networks, show them, remove them, repair them.

use std::collections::HashMap;

use serde_json::{Value, json};
use vctx_netns::cni::Configuration;
use vctx_netns::network::{DEFAULT, Definition, Driver, GATEWAY, Wanted};
use vctx_runtime::network::{Repair, prune};

use crate::args::Global;
use crate::create::{networks, store};
use crate::error::Error;
use crate::exit::ExitCode;
use crate::log::Log;
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
                if let Some(configuration) = cni(&name)? {
                    return Err(Error::OthersNetwork { name, path: configuration.file });
                }
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
            let Repair { done, mut failed } = prune(&store(global), &networks(global))?;
            for line in done {
                output::text(&format!("{line}\n"))?;
            }
            let last = failed.pop();
            Log::new(global).warnings(&failed);
            last.map_or(Ok(()), Err)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(global: &Global, args: NetworkCreateArgs) -> Result<(), Error> {
    let NetworkCreateArgs { kind, parent, range, gateway, subnet, internal, mtu, name } = args;
    let wanted =
        Wanted { name, subnets: subnet, internal, mtu, driver: kind, parent, range, gateways: gateway };
    let made = networks(global).create(&wanted)?;
    output::text(&format!("{}\n", made.name))
}

fn ls(global: &Global, args: &NetworkLsArgs) -> Result<(), Error> {
    let all = networks(global).list()?;
    if args.quiet {
        return output::text(&all.iter().map(|one| format!("{}\n", one.name)).collect::<String>());
    }
    let others = Configuration::list();
    if args.json {
        let all = all.iter().map(describe).chain(others.iter().map(describe_other));
        return output::json(&all.collect::<Vec<_>>());
    }
    let heading = ["NAME", "KIND", "DEVICE", "SUBNETS", "REACH"].map(str::to_owned).to_vec();
    let row = |one: &Definition| {
        let subnets: Vec<String> = one.subnets().map(|subnet| subnet.to_string()).collect();
        let reach = if one.internal { "internal" } else { "outside" };
        vec![one.name.clone(), one.driver.to_string(), device(one), subnets.join(","), reach.into()]
    };
    let other = |one: &Configuration| {
        vec![format!("cni:{}", one.name), "cni".into(), String::new(), String::new(), String::new()]
    };
    let rows = [heading].into_iter().chain(all.iter().map(row)).chain(others.iter().map(other));
    let rows: Vec<_> = rows.collect();
    output::table(&rows)
}

/// What it stands on: its bridge, or a device of the machine.
fn device(network: &Definition) -> String {
    match (network.driver, &network.parent) {
        (Driver::Bridge, _) => network.bridge(),
        (_, parent) => parent.clone().unwrap_or_default(),
    }
}

fn describe(network: &Definition) -> Value {
    let gateways = match network.driver {
        Driver::Macvlan => network.gateways.clone(),
        _ => network.addresses(GATEWAY),
    };
    json!({
        "name": network.name,
        "default": network.name == DEFAULT,
        "driver": network.driver,
        "bridge": (network.driver == Driver::Bridge).then(|| network.bridge()),
        "parent": network.parent,
        "range": network.range,
        "subnets": network.subnets().collect::<Vec<_>>(),
        "gateways": gateways,
        "internal": network.internal,
        "mtu": network.mtu,
    })
}

/// What only its plugins know all of.
fn describe_other(configuration: &Configuration) -> Value {
    json!({
        "name": format!("cni:{}", configuration.name),
        "driver": "cni",
        "file": configuration.file,
        "plugins": configuration.kinds(),
    })
}

/// The configuration of plugins that a name means, if it means one.
fn cni(name: &str) -> Result<Option<Configuration>, Error> {
    Ok(name.strip_prefix("cni:").map(Configuration::find).transpose()?)
}

fn inspect(global: &Global, name: &str) -> Result<Value, Error> {
    if let Some(configuration) = cni(name)? {
        let mut value = describe_other(&configuration);
        let all = networks(global).attachments().list()?.into_iter();
        let of_it = all.filter(|one| one.configuration.name == configuration.name);
        let contexts: HashMap<String, Value> = of_it
            .map(|one| {
                let about =
                    json!({ "addresses": one.addresses(), "running": store(global).is_alive(&one.id) });
                (one.id, about)
            })
            .collect();
        value["contexts"] = json!(contexts);
        return Ok(value);
    }
    let (store, networks) = (store(global), networks(global));
    let network = networks.open(name)?;
    let pool = networks.pool(name);
    let leases = pool.leases(&pool.lock()?)?;
    let contexts: HashMap<String, Value> = leases
        .into_iter()
        .map(|(lease, id)| {
            let alive = store.holds_lease(&id, name, lease);
            let about = json!({
                "addresses": network.addresses(lease), "running": alive,
                "port": (network.driver != Driver::Macvlan).then(|| network.port(lease)),
            });
            (id, about)
        })
        .collect();
    let mut value = describe(&network);
    value["contexts"] = json!(contexts);
    Ok(value)
}
