//! The idmapped mounts of a configuration (runtime-spec, "Mounts"), made before the child: in a user namespace it could
//! not make them.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Spec;
use vctx_context::idmap::{self, Mapped, Mappings};
use vctx_context::namespace::Kind;

use crate::host::{Host, ranges};
use crate::plan::root::{flow, options_of};
use crate::{Error, Result};

/// The detached trees, by the index of their mount. Mounts with the same mapping share a user namespace.
pub(crate) fn trees(spec: &Spec, host: &Host) -> Result<Vec<(usize, OwnedFd)>> {
    let mut namespaces: Vec<(Mappings, OwnedFd)> = Vec::new();
    let mut trees = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let options = options_of(mount);
        let own = mount.uid_mappings().is_some();
        if !own && options.idmap.is_none() {
            continue;
        }
        let mappings = if own {
            let (users, groups) = (mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref());
            Some(Mappings { users: ranges(users), groups: ranges(groups) })
        } else {
            host.mappings.clone()
        };
        let namespace = match mappings {
            Some(mappings) => {
                if !namespaces.iter().any(|(known, _)| *known == mappings) {
                    let made = idmap::namespace(&mappings, host.privileged)?;
                    namespaces.push((mappings.clone(), made));
                }
                namespaces.iter().find(|(known, _)| *known == mappings).map(|(_, made)| made.as_fd())
            }
            // The context joins a user namespace: its mapping is the one that is meant.
            None => host.joined.iter().find(|one| one.kind == Kind::User).map(|one| one.as_fd()),
        };
        let field = |name: &str| format!("mounts[{index}].{name}");
        let namespace = namespace.ok_or_else(|| {
            Error::invalid(field("options"), "asks for an idmapped mount, and there is no user namespace")
        })?;
        let path = mount.source().as_ref().ok_or_else(|| Error::invalid(field("source"), "is missing"))?;
        let mapped = Mapped {
            path,
            namespace,
            recursive: options.recursive,
            map_below: options.idmap.unwrap_or(false),
            propagation: flow(spec),
        };
        trees.push((index, mapped.tree()?));
    }
    Ok(trees)
}
