//! What a context is created from: what callers say beside its configuration.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use vctx_context::namespace::Joined;
use vctx_context::terminal;

use crate::Result;
use crate::config::Config;
use crate::network::{self, outer};
use crate::plan::RootFs;
use crate::prepare::Prepare;

/// What is to be created.
#[derive(Debug)]
pub struct Request {
    /// Id of the new context.
    pub id: String,
    /// Its configuration.
    pub config: Config,
    /// Folder of the configuration, absolute; hooks see it.
    pub bundle: PathBuf,
    /// Root file system; absent takes `root.path` of the configuration, below the bundle.
    pub root: Option<RootFs>,
    /// Where the master of a terminal goes, when the configuration asks for one.
    pub console: Option<Console>,
    /// How the program is started.
    pub start: Start,
    /// File that gets the process id.
    pub pid_file: Option<PathBuf>,
    /// Descriptors from 3 on that the guest gets, their number.
    pub preserve: u32,
    /// See [`vctx_context::child::plan::Root::no_pivot`].
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_keyring: bool,
    /// Who makes control groups.
    pub cgroups: Cgroups,
    /// Folders that go with the context.
    pub own: Vec<PathBuf>,
    /// Folders that are made for it, below those, with their permission bits.
    pub folders: Vec<(PathBuf, u32)>,
    /// Empty files in them, whose names say something.
    pub marks: Vec<PathBuf>,
    /// What the caller does when those folders are there and nothing runs yet.
    pub prepare: Option<Prepare>,
    /// Files that lie in the folder of its state: name and content. All may read them where they are mounted.
    pub files: Vec<(String, String)>,
    /// The network namespace that it joins, in place of the one behind the path of the configuration.
    pub joined: Option<Joined>,
    /// The network of ours that it is attached to.
    pub network: Option<network::Wanted>,
    /// The network that others make for it.
    pub outer: Option<outer::Wanted>,
    /// The addresses of the host's own network that it is held to.
    pub shared: Vec<IpAddr>,
}

/// Who takes the master of a terminal.
#[derive(Debug)]
pub enum Console {
    /// The caller listens there (runc's `--console-socket`).
    Listener(PathBuf),
    /// The other end is ours.
    Socket(OwnedFd),
}

impl Console {
    /// Connects where somebody listens. Not before [`vctx_context::exe::protect`]: the process could start anew after it.
    pub(crate) fn connect(self) -> Result<OwnedFd> {
        match self {
            Console::Listener(path) => Ok(terminal::connect_console(&path)?),
            Console::Socket(socket) => Ok(socket),
        }
    }
}

/// How the program of a new context is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// By the verb `start`.
    Wait,
    /// At once.
    Now,
}

/// Who makes control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// We, in the file system. Without the right to, and when no limit is asked for, there are none.
    Files,
    /// systemd: each is a scope.
    Systemd,
    /// Nobody.
    None,
}
