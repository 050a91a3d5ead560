//! The options of `vctx run`, in groups; part of `args.rs`.
//!
//! One type for two forms: with `--bundle` it is runc's (`run -b BUNDLE ID`), without it the native one
//! (`run TARGET [-- CMD...]`), where TARGET is `host`, an image or a folder. Options of the native form conflict with `--bundle`
//! by group, so that none is silently ignored. Some fifty options take time and memory to make: for the bundle's
//! form, which engines call, the native ones are left out until there is something to be said of them.

use std::ffi::OsString;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{ArgMatches, Args, Command, FromArgMatches, Parser, ValueEnum};
use vctx_netns::Network;
use vctx_netns::ports::Publish;
use vctx_netns::rate::Change;
use vctx_netns::resolver::{Asked, Entry, Word};

use crate::args::{CreateArgs, Handles};
use crate::grants::{
    self, DeviceSpec, IdMap, IoMax, Landlock, MountSpec, Seccomp, SecurityOpt, Share, TimeOffset,
};
use crate::values::{self, Cpus, EnvVar, KeyValue, Rlimit, Size, User};

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Run the OCI bundle in this folder; TARGET is then the name of the context.
    #[arg(short, long, value_name = "DIR", conflicts_with = "command")]
    pub(crate) bundle: Option<PathBuf>,
    /// Return as soon as the program runs.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep the state of the context after it ends, until it is deleted.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not become the parent of the guest's orphans.
    #[arg(long)]
    pub(crate) no_subreaper: bool,
    #[command(flatten)]
    pub(crate) handles: Handles,
    #[command(flatten)]
    pub(crate) process: Native<Process>,
    #[command(flatten)]
    pub(crate) limits: Native<Limits>,
    #[command(flatten)]
    pub(crate) mounts: Native<Mounts>,
    #[command(flatten)]
    pub(crate) security: Native<Security>,
    /// `host`, an image, a folder with a root file system (./NAME), or with --bundle the name of the context.
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
    /// Command and its arguments; from its first word on, everything belongs to it.
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    pub(crate) command: Vec<String>,
}

/// The native options are not made.
static BUNDLE_ONLY: AtomicBool = AtomicBool::new(false);

/// From here on the native options are made, unless the words have `run` and its `--bundle`.
pub(crate) fn expect(words: &[OsString]) {
    let ours = || words.iter().take_while(|word| *word != "--").filter_map(|word| word.to_str());
    let bundle = |word: &str| {
        let word = word.split_once('=').map_or(word, |(option, _)| option);
        matches!(word, "-b" | "--bundle" | "-bundle")
    };
    BUNDLE_ONLY.store(ours().any(|word| word == "run") && ours().any(bundle), Ordering::Relaxed);
}

/// From here on the native options are made; false when they were before.
pub(crate) fn expect_all() -> bool {
    BUNDLE_ONLY.swap(false, Ordering::Relaxed)
}

/// A group of options of the native form.
#[derive(Debug)]
pub(crate) struct Native<T>(T);

impl<T> Deref for Native<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Args + Default> Args for Native<T> {
    fn augment_args(command: Command) -> Command {
        if BUNDLE_ONLY.load(Ordering::Relaxed) { command } else { native::<T>(command) }
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Makes a group. A function takes its stack when it is entered, here four pages: the bundle's form is not to have them.
#[inline(never)]
fn native<T: Args>(command: Command) -> Command {
    let command = T::augment_args(command);
    match T::group_id() {
        Some(group) => command.mut_arg("bundle", |bundle| bundle.conflicts_with(group)),
        None => command,
    }
}

impl<T: FromArgMatches + Default> FromArgMatches for Native<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        let left_out = BUNDLE_ONLY.load(Ordering::Relaxed);
        Ok(Native(if left_out { T::default() } else { T::from_arg_matches_mut(matches)? }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl RunArgs {
    /// Those of `create --from`: all as usual, but for what it takes itself.
    pub(crate) fn of(args: &CreateArgs, source: &str) -> RunArgs {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            run: RunArgs,
        }
        expect_all();
        let words = ["vctx", "--detach", "--name", &args.id, "--", source].map(str::to_owned);
        let mut run = Line::parse_from(words).run;
        run.command.clone_from(&args.command);
        run.handles.clone_from(&args.handles);
        run
    }
}

/// The guest's first process, and the context's name and lifetime.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Process")]
#[group(id = "Process", multiple = true)]
pub(crate) struct Process {
    /// Name of the context [default: one is made up].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Delete the context and its changes when it ends; not with --detach, for nobody waits for its end then.
    #[arg(long, conflicts_with_all = ["detach", "keep"])]
    pub(crate) rm: bool,
    /// Give the guest a terminal [default: if standard input and output are one].
    #[arg(short, long, overrides_with = "no_tty")]
    pub(crate) tty: bool,
    /// Give the guest no terminal.
    #[arg(short = 'T', long, overrides_with = "tty")]
    pub(crate) no_tty: bool,
    /// Taken for habit's sake: standard input is always passed on.
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Environment variable as NAME=VALUE, or NAME for the caller's value; repeatable.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<EnvVar>,
    /// File of environment variables, one a line; repeatable.
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory in the context.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// Program of an image to execute, before the command; empty for none [default: what the image says].
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// User and group in the context, by name or number.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<User>,
    /// Host name that the guest sees.
    #[arg(long, value_name = "NAME", value_parser = values::host_name)]
    pub(crate) hostname: Option<String>,
    /// Annotation of the specification; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<KeyValue>,
    /// Label of the context, for listing; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<KeyValue>,
}

/// What the guest may use of the machine.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Limits")]
#[group(id = "Limits", multiple = true)]
pub(crate) struct Limits {
    /// Memory limit in bytes (suffixes k, m, g, t; max for none).
    #[arg(short, long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory: Option<Size>,
    /// Memory above which the guest is slowed and reclaimed, in bytes.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory_high: Option<Size>,
    /// Memory that is never reclaimed, in bytes.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory_min: Option<Size>,
    /// Swap limit in bytes, beside the memory limit.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) swap: Option<Size>,
    /// CPUs' worth of time, such as 1.5.
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<Cpus>,
    /// Weight of CPU time against other contexts, 1 to 10000; 100 is usual.
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u64).range(1..=10000))]
    pub(crate) cpu_weight: Option<u64>,
    /// CPU time that may be saved up and used above the limit: a duration, or microseconds.
    #[arg(long, value_name = "DURATION", value_parser = values::microseconds)]
    pub(crate) cpu_burst: Option<u64>,
    /// CPUs to run on, such as 0-3,7.
    #[arg(long, value_name = "CPUS", value_parser = values::cpu_list)]
    pub(crate) cpuset: Option<String>,
    /// Memory nodes to allocate from, such as 0-1.
    #[arg(long, value_name = "NODES", value_parser = values::cpu_list)]
    pub(crate) cpuset_mems: Option<String>,
    /// Processes and threads at most, -1 for no limit.
    #[arg(long, visible_alias = "pids-limit", value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(crate) pids: Option<i64>,
    /// Weight of block I/O, 1 to 10000; 100 is usual.
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u16).range(1..=10000))]
    pub(crate) io_weight: Option<u16>,
    /// Ceiling of a block device a second, such as /dev/vda:rbps=10m,wiops=500; repeatable.
    #[arg(long, value_name = "DEVICE:LIMIT=N,...")]
    pub(crate) io_max: Vec<IoMax>,
    /// Resource limit of each process, such as nofile=1024:4096; repeatable.
    #[arg(long, visible_alias = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub(crate) rlimit: Vec<Rlimit>,
    /// What the changes may take on disk, in bytes (suffixes k, m, g, t); the store must be on btrfs, or on ext4 or xfs with prjquota.
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk_size: Option<Size>,
    /// Files, folders and links among the changes, at most.
    #[arg(long, value_name = "N")]
    pub(crate) disk_inodes: Option<u64>,
    /// How willingly the kernel kills the guest when memory runs out, -1000 to 1000.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub(crate) oom_score_adj: Option<i32>,
}

/// What the guest sees of files, devices and network.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Files, devices, network")]
#[group(id = "Mounts", multiple = true)]
pub(crate) struct Mounts {
    /// Throw the changes to the file system away when the context ends.
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Show a path of the host at the same place, writable unless `:ro`; repeatable.
    #[arg(long, value_name = "PATH[:ro]")]
    pub(crate) share: Vec<Share>,
    /// Mount, such as type=bind,source=/data,target=/srv,ro or type=tmpfs,target=/tmp; repeatable.
    #[arg(long, value_name = "FIELD=VALUE,...", value_parser = grants::mount)]
    pub(crate) mount: Vec<MountSpec>,
    /// Show a volume, or a path of the host (`/PATH` or `./PATH`); without SOURCE a volume that goes with the context; repeatable.
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:OPTIONS]", value_parser = grants::volume)]
    pub(crate) volume: Vec<MountSpec>,
    /// Mount fresh memory; repeatable.
    #[arg(long, value_name = "TARGET[:OPTIONS]", value_parser = grants::tmpfs)]
    pub(crate) tmpfs: Vec<MountSpec>,
    /// Make the root read-only.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Give the guest a device of the host; repeatable.
    #[arg(long, value_name = "SOURCE[:TARGET[:rwm]]")]
    pub(crate) device: Vec<DeviceSpec>,
    /// Network: none (loopback only), host, shared (the host's, held to --ip), bridge, one of `vctx network ls`, cni:NAME, ns:PATH or container:ID; without root, bridge is pasta or slirp4netns.
    #[arg(long, visible_alias = "network", value_name = "NET", default_value = "none")]
    pub(crate) net: Network,
    /// Lead ports of this machine to the context, such as 8080:80, 127.0.0.1:53:53/udp or 9000-9009:9000-9009; repeatable.
    #[arg(short, long, value_name = "[ADDRESS:]PORT:PORT[/udp]")]
    pub(crate) publish: Vec<Publish>,
    /// How much the context may receive and send, such as in=100mbit,out=20mbit, in the units of tc.
    #[arg(long, value_name = "in=RATE,out=RATE")]
    pub(crate) net_rate: Option<Change>,
    /// Address to have on the network, of IPv4 or IPv6; the other one has the same number. Of this machine with --net
    /// shared, and repeatable then.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Vec<IpAddr>,
    /// Name server to ask, in place of this machine's; repeatable.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<IpAddr>,
    /// Domain to try short names in, in place of this machine's; repeatable.
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<Word>,
    /// Option of the resolver (resolv.conf(5)), in place of this machine's; repeatable.
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_option: Vec<Word>,
    /// Name that the context finds at an address; repeatable.
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<Entry>,
}

impl Mounts {
    /// What is asked for in place of this machine's resolv.conf.
    pub(crate) fn resolver(&self) -> Asked {
        Asked { servers: self.dns.clone(), search: self.dns_search.clone(), options: self.dns_option.clone() }
    }
}

/// What the guest may do.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Security")]
#[group(id = "Security", multiple = true)]
pub(crate) struct Security {
    /// Add a capability, or ALL; repeatable.
    #[arg(long, value_name = "CAP", value_parser = values::capability, value_delimiter = ',')]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability away, or ALL; repeatable.
    #[arg(long, value_name = "CAP", value_parser = values::capability, value_delimiter = ',')]
    pub(crate) cap_drop: Vec<String>,
    /// All capabilities and devices, no system call filter, no masked paths.
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Security option in the spelling of Docker and Podman; repeatable.
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<SecurityOpt>,
    /// System call filter: default, unconfined, or a profile's file.
    #[arg(long, value_name = "PROFILE")]
    pub(crate) seccomp: Option<Seccomp>,
    /// Refuse all files but those below PATH, which may be read and executed, or what is said: r, rx, rw or rwx; repeatable.
    #[arg(long, value_name = "PATH[:ACCESS]")]
    pub(crate) landlock: Vec<Landlock>,
    /// Kernel parameter of the guest's namespaces; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) sysctl: Vec<KeyValue>,
    /// User namespace: auto makes one, host keeps the caller's [default: auto without root, host with].
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) userns: Option<Userns>,
    /// Range of ids of the guest on the host; u: for users or g: for groups only; repeatable.
    #[arg(long, value_name = "[u:|g:]CONTAINER:HOST:SIZE")]
    pub(crate) idmap: Vec<IdMap>,
    /// Distance of the guest's clock from the host's, such as boottime=-1h; repeatable.
    #[arg(long, value_name = "CLOCK=OFFSET")]
    pub(crate) time_offset: Vec<TimeOffset>,
}

/// Which user namespace a guest gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Userns {
    Auto,
    Host,
}
