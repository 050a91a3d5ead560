//! The native form of `vctx run`: from its options to a configuration and a root file system, as an engine would write
//! them. From there on the path is the one of a bundle.
//!
//! `target` says what the root is made of, `ids` who the guest is on the host and inside, `mounts` what is mounted in the
//! root, `network` and `outer` what it is attached to, `security` what the guest may do, `limits` what it may use. What the guest gets
//! of the caller's environment is TERM with a terminal, and LANG with `host`, whose locales it shares; everything else is asked for with --env, or said
//! by an image. Its working folder is the caller's where that is shared, else the image's or `/`.

mod ids;
mod limits;
mod mounts;
mod network;
mod outer;
mod security;
mod target;
mod volumes;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use vctx_netns::Network;
use vctx_netns::network::DEFAULT;
use vctx_runtime::config::Config;
use vctx_runtime::network::outer as made;
use vctx_runtime::request::{Console, Request, Start};
use vctx_runtime::state;
use vctx_storage::image::Lock;
use vctx_storage::quota::{self, Limits};

use crate::args::{Global, SPEC_VERSION};
use crate::error::Error;
use crate::grants::Clock;
use crate::handles;
use crate::run_args::RunArgs;
use crate::values::{Signal, Size};
pub(crate) use ids::usual as own_ids;

use ids::Ids;
use target::{Root, Target};
use volumes::Volumes;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A failed step on the way from the options to the configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NativeError {
    #[error(
        "there is no image or folder {0:?}; `vctx image ls` lists the images, and `vctx image pull` or `import` takes one in"
    )]
    Target(String),
    #[error("cannot run in {}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("{} is no folder; give `host`, a folder with a root file system, or -b BUNDLE ID", .0.display())]
    NoFolder(PathBuf),
    #[error("{} is the machine's own root; use `host`, which hides what is not the guest's", .0.display())]
    HostRoot(PathBuf),
    #[error("{option} {}: cannot be used", path.display())]
    HostPath { option: &'static str, path: PathBuf, source: std::io::Error },
    #[error("--share {}: share a folder or file below it", .0.display())]
    ShareAll(PathBuf),
    #[error("--device {}: is no device", .0.display())]
    NoDevice(PathBuf),
    #[error("--env-file {}: cannot be read", path.display())]
    EnvFile { path: PathBuf, source: std::io::Error },
    #[error("--env-file {}: line {line} is no NAME=VALUE", path.display())]
    EnvLine { path: PathBuf, line: usize },
    #[error("--{option} {}: cannot be read as a seccomp profile", path.display())]
    Seccomp { option: &'static str, path: PathBuf, source: std::io::Error },
    #[error("--user: the context's {file} cannot be read")]
    UserFile { file: &'static str, source: std::io::Error },
    #[error(transparent)]
    User(#[from] vctx_context::passwd::Error),
    #[error(
        "--user {0}: without root only ids of the caller's ranges exist inside; root (0) does, and with the package uidmap and a range in /etc/subuid and /etc/subgid all up to its length"
    )]
    Unmapped(u32),
    #[error("--idmap: id 0 of users and of groups must be mapped, for the context is set up by its root")]
    NoRoot,
    #[error("{0} needs root; without it, leave it out, or run vctx as root")]
    NeedsRoot(&'static str),
    #[error(
        "{0} as root works with bundles only (linux.uidMappings); `host` and folders have a user namespace when run by an ordinary user"
    )]
    NoUserNamespace(&'static str),
    #[error("{0} needs cgroup v2, and the controllers here are of v1; --memory, --cpus and --pids work")]
    NeedsV2(&'static str),
    #[error(
        "{} holds the changes of a context that is no longer known; choose another --name, or remove that folder", .0.display()
    )]
    Orphan(PathBuf),
    #[error(
        "the image declares the volume {0:?}, which is no absolute path that stays in it; use an image without"
    )]
    ImageVolume(String),
    #[error("the image declares a volume at {}, and has a link there; mount something at that place with --volume or --tmpfs", .0.display())]
    LinkedVolume(PathBuf),
    #[error(
        "{0:?} is no option of a volume; there are ro, rw, nocopy, nosuid, nodev, noexec, noatime, relatime and those of propagation"
    )]
    VolumeOption(String),
    #[error("cannot copy what the image has at {} into its volume", path.display())]
    FillVolume { path: PathBuf, source: std::io::Error },
    #[error("--disk-size: a context needs some room for its changes; max is no limit")]
    NoDisk,
    #[error("--swap needs --memory: it is counted beside it")]
    SwapAlone,
    #[error("--net {0} is for ordinary users; as root, use --net bridge")]
    ForOrdinaryUsers(&'static str),
    #[error("{0} needs --net bridge or the name of a network")]
    NeedsNetwork(&'static str),
    #[error(
        "--net-rate needs a device of the context's own, which --net bridge and networks of ours give; the host's is not held"
    )]
    NoDeviceToHold,
    #[error("--net shared needs --ip with an address of this machine")]
    NoSharedAddress,
    #[error(
        "--ip: a context has one number on a network, which its addresses of both families end in; give one of them, or --net shared"
    )]
    TwoNumbers,
}

/// What is asked for, and how long what it needs is held.
pub(crate) struct Native {
    pub(crate) request: Request,
    /// The context is kept when it has ended.
    pub(crate) keep: bool,
    /// Keeps the layers of an image until the context has been created.
    pub(crate) lock: Option<Lock>,
    /// The same for its volumes.
    pub(crate) volumes: Option<vctx_storage::volume::Lock>,
    /// What the context will do without.
    pub(crate) warnings: Vec<vctx_runtime::Error>,
}

/// From the options to a request.
pub(crate) fn request(global: &Global, args: &RunArgs) -> Result<Native, Error> {
    let store = crate::create::store(global);
    let name = args.process.name.clone().unwrap_or_else(made_up_name);
    state::check_id(&name)?;
    let (target, lock) = Target::of(global, &args.target)?;
    let ids = Ids::of(args, &target)?;
    let keep = args.keep || !(args.process.rm || args.mounts.ephemeral);
    let mut root = Root::of(global, args, &name, &target, &ids)?;
    is_free(&store, &name, &root.folder)?;
    let limits = disk_limits(args, &root)?;
    let mut volumes = Volumes::of(global, args, &target, &root.folder)?;
    root.folders.extend(volumes.folders.iter().map(|folder| (folder.path.clone(), folder.mode)));
    root.volumes = std::mem::take(&mut volumes.mounts);
    let network = network::wanted(global, args, &name)?;
    let joined = network::joined(global, args, &ids)?;
    let outer = outer::wanted(global, args, &name, &ids)?;
    let mut files = network::files(global, args, &name)?;
    files
        .extend(outer.iter().flat_map(outer::files).map(|(at, file)| (*at, made::file(&store, &name, file))));
    network::put_own(&mut files, &store.root().join(&name), args);
    let net = Net { joined: joined.as_ref().map(|(_, path)| path.as_path()), files };
    let spec = spec(args, &name, &target, &ids, &root, net)?;
    let request = Request {
        id: name,
        config: Config::from_spec(spec)?,
        prepare: volumes.prepare(volumes::store(global), &root, &target, &ids, limits),
        bundle: root.folder.clone(),
        root: Some(root.file_system),
        console: args.handles.console_socket.clone().map(Console::Listener),
        start: Start::Now,
        pid_file: args.handles.pid_file.clone(),
        preserve: handles::preserve(args.handles.preserve_fds)?,
        no_pivot: args.handles.no_pivot,
        no_keyring: args.handles.no_new_keyring,
        cgroups: crate::create::cgroups(global),
        own: vec![root.folder],
        folders: root.folders,
        marks: root.marks,
        files: network::made(args),
        joined: joined.map(|(namespace, _)| namespace),
        network,
        outer,
        shared: network::shared(args)?,
    };
    Ok(Native { request, keep, lock, volumes: volumes.lock, warnings: network::warnings(args) })
}

/// The limits on disk, if the store can hold the context to them.
fn disk_limits(args: &RunArgs, root: &Root) -> Result<Limits, Error> {
    let limits = crate::update::disk_limits(args.limits.disk_size, args.limits.disk_inodes);
    if limits == Limits::default() {
        return Ok(limits);
    }
    if !is_root() {
        return Err(NativeError::NeedsRoot("--disk-size and --disk-inodes").into());
    }
    if limits.bytes == Some(0) && args.limits.disk_size == Some(Size::Bytes(0)) {
        return Err(NativeError::NoDisk.into());
    }
    quota::check(&root.folder, limits)?;
    Ok(limits)
}

/// Nobody has the name, and no changes lie where the new ones will: those of a context whose state is gone, as after the
/// machine was started anew, are not ours to throw away.
fn is_free(store: &state::Store, name: &str, folder: &Path) -> Result<(), Error> {
    match store.open(name) {
        Ok(context) if context.state.process.is_some() => {
            Err(vctx_runtime::Error::Exists { id: name.into() }.into())
        }
        Err(vctx_runtime::Error::Absent { .. }) if folder.exists() => {
            Err(NativeError::Orphan(folder.into()).into())
        }
        // What a killed `create` has left goes when the name is taken.
        _ => Ok(()),
    }
}

/// What the configuration says of the network.
struct Net<'a> {
    /// The namespace of somebody else.
    joined: Option<&'a Path>,
    /// Files that the context sees: where, and what.
    files: Vec<(&'static str, PathBuf)>,
}

fn spec(
    args: &RunArgs,
    name: &str,
    target: &Target,
    ids: &Ids,
    root: &Root,
    net: Net<'_>,
) -> Result<Spec, Error> {
    let terminal = terminal(args);
    let mounts = mounts::Mounts::of(args, target, ids, root, &net.files)?;
    let capabilities = security::capabilities(args);
    let names = vctx_context::capability::names(capabilities);
    let effective: &[String] = if ids.user.uid == 0 { &names } else { &[] };
    let hostname = args.process.hostname.as_deref().unwrap_or_else(|| short(name));
    let mut linux = json!({
        "namespaces": namespaces(args, ids, &net)?,
        "resources": limits::resources(args)?,
        "devices": security::devices(args, ids)?,
        "maskedPaths": if args.security.privileged { Vec::new() } else { mounts.masked },
        "readonlyPaths": security::readonly_paths(args),
        "sysctl": pairs(args.security.sysctl.iter().map(|one| (one.key.clone(), one.value.clone()))),
        "timeOffsets": time_offsets(args),
    });
    if let Some((users, groups)) = ids.mappings() {
        linux["uidMappings"] = users;
        linux["gidMappings"] = groups;
    }
    let mut value = json!({
        "ociVersion": SPEC_VERSION,
        "hostname": hostname,
        "root": { "path": root.at, "readonly": args.mounts.read_only },
        "process": {
            "terminal": terminal,
            "user": { "uid": ids.user.uid, "gid": ids.user.gid, "additionalGids": ids.user.groups },
            "args": command(args, target),
            "env": environment(args, target, terminal)?,
            "cwd": working_folder(args, target, mounts.cwd),
            "capabilities": { "bounding": names, "effective": effective, "permitted": effective },
            "rlimits": limits::rlimits(args),
            "noNewPrivileges": security::no_new_privileges(args),
        },
        "mounts": mounts.list,
        "annotations": annotations(args, target),
        "linux": linux,
    });
    if let Some(score) = args.limits.oom_score_adj {
        value["process"]["oomScoreAdj"] = json!(score);
    }
    security::labels(args, &mut value["process"]);
    let mut spec: Spec = serde_json::from_value(value).map_err(Error::Json)?;
    if let (Some(profile), Some(linux)) = (security::filter(args, capabilities)?, spec.linux_mut()) {
        linux.set_seccomp(Some(profile));
    }
    Ok(spec)
}

/// The kinds are all new, but for what was asked.
fn namespaces(args: &RunArgs, ids: &Ids, net: &Net<'_>) -> Result<Vec<Value>, Error> {
    let mut list: Vec<Value> =
        ["pid", "ipc", "uts", "mount", "cgroup"].iter().map(|kind| json!({ "type": kind })).collect();
    if ids.mappings.is_some() {
        list.push(json!({ "type": "user" }));
    }
    if !args.security.time_offset.is_empty() {
        list.push(json!({ "type": "time" }));
    }
    match (&args.mounts.net, net.joined) {
        (Network::Host | Network::Shared, _) => {}
        (_, Some(path)) => list.push(json!({ "type": "network", "path": path })),
        (Network::Named(name), None) if ids.mappings.is_some() && name != DEFAULT => {
            return Err(NativeError::NeedsRoot("--net with a network of ours").into());
        }
        (_, None) => list.push(json!({ "type": "network" })),
    }
    Ok(list)
}

fn time_offsets(args: &RunArgs) -> HashMap<&'static str, Value> {
    let clock = |clock| match clock {
        Clock::Monotonic => "monotonic",
        Clock::Boottime => "boottime",
    };
    let offset = |seconds: i64, nanoseconds: u32| json!({ "secs": seconds, "nanosecs": nanoseconds });
    let each = args.security.time_offset.iter();
    each.map(|one| (clock(one.clock), offset(one.seconds, one.nanoseconds))).collect()
}

fn annotations(args: &RunArgs, target: &Target) -> HashMap<String, String> {
    let process = &args.process;
    let asked = process.annotation.iter().map(|one| (one.key.clone(), one.value.clone()));
    // Of what an image says, nothing but the signal gets here: annotations choose what the host does.
    let signal = target.settings().map(|settings| &*settings.stop_signal);
    let signal = signal.filter(|signal| signal.parse::<Signal>().is_ok());
    let signal = signal.map(|signal| ("org.opencontainers.image.stopSignal".to_owned(), signal.to_owned()));
    let labels = process.label.iter().map(|one| (format!("vctx.label.{}", one.key), one.value.clone()));
    let target = ("vctx.target".into(), target.to_string());
    pairs(std::iter::once(target).chain(signal).chain(asked).chain(labels).chain(security::landlock(args)))
}

/// Asked for, or that of a share, or the image's.
fn working_folder(args: &RunArgs, target: &Target, shared: PathBuf) -> PathBuf {
    let of_image = target.settings().map(|settings| Path::new("/").join(&settings.working_dir));
    let own = if shared == Path::new("/") { of_image } else { None };
    args.process.workdir.clone().or(own).unwrap_or(shared)
}

fn pairs(list: impl Iterator<Item = (String, String)>) -> HashMap<String, String> {
    list.collect()
}

/// Asked for, or where the caller has one itself.
fn terminal(args: &RunArgs) -> bool {
    let process = &args.process;
    let usual = || !args.detach && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    process.tty || (!process.no_tty && usual())
}

/// What is executed: the entry point and the command, each the caller's or else the image's; or else the caller's shell
/// where the guest has it. The command of an image belongs to its own entry point.
fn command(args: &RunArgs, target: &Target) -> Vec<String> {
    let settings = target.settings();
    let (mut words, own_command) = match (&args.process.entrypoint, settings) {
        (Some(entrypoint), _) => (Vec::from_iter((!entrypoint.is_empty()).then(|| entrypoint.clone())), None),
        (None, Some(settings)) => (settings.entrypoint.clone(), Some(&settings.cmd)),
        (None, None) => (Vec::new(), None),
    };
    words.extend_from_slice(if args.command.is_empty() {
        own_command.map_or(&[], Vec::as_slice)
    } else {
        &args.command
    });
    if !words.is_empty() {
        return words;
    }
    let shell = std::env::var("SHELL").ok().filter(|shell| target.has_program(Path::new(shell)));
    vec![shell.unwrap_or_else(|| "/bin/sh".into())]
}

/// Later variables win over earlier ones of the same name: ours, the image's, those of files, those of --env.
fn environment(args: &RunArgs, target: &Target, terminal: bool) -> Result<Vec<String>, Error> {
    let mut list = vec![PATH.to_owned(), "container=vctx".into()];
    let own = |name: &str| std::env::var(name).ok().map(|value| format!("{name}={value}"));
    if terminal {
        list.push(own("TERM").unwrap_or_else(|| "TERM=xterm".into()));
    }
    if target.is_host() {
        list.extend(own("LANG"));
    }
    // A name alone has no value, and is no variable.
    let of_image = target.settings().into_iter().flat_map(|settings| &settings.env);
    let mut asked: Vec<String> =
        of_image.filter(|one| one.find('=').is_some_and(|at| at > 0)).cloned().collect();
    for path in &args.process.env_file {
        let text = std::fs::read_to_string(path)
            .map_err(|source| NativeError::EnvFile { path: path.clone(), source })?;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_start();
            match line.split_once('=') {
                _ if line.is_empty() || line.starts_with('#') => {}
                Some(("", _)) => {
                    return Err(NativeError::EnvLine { path: path.clone(), line: index + 1 }.into());
                }
                Some(_) => asked.push(line.to_owned()),
                None => asked.extend(own(line)),
            }
        }
    }
    for variable in &args.process.env {
        match &variable.value {
            Some(value) => asked.push(format!("{}={value}", variable.name)),
            None => asked.extend(own(&variable.name)),
        }
    }
    for variable in asked {
        let name = variable.split('=').next().unwrap_or_default();
        list.retain(|before| before.split('=').next() != Some(name));
        list.push(variable);
    }
    Ok(list)
}

/// A name that a human can say and type.
fn made_up_name() -> String {
    const FIRST: [&str; 32] = [
        "amber", "bold", "brave", "brisk", "calm", "clear", "coral", "crisp", "dawn", "deep", "early",
        "fair", "fleet", "fresh", "gentle", "green", "happy", "keen", "kind", "light", "lucky", "mild",
        "noble", "plain", "quick", "quiet", "rapid", "ready", "silver", "still", "swift", "warm",
    ];
    const SECOND: [&str; 32] = [
        "alder", "aspen", "badger", "beech", "birch", "cedar", "crane", "dove", "elm", "falcon", "fern",
        "finch", "fir", "fox", "hazel", "heron", "holly", "ivy", "lark", "linden", "lynx", "maple", "marten",
        "oak", "otter", "owl", "pine", "raven", "robin", "rowan", "wren", "yew",
    ];
    // The keys of a fresh state are the kernel's randomness.
    let random = RandomState::new().hash_one(std::process::id());
    let pick = |list: &[&'static str; 32], shift: u32| list[(random >> shift) as usize % list.len()];
    format!("{}-{}-{:04x}", pick(&FIRST, 0), pick(&SECOND, 8), (random >> 16) & 0xffff)
}

/// The kernel takes 64 bytes for a host name, and DNS 63 for a label; a name is ASCII.
fn short(name: &str) -> &str {
    name.get(..63).unwrap_or(name)
}

fn is_root() -> bool {
    geteuid().is_root()
}
