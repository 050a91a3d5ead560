//! What is kept of a context between commands: one folder, named by the id, below the state root.
//!
//! `state.json` is what we know before the first process exists, `process` its id, `config.json` the configuration as it
//! came, `start` the socket on which the first process waits. The folder itself is the lock (`lock`). The status is never written: it
//! follows from the process, the socket and the freezer, so that it cannot be wrong after a crash.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use vctx_context::cgroup::Cgroup;
use vctx_context::namespace::Kind;
use vctx_context::{brief, procfs};

use crate::lock::Lock;
use crate::network::Attached;
use crate::network::outer::Maker;
use crate::plan::RootFs;
use crate::{Error, Result, ancestors};

/// Version of what `state.json` holds.
pub(crate) const FORMAT: u32 = 1;

/// The longest id, in bytes.
const ID_LENGTH: usize = 255;

/// The file that names the first process.
const PROCESS: &str = "process";

/// The folder below which contexts are kept.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    /// It is where the system keeps such folders, and not where a caller wants it.
    is_usual: bool,
}

/// Status of a context (runtime-spec, "State"), and `paused`, which runc has added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "named as in the specification")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// What `state.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Version of this format.
    pub format: u32,
    /// Id.
    pub id: String,
    /// `ociVersion` of the configuration.
    pub oci_version: String,
    /// Bundle, absolute.
    pub bundle: PathBuf,
    /// Root file system, absolute.
    pub rootfs: PathBuf,
    /// When it was created, in seconds since 1970.
    pub created: u64,
    /// Nanoseconds of the same.
    pub created_nanos: u32,
    /// User id of the creator.
    pub owner: u32,
    /// First process, once it exists: id and start time (proc_pid_stat(5), field 22). It is a file of its own, so that
    /// what is known before is written once.
    #[serde(skip)]
    pub process: Option<(i32, u64)>,
    /// Control groups; absent without the right to make them.
    pub cgroup: Option<Cgroup>,
    /// Namespaces that are not the creator's.
    pub namespaces: Vec<Kind>,
    /// Annotations of the configuration.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// The configuration has startContainer or poststart hooks.
    pub has_start_hooks: bool,
    /// The configuration has poststop hooks.
    pub has_poststop: bool,
    /// Folders that are the context's own and go with it: the writable layer of `run host`.
    pub own: Vec<PathBuf>,
    /// The root file system that was made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<RootFs>,
    /// Its processes keep the session keyring of whoever makes them.
    #[serde(default)]
    pub no_keyring: bool,
    /// The configuration has no process: there is nothing to start.
    #[serde(default)]
    pub no_process: bool,
    /// What it has of a network of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Attached>,
    /// Who has made its network, where we have not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Maker>,
    /// The addresses of the host that it is held to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<IpAddr>,
}

/// A context on disk.
#[derive(Debug)]
pub struct Context {
    /// Its folder.
    pub folder: PathBuf,
    /// What is known of it.
    pub state: State,
}

/// The context's first process, alive.
#[derive(Debug)]
pub struct Alive {
    /// Its id.
    pub pid: i32,
    /// Its pidfd: it stays this process whatever happens to the id.
    pub pidfd: OwnedFd,
}

impl Store {
    /// The store at `root`, or at its usual place: `/run/vctx`, and `$XDG_RUNTIME_DIR/vctx` without root.
    #[must_use]
    pub fn new(root: Option<PathBuf>) -> Store {
        let user = rustix::process::geteuid();
        // Engines without root call us as root of their user namespace: /run is not theirs.
        let usual = || match std::env::var_os("XDG_RUNTIME_DIR") {
            _ if user.is_root() && procfs::in_first_user_namespace() => PathBuf::from("/run/vctx"),
            Some(folder) => PathBuf::from(folder).join("vctx"),
            None => PathBuf::from(format!("/tmp/vctx-{}", user.as_raw())),
        };
        Store { is_usual: root.is_none(), root: root.unwrap_or_else(usual) }
    }

    /// The folder below which contexts are kept.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where compiled seccomp filters are kept for the next start: one place for all roots that engines use.
    #[must_use]
    pub fn seccomp_cache(&self) -> PathBuf {
        Store::new(None).root.join(".seccomp")
    }

    /// Takes an id: makes its folder and locks it. What a killed `create` of the same id has left is removed first.
    ///
    /// # Errors
    ///
    /// The id is taken, or the folder cannot be made.
    pub fn reserve(&self, id: &str) -> Result<(PathBuf, Lock)> {
        let folder = self.root.join(id);
        self.check_root()?;
        // Again and again: the folder may be a killed create's, or vanish under a concurrent delete.
        for _ in 0..64 {
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_root()?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::state("make", &folder)(error)),
            }
            check_owner(&folder, Links::Refused)?;
            let Some(lock) = Lock::try_take(&folder).map_err(Error::state("lock", &folder))? else {
                // The creator holds it, or another verb does.
                return Err(Error::Exists { id: id.into() });
            };
            if !lock.is_of(&folder) {
                continue;
            }
            match read_state(&folder) {
                Err(Error::State { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Ok((folder, lock));
                }
                Ok(state) if state.process.is_none() => {
                    crate::delete::clear(&Context { folder: folder.clone(), state })?;
                    return Ok((folder, lock));
                }
                _ => return Err(Error::Exists { id: id.into() }),
            }
        }
        Err(Error::Exists { id: id.into() })
    }

    fn make_root(&self) -> Result<()> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.root);
        made.map_err(Error::state("make the state root", &self.root))?;
        // In a shared folder such as /tmp somebody else could have been first.
        self.check_root()
    }

    /// Nobody else has the root, or can put another in its place.
    fn check_root(&self) -> Result<()> {
        check_owner(&self.root, Links::Followed)?;
        if self.is_usual { Ok(()) } else { ancestors::check(&self.root) }
    }

    /// Finds a context.
    ///
    /// # Errors
    ///
    /// The id is none, or there is no such context.
    pub fn open(&self, id: &str) -> Result<Context> {
        check_id(id)?;
        self.check_root()?;
        self.open_below(id)
    }

    /// Opens a context by an id that is one, in a root that was looked at.
    fn open_below(&self, id: &str) -> Result<Context> {
        let folder = self.root.join(id);
        check_owner(&folder, Links::Refused)?;
        match read_state(&folder) {
            Err(Error::State { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(Error::Absent { id: id.into(), root: self.root.clone() })
            }
            result => result.map(|state| Context { folder, state }),
        }
    }

    /// All contexts, by id. Folders without a readable state are left out.
    ///
    /// # Errors
    ///
    /// The root cannot be read; an absent one holds no context.
    pub fn list(&self) -> Result<Vec<Context>> {
        self.check_root()?;
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(Error::state("read", &self.root))?,
        };
        let mut contexts: Vec<Context> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|id| check_id(id).is_ok())
            .filter_map(|id| self.open_below(&id).ok())
            .collect();
        contexts.sort_by(|one, other| one.state.id.cmp(&other.state.id));
        Ok(contexts)
    }
}

/// An id is a file name: letters, digits and `_+-.`, and not a link to a folder.
///
/// # Errors
///
/// Says which rule is broken.
pub fn check_id(id: &str) -> Result<()> {
    let shown = || id.chars().take(40).collect::<String>();
    let refuse = |reason| Err(Error::Id { id: shown(), reason });
    if id.is_empty() {
        return refuse("it is empty");
    }
    if id.len() > ID_LENGTH {
        return refuse("it is longer than 255 bytes");
    }
    // `.` and `..` are folders, and what else begins so lies beside the contexts: caches, leases.
    if id.starts_with('.') {
        return refuse("it begins with a dot");
    }
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte)) {
        return refuse("it may hold letters, digits and _ + - . only");
    }
    if id.starts_with('-') {
        return refuse("it looks like an option");
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Links {
    Followed,
    Refused,
}

/// A state tells us what to remove, whom to kill and what to enter: it is nobody's but ours or root's to write. An absent
/// folder is nobody's.
fn check_owner(path: &Path, links: Links) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let look = || -> io::Result<bool> {
        let about = fs::symlink_metadata(path)?;
        let target = if about.is_symlink() && links == Links::Followed { fs::metadata(path)? } else { about };
        Ok(target.is_dir() && [0, own].contains(&target.uid()))
    };
    match look() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Foreign { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::state("look at", path)(error)),
    }
}

fn read_state(folder: &Path) -> Result<State> {
    let path = folder.join("state.json");
    let bytes = brief::read(&path).map_err(Error::state("read", &path))?;
    let id = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut state = State::parse(&bytes, &id).map_err(|source| Error::Damaged { path, source })?;
    let path = folder.join(PROCESS);
    state.process = match brief::read(&path) {
        Ok(text) => parse_process(&String::from_utf8_lossy(&text))
            .map_err(|source| Error::Damaged { path, source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::state("read", path)(error)),
    };
    Ok(state)
}

/// `PID START` and a newline. Without the newline its writer was killed, and nobody was told of the process.
pub(crate) fn parse_process(text: &str) -> serde_json::Result<Option<(i32, u64)>> {
    let Some(line) = text.strip_suffix('\n') else { return Ok(None) };
    let numbers =
        line.split_once(' ').and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
    match numbers.filter(|(pid, _)| *pid > 0) {
        Some(process) => Ok(Some(process)),
        None => Err(serde::de::Error::custom(format!("{line:?} is no process"))),
    }
}

impl State {
    /// Reads what `state.json` of the context `id` holds. A state that no `create` has written is an error: signals go to
    /// the process, and folders are removed, that it names.
    pub(crate) fn parse(bytes: &[u8], id: &str) -> serde_json::Result<State> {
        let state: State = serde_json::from_slice(bytes)?;
        let wrong = if state.format != FORMAT {
            Some(format!("format {} is not known to this version", state.format))
        } else if state.id != id {
            Some(format!("it is of {:?}", state.id))
        } else if let Some(folder) = state.own.iter().find(|folder| !is_plain(folder)) {
            Some(format!("{folder:?} is no folder of a context"))
        } else if let Some(Maker::Cni { attachments, .. }) = &state.outer
            && !is_plain(attachments)
        {
            Some(format!("{attachments:?} is no folder of attachments"))
        } else if state.cgroup.as_ref().is_some_and(|cgroup| !cgroup.is_sound()) {
            Some("its control group lies outside the hierarchies".into())
        } else {
            None
        };
        wrong.map_or(Ok(state), |wrong| Err(serde::de::Error::custom(wrong)))
    }
}

/// Absolute, not the root, and without a way up.
fn is_plain(folder: &Path) -> bool {
    folder.is_absolute()
        && folder != Path::new("/")
        && !folder.components().any(|part| part == Component::ParentDir)
}

impl Context {
    /// Writes the state, whole or not at all.
    ///
    /// # Errors
    ///
    /// The folder is full or read-only.
    pub fn write(&self) -> Result<()> {
        let path = self.folder.join("state.json");
        let temporary = self.folder.join("state.json.new");
        let bytes = serde_json::to_vec(&self.state)
            .map_err(|source| Error::Damaged { path: path.clone(), source })?;
        brief::write(&temporary, &bytes).map_err(Error::state("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(Error::state("write", &path))
    }

    /// Writes that the first process exists.
    ///
    /// # Errors
    ///
    /// The folder is full or read-only.
    pub fn write_process(&mut self, pid: i32, start_time: u64) -> Result<()> {
        let path = self.folder.join(PROCESS);
        brief::write(&path, format!("{pid} {start_time}\n").as_bytes())
            .map_err(Error::state("write", path))?;
        self.state.process = Some((pid, start_time));
        Ok(())
    }

    /// Removes the folder.
    ///
    /// # Errors
    ///
    /// It is read-only.
    pub fn remove(&self) -> Result<()> {
        // What a finished start leaves; a folder with more is read.
        for name in ["state.json", PROCESS, "config.json"] {
            let _ = fs::remove_file(self.folder.join(name));
        }
        let gone = fs::remove_dir(&self.folder).or_else(|_| vctx_remove::tree(&self.folder));
        match gone {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::state("remove", &self.folder)(error))
            }
            _ => Ok(()),
        }
    }

    /// The configuration as it came.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// The socket on which the first process waits for `start`.
    #[must_use]
    pub fn start_path(&self) -> PathBuf {
        self.folder.join("start")
    }

    /// Waits for the lock, and reads the state again: what held the lock has changed it.
    ///
    /// # Errors
    ///
    /// The context was deleted meanwhile, or its folder cannot be read.
    pub fn lock(&mut self) -> Result<Lock> {
        self.lock_by(|context| Lock::of(&context.folder))
    }

    /// As [`Context::lock`], with a lock that is taken in another way.
    pub(crate) fn lock_by(&mut self, take: impl FnOnce(&Context) -> Result<Option<Lock>>) -> Result<Lock> {
        let absent = |context: &Context| Error::Absent {
            id: context.state.id.clone(),
            root: context.folder.parent().unwrap_or(Path::new("/")).into(),
        };
        let lock = take(self)?.ok_or_else(|| absent(self))?;
        self.state = match read_state(&self.folder) {
            Err(Error::State { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(absent(self));
            }
            result => result?,
        };
        Ok(lock)
    }

    /// The first process, if it lives.
    ///
    /// # Errors
    ///
    /// procfs cannot be read.
    pub fn alive(&self) -> Result<Option<Alive>> {
        let Some((pid, _)) = self.state.process else { return Ok(None) };
        let Some(raw) = Pid::from_raw(pid) else { return Ok(None) };
        // First the descriptor, then the look at the start time: in this order the id cannot change hands in between.
        let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // No such process, or a thread that has got the number since.
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            // It may well live: what is not known to be dead must not be taken for it.
            Err(error) => return Err(Error::state("look at the process of", &self.folder)(error.into())),
        };
        Ok(self.lives()?.then_some(Alive { pid, pidfd }))
    }

    /// The process of this id is the context's first one, at this moment.
    fn lives(&self) -> Result<bool> {
        let Some((pid, start_time)) = self.state.process else { return Ok(false) };
        let identity = procfs::identity(pid).map_err(Error::Proc)?;
        Ok(identity.is_some_and(|identity| identity.start_time == start_time && !identity.zombie))
    }

    /// The status, as it is now.
    ///
    /// # Errors
    ///
    /// procfs or the freezer cannot be read.
    pub fn status(&self) -> Result<Status> {
        if self.state.process.is_none() {
            return match Lock::try_take(&self.folder) {
                Ok(None) => Ok(Status::Creating),
                Ok(Some(_)) => Ok(Status::Stopped),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Status::Stopped),
                Err(error) => Err(Error::state("lock", &self.folder)(error)),
            };
        }
        self.status_of_process()
    }

    /// The status for who holds the lock: nobody else is creating then.
    ///
    /// # Errors
    ///
    /// As [`Context::status`].
    pub fn status_locked(&self, _lock: &Lock) -> Result<Status> {
        if self.state.process.is_none() { Ok(Status::Stopped) } else { self.status_of_process() }
    }

    fn status_of_process(&self) -> Result<Status> {
        if !self.lives()? {
            return Ok(Status::Stopped);
        }
        if crate::start::is_waiting(&self.start_path())? {
            return Ok(Status::Created);
        }
        match &self.state.cgroup {
            Some(cgroup) if cgroup.is_frozen()? => Ok(Status::Paused),
            _ => Ok(Status::Running),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_no_create_has_written_is_refused() {
        let sound = serde_json::json!({
            "format": 1, "id": "web", "oci_version": "1.3.0", "bundle": "/b", "rootfs": "/b/r", "created": 1,
            "created_nanos": 2, "owner": 0, "namespaces": [], "annotations": {},
            "has_start_hooks": false, "has_poststop": false, "own": ["/run/vctx/.x/web"],
            "cgroup": { "mode": "v2", "v2": { "point": "/sys/fs/cgroup", "dir": "/sys/fs/cgroup/vctx-web" } },
        });
        let parse = |value: &serde_json::Value| State::parse(value.to_string().as_bytes(), "web");
        parse(&sound).unwrap();
        for (place, wrong) in [
            ("/format", serde_json::json!(2)),
            ("/id", "other".into()),
            ("/own/0", "/".into()),
            ("/own/0", "relative".into()),
            ("/own/0", "/run/vctx/../../etc".into()),
            ("/cgroup/v2/dir", "/sys/fs/cgroup".into()),
            ("/cgroup/v2/dir", "/sys/fs/cgroup/../x".into()),
            ("/cgroup/v2/dir", "/etc".into()),
            ("/cgroup", serde_json::json!({ "mode": "v2" })),
        ] {
            let mut state = sound.clone();
            *state.pointer_mut(place).unwrap() = wrong;
            assert!(parse(&state).is_err(), "{state}");
        }
    }

    #[test]
    fn a_process_is_a_whole_line() {
        assert_eq!(parse_process("42 7\n").unwrap(), Some((42, 7)));
        for torn in ["", "4", "42 ", "42 7"] {
            assert_eq!(parse_process(torn).unwrap(), None, "{torn:?}");
        }
        for wrong in ["\n", "-1 7\n", "0 7\n", "42\n", "42 7 1\n", "a b\n"] {
            assert!(parse_process(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_id_is_a_plain_file_name() {
        for good in ["a", "web-1", "a.b_c+d", "0"] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", ".networks", "a/b", "../x", "a b", "-x", "a\nb", "é", &"x".repeat(1024)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
