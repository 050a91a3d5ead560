//! The options of `vctx checkpoint` and `vctx restore`, which are runc's; part of `args.rs`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::values::ValueError;

/// What is said of both alike.
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Folder of the images.
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    pub(crate) image_path: PathBuf,
    /// Folder of criu's log [default: that of the images].
    #[arg(long, value_name = "DIR")]
    pub(crate) work_path: Option<PathBuf>,
    /// Take established TCP connections along.
    #[arg(long)]
    pub(crate) tcp_established: bool,
    /// Let Unix sockets lead out of the context.
    #[arg(long)]
    pub(crate) ext_unix_sk: bool,
    /// Take a context that has the session or the terminal of its caller.
    #[arg(long)]
    pub(crate) shell_job: bool,
    /// Take file locks along.
    #[arg(long)]
    pub(crate) file_locks: bool,
    /// Bring memory when it is asked for, through userfaultfd(2).
    #[arg(long)]
    pub(crate) lazy_pages: bool,
    /// Take pages out of an earlier checkpoint that are in this one.
    #[arg(long)]
    pub(crate) auto_dedup: bool,
    /// Leave the content of this namespace to the caller; repeatable.
    #[arg(long, value_enum, value_name = "NAMESPACE")]
    pub(crate) empty_ns: Vec<EmptyNamespace>,
}

/// A namespace that criu can leave empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EmptyNamespace {
    Network,
}

/// What is written of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupsMode {
    Soft,
    Full,
    Strict,
    Ignore,
}

// Podman gives an option twice, which Go's parsers take.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct CheckpointArgs {
    #[command(flatten)]
    pub(crate) images: Images,
    /// Folder of an earlier checkpoint, relative to --image-path: only the memory that has changed is written.
    #[arg(long, value_name = "DIR")]
    pub(crate) parent_path: Option<PathBuf>,
    /// Write the memory only, for a checkpoint to come; the context goes on.
    #[arg(long)]
    pub(crate) pre_dump: bool,
    /// The context goes on.
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// Leave connections out that are only being made.
    #[arg(long)]
    pub(crate) tcp_skip_in_flight: bool,
    /// Give open files that have lost their name one for the time being.
    #[arg(long)]
    pub(crate) link_remap: bool,
    /// Send the memory to a page server of criu's.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = server)]
    pub(crate) page_server: Option<(String, u16)>,
    /// Descriptor that gets a byte when lazy pages can be asked for.
    #[arg(long, value_name = "FD")]
    pub(crate) status_fd: Option<u32>,
    /// What is written of control groups.
    #[arg(long, value_enum, value_name = "MODE", default_value_t = CgroupsMode::Soft)]
    pub(crate) manage_cgroups_mode: CgroupsMode,
    /// Name of the context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

// Podman gives an option twice, which Go's parsers take.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) images: Images,
    /// Folder with config.json and the root.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Unix socket that receives the master end of the terminal.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// File that the process id is written to.
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Return as soon as the context runs.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Do not become the parent of the guest's orphans.
    #[arg(long)]
    pub(crate) no_subreaper: bool,
    /// Taken for the callers' sake: criu changes the root by itself.
    #[arg(long, hide = true)]
    pub(crate) no_pivot: bool,
    /// Close TCP connections.
    #[arg(long)]
    pub(crate) tcp_close: bool,
    /// Taken for the callers' sake: the processes are in the control groups of the new context, whatever the images say.
    #[arg(long, value_enum, value_name = "MODE", hide = true)]
    pub(crate) manage_cgroups_mode: Option<CgroupsMode>,
    /// Security label of the processes, as apparmor:PROFILE or selinux:LABEL.
    #[arg(long, value_name = "LABEL")]
    pub(crate) lsm_profile: Option<String>,
    /// SELinux label of mounts.
    #[arg(long, value_name = "LABEL")]
    pub(crate) lsm_mount_context: Option<String>,
    /// Name of the new context.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// The address and the port of a page server.
fn server(text: &str) -> Result<(String, u16), ValueError> {
    let (address, port) = text.rsplit_once(':').ok_or(ValueError::Server)?;
    match port.parse() {
        Ok(port) if port > 0 && !address.is_empty() => Ok((address.to_owned(), port)),
        _ => Err(ValueError::Server),
    }
}
