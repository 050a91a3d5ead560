//! The command line's types: the one source of parsing, help, man pages and completions.
//!
//! `main.rs` parses them, `argv.rs` first turns Go's spelling of long options into ours, `generate.rs` writes the manuals
//! from them. Names and meanings of the OCI verbs are runc's; the native options of `run` are in `run_args.rs`.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand, ValueEnum};

use vctx_context::cgroup::Subgroup;
use vctx_netns::rate::Change;

use crate::checkpoint_args::{CheckpointArgs, RestoreArgs};
use crate::grants;
use crate::image_args::ImageArgs;
use crate::network_args::NetworkArgs;
use crate::run_args::RunArgs;
use crate::storage_args::{CollectArgs, CopyArgs, CpArgs, DedupArgs, DfArgs, SnapshotArgs, VolumeArgs};
use crate::values::{self, NumericUser, Signal, Size};

/// The version of the OCI runtime specification that vctx implements.
pub(crate) const SPEC_VERSION: &str = "1.3.0";

/// The source revision of this build; the recipe file sets `VCTX_COMMIT`.
pub(crate) const COMMIT: &str = match option_env!("VCTX_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// What `--version` prints after the program's name. Docker reads `version X`, `commit:` and `spec:` line by line.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!("version {}\ncommit: {COMMIT}\nspec: {SPEC_VERSION}", env!("CARGO_PKG_VERSION"))
});

/// Run isolated contexts on one Linux kernel.
///
/// vctx is an OCI runtime with runc's command line, and runs commands in contexts made from the host itself
/// (`vctx run host -- CMD`), an image, a folder, or an OCI bundle. Our own failures exit 125 for `run` and `info`, 255 for
/// `exec`, and 1 for the other verbs; otherwise `run` and `exec` exit as the guest did, 128 plus the signal's number if
/// it was killed.
#[derive(Debug, Parser)]
#[command(name = "vctx", version = VERSION.as_str())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options of every verb; they come before it.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Folder of the contexts' state [default: /run/vctx, or $XDG_RUNTIME_DIR/vctx without root].
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// File that records are appended to [default: standard error].
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Form of the records.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Record the steps taken as well.
    #[arg(long)]
    pub(crate) debug: bool,
    /// Make control groups through systemd; the same as --cgroup-manager systemd.
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Who makes the control groups.
    #[arg(long, value_enum, value_name = "MANAGER", default_value_t = CgroupManager::Cgroupfs)]
    pub(crate) cgroup_manager: CgroupManager,
    /// Go on without control groups that the caller may not write.
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Rootless::Auto)]
    pub(crate) rootless: Rootless,
    /// Print the whole chain of causes of an error.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// The form of log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Who makes control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

/// Whether failures to write control groups are forgiven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rootless {
    Auto,
    True,
    False,
}

/// The verbs, each with its options and its name. clap's own derive would make the options of all of them on every call;
/// so they are made for the one that was called.
macro_rules! verbs {
    ($(#[doc = $about:literal] $verb:ident($args:ident) = $name:literal,)*) => {
        /// What to do.
        #[derive(Debug)]
        pub(crate) enum Verb {
            $(#[doc = $about] $verb(Box<$args>),)*
        }

        impl Subcommand for Verb {
            fn augment_subcommands(command: Command) -> Command {
                command$(.subcommand(Command::new($name).about(about($about)).defer(|command| {
                    $args::augment_args(command).about(about($about))
                })))*
            }

            fn augment_subcommands_for_update(command: Command) -> Command {
                Verb::augment_subcommands(command)
            }

            fn has_subcommand(name: &str) -> bool {
                matches!(name, $($name)|*)
            }
        }

        impl FromArgMatches for Verb {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Verb, clap::Error> {
                Verb::from_arg_matches_mut(&mut matches.clone())
            }

            fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Verb, clap::Error> {
                let (name, mut matches) = matches.remove_subcommand().unwrap_or_default();
                match name.as_str() {
                    $($name => Ok(Verb::$verb(Box::new($args::from_arg_matches_mut(&mut matches)?))),)*
                    _ => Err(clap::Error::new(clap::error::ErrorKind::MissingSubcommand)),
                }
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Verb::from_arg_matches(matches)?;
                Ok(())
            }
        }
    };
}

/// The line of a listing: the documentation without its full stop.
fn about(text: &'static str) -> &'static str {
    text.trim().trim_end_matches('.')
}

verbs! {
    /// Create a context from a bundle, or with --from from an image or a folder; its program waits for `start`.
    Create(CreateArgs) = "create",
    /// Run the program of a created context.
    Start(StartArgs) = "start",
    /// Create a context and run a command in it.
    Run(RunArgs) = "run",
    /// Run one more process in a running context.
    Exec(ExecArgs) = "exec",
    /// Print the state of a context as JSON.
    State(StateArgs) = "state",
    /// Send a signal to the first process of a context.
    Kill(KillArgs) = "kill",
    /// Write a running context to images, by criu.
    Checkpoint(CheckpointArgs) = "checkpoint",
    /// Make a context from a bundle and the images of a checkpoint.
    Restore(RestoreArgs) = "restore",
    /// Remove what a stopped context holds.
    Delete(DeleteArgs) = "delete",
    /// List the processes of a context.
    Ps(PsArgs) = "ps",
    /// Freeze all processes of a context.
    Pause(PauseArgs) = "pause",
    /// Thaw the processes of a paused context.
    Resume(ResumeArgs) = "resume",
    /// Change the limits of a running context.
    Update(UpdateArgs) = "update",
    /// Print statistics and out-of-memory events of a context as JSON lines.
    Events(EventsArgs) = "events",
    /// List the contexts.
    List(ListArgs) = "list",
    /// Write a starting config.json.
    Spec(SpecArgs) = "spec",
    /// Print what this build can do as JSON (runtime-spec, features.md).
    Features(FeaturesArgs) = "features",
    /// Copy files into a context, out of it, or from one to another.
    Cp(CpArgs) = "cp",
    /// Make, list and remove volumes: folders that outlive contexts.
    Volume(VolumeArgs) = "volume",
    /// Keep what a context has changed under a name, and bring it back.
    Snapshot(SnapshotArgs) = "snapshot",
    /// Make a new context that begins as another one is.
    Copy(CopyArgs) = "copy",
    /// Tell what images, contexts, snapshots and volumes take on disk.
    Df(DfArgs) = "df",
    /// Remove what nobody needs: of killed commands, of images, and of volumes where asked.
    Gc(CollectArgs) = "gc",
    /// Let equal files of contexts and images share their place on disk.
    Dedup(DedupArgs) = "dedup",
    /// Take images in and out, list and remove them.
    Image(ImageArgs) = "image",
    /// Tell what this machine offers, what is missing, and which package brings it.
    Info(InfoArgs) = "info",
    /// Define, list, remove and repair networks.
    Network(NetworkArgs) = "network",
}

/// Descriptors, sockets and files that a caller hands over when it creates a context.
#[derive(Debug, Clone, Args)]
pub(crate) struct Handles {
    /// Unix socket that receives the master end of the terminal.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the first process.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// File that the process id is written to.
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Pass N more descriptors to the guest, from 3 (after those of $LISTEN_FDS) upward.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Move the root with MS_MOVE and chroot(2) instead of pivot_root(2), as a root in an initramfs needs.
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Keep the caller's session keyring.
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Folder with config.json and the root.
    #[arg(short, long, value_name = "DIR", default_value = ".", conflicts_with = "from")]
    pub(crate) bundle: PathBuf,
    /// Create it from `host`, an image, a folder with a root file system (./NAME), or debootstrap:SUITE, which is made if it
    /// is not there, in place of a bundle.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) handles: Handles,
    /// Name of the new context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// With --from: command and its arguments [default: what the image says, or a shell].
    #[arg(value_name = "CMD", trailing_var_arg = true, requires = "from")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// File with the process as JSON (the `process` object of config.json).
    #[arg(short, long, value_name = "FILE", conflicts_with = "command")]
    pub(crate) process: Option<PathBuf>,
    /// Working directory in the context.
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// Environment variable as NAME=VALUE; repeatable.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<values::EnvVar>,
    /// Give the process a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User and group as numbers.
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<NumericUser>,
    /// Supplementary group as a number; repeatable.
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// Return as soon as the process runs.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Unix socket that receives the master end of the terminal.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the process.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// File that the process id is written to.
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Pass N more descriptors to the process.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// SELinux label of the process.
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// AppArmor profile of the process.
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// Never gain privileges through execve(2).
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// Add a capability; repeatable.
    #[arg(short, long, value_name = "CAP", value_parser = values::capability)]
    pub(crate) cap: Vec<String>,
    /// Run in an existing control group below the context's, as [CONTROLLER[,CONTROLLER...]:]PATH; repeatable.
    #[arg(long, value_name = "PATH", value_parser = grants::subgroup)]
    pub(crate) cgroup: Vec<Subgroup>,
    /// Start even in a paused context; the process runs when it is resumed.
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Command and its arguments; from its first word on, everything belongs to it.
    #[arg(value_name = "CMD", trailing_var_arg = true, required_unless_present = "process")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Signal every process of the context.
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Signal as a number or a name.
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    pub(crate) signal: Signal,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kill a running context first, and take a missing one as deleted.
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// The form of what is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Table, or a JSON array of process ids.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Options of ps(1) [default: -ef].
    #[arg(value_name = "PS-OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) ps_options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// New limits; what is not named stays as it is.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// File with the limits as JSON (the `resources` object of config.json), `-` for standard input; other options are
    /// ignored then.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// Weight of block I/O, 10 to 1000.
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub(crate) blkio_weight: Option<u16>,
    /// Period of the CPU limit in microseconds.
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<u64>,
    /// CPU time in each period in microseconds, -1 for no limit.
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// CPU time that may be saved up and used above the quota, in microseconds.
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_burst: Option<u64>,
    /// Weight of CPU time against other contexts, 2 to 262144; 1024 is usual.
    #[arg(long, visible_alias = "cpu-shares", value_name = "SHARES")]
    pub(crate) cpu_share: Option<u64>,
    /// Period of the real-time CPU limit in microseconds.
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Real-time CPU time in each period in microseconds.
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// 1 to run only when no one else wants the CPU, 0 to end that.
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(i64).range(0..=1))]
    pub(crate) cpu_idle: Option<i64>,
    /// CPUs to run on, such as 0-3,7.
    #[arg(long, value_name = "CPUS", value_parser = values::cpu_list)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to allocate from, such as 0-1.
    #[arg(long, value_name = "NODES", value_parser = values::cpu_list)]
    pub(crate) cpuset_mems: Option<String>,
    /// Memory limit in bytes, -1 for none.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory: Option<Size>,
    /// Memory that reclaim leaves alone when it can, in bytes.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory_reservation: Option<Size>,
    /// Memory and swap together in bytes, -1 for no limit.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory_swap: Option<Size>,
    /// Taken for the callers' sake; the kernel no longer has this limit.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, hide = true)]
    pub(crate) kernel_memory: Option<Size>,
    /// Taken for the callers' sake; the kernel no longer has this limit.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, hide = true)]
    pub(crate) kernel_memory_tcp: Option<Size>,
    /// Processes and threads at most, -1 for no limit.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) pids_limit: Option<i64>,
    /// What the changes of a native context may take on disk, in bytes; max for no limit.
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk_size: Option<Size>,
    /// Files, folders and links among the changes of a native context; 0 for no limit.
    #[arg(long, value_name = "N")]
    pub(crate) disk_inodes: Option<u64>,
    /// How much it may receive and send, such as in=100mbit,out=none; what is not named stays as it is.
    #[arg(long, value_name = "in=RATE,out=RATE")]
    pub(crate) net_rate: Option<Change>,
    /// Schema of Intel's L3 cache allocation, as resctrl takes it.
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) l3_cache_schema: Option<String>,
    /// Schema of Intel's memory bandwidth allocation, as resctrl takes it.
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) mem_bw_schema: Option<String>,
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Time between two records.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    pub(crate) interval: Duration,
    /// Print the statistics once and exit.
    #[arg(long)]
    pub(crate) stats: bool,
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Table, or a JSON array.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Print the names only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// Folder that config.json is written to.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Write a specification that runs without root.
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) rootless: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FeaturesArgs {}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
