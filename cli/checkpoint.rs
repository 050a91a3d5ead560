//! `vctx checkpoint` and `vctx restore`: from options to what the runtime takes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vctx_context::criu::Groups;
use vctx_runtime::checkpoint::{Common, Dump, Revival};
use vctx_runtime::request::Start;

use crate::args::{Global, Handles};
use crate::checkpoint_args::{CgroupsMode, CheckpointArgs, Images, RestoreArgs};
use crate::create::{of_bundle, store};
use crate::error::Error;
use crate::exit::ExitCode;
use crate::log::Log;
use crate::native::Native;
use crate::run::{Foreground, live};

/// `vctx checkpoint`.
pub(crate) fn checkpoint(global: &Global, args: CheckpointArgs) -> Result<ExitCode, Error> {
    // A second descriptor for the same file; the caller's own goes with us.
    let open = |number: u32| {
        let opened = File::options().write(true).open(format!("/proc/self/fd/{number}"));
        opened.map_err(|source| Error::StatusDescriptor { number, source })
    };
    let dump = Dump {
        common: common(args.images),
        parent: args.parent_path,
        pre_dump: args.pre_dump,
        leave_running: args.leave_running,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        groups: Some(match args.manage_cgroups_mode {
            CgroupsMode::Soft => Groups::Soft,
            CgroupsMode::Full => Groups::Full,
            CgroupsMode::Strict => Groups::Strict,
            CgroupsMode::Ignore => Groups::Ignore,
        }),
        page_server: args.page_server,
        status: args.status_fd.map(open).transpose()?.map(Into::into),
    };
    let failed = vctx_runtime::checkpoint::checkpoint(&store(global), &args.id, dump)?;
    Log::new(global).warnings(&failed);
    Ok(ExitCode::SUCCESS)
}

/// `vctx restore`.
pub(crate) fn restore(global: &Global, args: RestoreArgs) -> Result<ExitCode, Error> {
    let handles = Handles {
        console_socket: args.console_socket,
        pidfd_socket: None,
        pid_file: args.pid_file,
        preserve_fds: 0,
        no_pivot: args.no_pivot,
        no_new_keyring: false,
    };
    let request = of_bundle(global, &args.id, &args.bundle, &handles, Start::Now)?;
    let revival = Revival {
        common: common(args.images),
        standard: standard().map_err(Error::Output)?,
        tcp_close: args.tcp_close,
        lsm_profile: args.lsm_profile,
        lsm_mount_context: args.lsm_mount_context,
    };
    let foreground = Foreground {
        detach: args.detach,
        no_subreaper: args.no_subreaper,
        pidfd_socket: None,
        print_id: false,
    };
    let asked = Native { request, keep: false, lock: None, volumes: None, warnings: Vec::new() };
    live(global, &foreground, asked, |store, request| {
        vctx_runtime::checkpoint::restore(store, request, &revival)
    })
}

fn standard() -> io::Result<Vec<OwnedFd>> {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    [input.as_fd(), output.as_fd(), error.as_fd()].iter().map(BorrowedFd::try_clone_to_owned).collect()
}

fn common(images: Images) -> Common {
    Common {
        images: images.image_path,
        work: images.work_path,
        tcp_established: images.tcp_established,
        ext_unix_sk: images.ext_unix_sk,
        shell_job: images.shell_job,
        file_locks: images.file_locks,
        lazy_pages: images.lazy_pages,
        auto_dedup: images.auto_dedup,
        empty_network: !images.empty_ns.is_empty(),
    }
}
