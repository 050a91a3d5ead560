//! What has to be known of the machine and of ourselves before a context is made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, Process, Spec};
use rustix::process::geteuid;
use vctx_context::cgroup::{Cgroup, Layout};
use vctx_context::idmap::{Mappings, Range};
use vctx_context::namespace::{Joined, Kind};
use vctx_context::spawn::Birth;
use vctx_context::{capability, procfs};

use crate::request::{Cgroups, Request};
use crate::{Error, Result};

/// What has to be known of the machine and of ourselves before anything is done.
pub(crate) struct Host {
    pub(crate) proc: OwnedFd,
    pub(crate) privileged: bool,
    pub(crate) kinds: Vec<(Kind, Option<PathBuf>)>,
    pub(crate) joined: Vec<Joined>,
    /// Mappings that we write for a new user namespace.
    pub(crate) mappings: Option<Mappings>,
    pub(crate) cgroup: Option<Cgroup>,
}

impl Host {
    pub(crate) fn look(request: &mut Request) -> Result<Host> {
        let mut network = request.joined.take();
        let spec = &request.config.spec;
        let kinds = crate::plan::namespaces(spec);
        let mut joined = Vec::new();
        for kind in Kind::ALL {
            if let Some((_, Some(path))) = kinds.iter().find(|(one, _)| *one == kind) {
                let opened = if kind == Kind::Network { network.take() } else { None };
                joined.push(opened.map_or_else(|| Joined::open(kind, path), Ok)?);
            }
        }
        let makes_user = kinds.iter().any(|(kind, path)| *kind == Kind::User && path.is_none());
        let cgroup = match request.cgroups {
            Cgroups::None => None,
            driver => {
                let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
                let path = path.map(|path| path.to_string_lossy());
                let plan = if driver == Cgroups::Systemd { Cgroup::plan_scope } else { Cgroup::plan };
                Some(plan(&Layout::detect()?, path.as_deref(), &request.id)?)
            }
        };
        Ok(Host {
            proc: procfs::open().map_err(Error::Proc)?,
            privileged: geteuid().is_root(),
            mappings: makes_user.then(|| mappings(spec)),
            kinds,
            joined,
            cgroup,
        })
    }

    /// A user namespace changes who may do what: everything is then joined before the clone, by a process of its own. And
    /// root of one cannot come back from another pid namespace.
    pub(crate) fn apart(&self) -> bool {
        let user = self.kinds.iter().any(|(kind, _)| *kind == Kind::User);
        let pid = self.joined.iter().any(|one| one.kind == Kind::Pid);
        (user && !self.joined.is_empty()) || (pid && !procfs::in_first_user_namespace())
    }

    pub(crate) fn birth<'a>(&'a self, cgroup: Option<&'a OwnedFd>) -> Birth<'a> {
        let made = |kind: Kind| self.kinds.iter().any(|(one, path)| *one == kind && path.is_none());
        let new = Kind::ALL
            .into_iter()
            // These two the child makes itself, when what they show has been set up.
            .filter(|kind| made(*kind) && !matches!(kind, Kind::Cgroup | Kind::Time))
            .fold(0, |flags, kind| flags | kind.flag());
        Birth {
            new,
            join: self.joined.iter().filter(|one| self.apart() || one.kind == Kind::Pid).collect(),
            enter: None,
            apart: self.apart(),
            cgroup: cgroup.map(AsFd::as_fd),
        }
    }

    /// Namespaces that the child joins by itself.
    pub(crate) fn child_joins(&self) -> Vec<(BorrowedFd<'_>, u32)> {
        let mut joins = Vec::new();
        if !self.apart() {
            joins.extend(
                self.joined
                    .iter()
                    .filter(|one| one.kind != Kind::Pid)
                    .map(|one| (one.as_fd(), one.kind.flag())),
            );
        }
        joins
    }
}

/// The mappings of a configuration.
pub(crate) fn mappings(spec: &Spec) -> Mappings {
    let linux = spec.linux().as_ref();
    Mappings {
        users: ranges(linux.and_then(|linux| linux.uid_mappings().as_ref())),
        groups: ranges(linux.and_then(|linux| linux.gid_mappings().as_ref())),
    }
}

/// The mappings of the configuration, as ranges.
pub(crate) fn ranges(list: Option<&Vec<LinuxIdMapping>>) -> Vec<Range> {
    let range = |one: &LinuxIdMapping| Range {
        inside: one.container_id(),
        outside: one.host_id(),
        length: one.size(),
    };
    list.into_iter().flatten().map(range).collect()
}

/// The capabilities that a guest can have: all of them in a user namespace of its own, else not more than we do.
pub(crate) fn grantable(user_namespace: bool) -> u64 {
    if user_namespace { u64::MAX } else { capability::permitted() }
}

/// The warnings for capabilities that nobody knows, and for those that the process cannot have.
pub(crate) fn capability_warnings(unknown: &[String], process: &Process, user_namespace: bool) -> Vec<Error> {
    let withheld = crate::plan::process::withheld(process, grantable(user_namespace));
    let warnings = [
        (!unknown.is_empty()).then(|| Error::UnknownCapabilities { names: unknown.to_vec() }),
        (!withheld.is_empty()).then_some(Error::WithheldCapabilities { names: withheld }),
    ];
    warnings.into_iter().flatten().collect()
}
