//! Networks that other programs make for a context: plugins of CNI, or one that carries what an ordinary user's context
//! sends. What they have made, they take away, by `delete` and after any death of ours.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use vctx_context::watch::Watch;
use vctx_netns::cni::{Attachment, Attachments, Configuration};
use vctx_netns::ports::Publish;
use vctx_netns::resolver::{Reach, usual};
use vctx_netns::usermode::{self, Helper, Program};

use crate::request::Request;
use crate::state::{Context, Store};
use crate::undo::{Step, Undo};
use crate::{Error, Result};

/// Who is to make the network of a new context.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// Plugins.
    Cni {
        /// Where is written down what they have made.
        attachments: Attachments,
        /// What is asked of them. Boxed, for it is larger than the other.
        configuration: Box<Configuration>,
        /// Ports of the machine that lead to the context.
        ports: Vec<Publish>,
        /// The address to have.
        address: Option<std::net::IpAddr>,
        /// Names of the context, its id first.
        names: Vec<String>,
    },
    /// A program that carries it.
    Helper(Helper),
}

/// Who has made the network of a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Maker {
    /// Plugins.
    Cni {
        /// Name of their configuration.
        name: String,
        /// Where is written down what they have made.
        attachments: PathBuf,
    },
    /// A program.
    Program(Program),
}

/// What is held until the context runs.
#[derive(Debug, Default)]
pub(crate) struct Held {
    helper: Option<(Watch, Pid)>,
}

impl Wanted {
    /// What the state says before anything is made.
    pub(crate) fn maker(&self) -> Maker {
        match self {
            Wanted::Cni { configuration, attachments, .. } => {
                Maker::Cni { name: configuration.name.clone(), attachments: attachments.folder().into() }
            }
            Wanted::Helper(helper) => Maker::Program(helper.program),
        }
    }
}

/// Where a context has its own file of names or name servers.
#[must_use]
pub fn file(store: &Store, id: &str, name: &str) -> PathBuf {
    store.root().join(id).join(name)
}

/// Makes the files that the context will see, and clears what an earlier one of the same id has left with plugins.
pub(crate) fn prepare(request: &Request, context: &Context, undo: &mut Undo) -> Result<()> {
    let Some(wanted) = &request.outer else { return Ok(()) };
    undo.push(Step::EndOuter(context.folder.clone(), context.state.id.clone(), wanted.maker()));
    match wanted {
        Wanted::Cni { attachments, .. } => {
            // The state of the one before may have gone with a reboot; what the plugins keep has not.
            if let Some(old) = attachments.of(&context.state.id)? {
                old.delete(attachments)?;
            }
            write(context, "hosts", "")?;
            write(context, "resolv.conf", "")
        }
        Wanted::Helper(helper) => write(context, "resolv.conf", &helper.resolv_conf()),
    }
}

/// Has the plugins make the network of a context whose process is there. Its namespace gets a name, so that they find it
/// when the process has ended: some take their rules away by what they see there.
pub(crate) fn attach(request: &Request, context: &Context, pid: i32) -> Result<()> {
    let Some(Wanted::Cni { attachments, configuration, ports, address, names }) = &request.outer else {
        return Ok(());
    };
    let netns = netns(&context.folder);
    File::create(&netns).map_err(Error::state("make", &netns))?;
    let bound = mount_bind(format!("/proc/{pid}/ns/net"), &netns);
    bound.map_err(|error| Error::state("mount the network namespace at", &netns)(error.into()))?;
    // Processes of other mount namespaces need not see it, nor keep it.
    let _ = mount_change(&netns, MountPropagationFlags::PRIVATE);
    let id = &context.state.id;
    let configuration = configuration.as_ref().clone();
    let mut attachment = Attachment::wanted(configuration, id, netns, ports.clone(), *address);
    attachment.add(attachments)?;
    let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for address in attachment.addresses() {
        hosts.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    // In place: the process has them mounted.
    write(context, "hosts", &hosts)?;
    write(context, "resolv.conf", &attachment.resolv_conf().unwrap_or_else(|| usual(Reach::NoLoopback)))
}

/// Starts the program that carries the network of a context which has its ids and waits to go on.
pub(crate) fn carry(request: &Request, context: &Context, pid: i32) -> Result<Held> {
    let Some(Wanted::Helper(helper)) = &request.outer else { return Ok(Held::default()) };
    let watch = Watch::new().map_err(Error::Watch)?;
    let copy = watch.copy().map_err(Error::Watch)?;
    let process = helper.start(&context.folder, pid, copy)?;
    Ok(Held { helper: Some((watch, process)) })
}

impl Held {
    /// The context runs: from here on the program ends with it.
    pub(crate) fn follow(self, context: &Context, guest: i32) -> Result<()> {
        let Some((watch, process)) = self.helper else { return Ok(()) };
        if watch.kills(process.as_raw_nonzero().get(), guest).is_err() && context.alive()?.is_none() {
            usermode::end(&context.folder)?;
        }
        // One that lives and hides from us keeps its program until `delete`.
        Ok(())
    }
}

/// Has what others have made for a context taken away.
pub(crate) fn end(folder: &Path, id: &str, maker: &Maker) -> Result<()> {
    match maker {
        Maker::Program(_) => Ok(usermode::end(folder)?),
        Maker::Cni { attachments, .. } => {
            let attachments = Attachments::at(attachments.clone());
            if let Some(attachment) = attachments.of(id)? {
                attachment.delete(&attachments)?;
            }
            let netns = netns(folder);
            match unmount(&netns, UnmountFlags::DETACH) {
                // It is not mounted, or not even there.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
                Err(error) => Err(Error::state("unmount", &netns)(error.into())),
            }
        }
    }
}

/// Repairs: takes away what plugins have made for contexts that are gone, and asks them after those that live. Gives a line
/// for each thing done or wrong.
pub(crate) fn prune(store: &Store, attachments: &Attachments) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for attachment in attachments.list()? {
        let (id, name) = (&attachment.id, &attachment.configuration.name);
        if !store.is_alive(id) {
            attachment.delete(attachments)?;
            done.push(format!("cni:{name}: took away what {id} had, which is gone"));
        } else if let Err(error) = attachment.check() {
            // Its words: some plugins miss what was never asked of them.
            done.push(format!("cni:{name}: {id}: {error}"));
        }
    }
    Ok(done)
}

fn netns(folder: &Path) -> PathBuf {
    folder.join("netns")
}

fn write(context: &Context, name: &str, text: &str) -> Result<()> {
    let path = context.folder.join(name);
    fs::write(&path, text).map_err(Error::state("write", path))
}
