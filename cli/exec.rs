//! `vctx exec`: one more process in a running context.

use std::path::Path;

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec, User};
use vctx_context::terminal;
use vctx_runtime::config::ProcessConfig;
use vctx_runtime::exec::{Executed, Request, target};
use vctx_runtime::request::Console;

use crate::args::{ExecArgs, Global};
use crate::create::store;
use crate::error::Error;
use crate::exit::ExitCode;
use crate::handles;
use crate::log::Log;
use crate::supervise::{Signals, Supervisor};

/// Runs the verb. In the foreground it ends as the process does.
pub(crate) fn run(global: &Global, args: ExecArgs) -> Result<ExitCode, Error> {
    let store = store(global);
    let target = target(&store, &args.id)?;
    let ProcessConfig { process, unknown_capabilities } = process(&args, &target.spec)?;
    let log = Log::new(global);
    log_affinity(&log, &process)?;
    let wants_terminal = process.terminal().unwrap_or(false);
    let mut own_terminal = None;
    let console = match (&args.console_socket, wants_terminal) {
        (Some(path), _) => Some(Console::Listener(path.clone())),
        (None, true) if args.detach => return Err(Error::DetachedTerminal),
        (None, true) => {
            let (ours, theirs) = terminal::pair().map_err(vctx_runtime::Error::from)?;
            own_terminal = Some(ours);
            Some(Console::Socket(theirs))
        }
        (None, false) => None,
    };
    let request = Request {
        process,
        unknown_capabilities,
        console,
        pid_file: args.pid_file.clone(),
        preserve: handles::preserve(args.preserve_fds)?,
        cgroup: args.cgroup.clone(),
        ignore_paused: args.ignore_paused,
    };
    let signals = if args.detach { None } else { Some(Signals::take()?) };
    let Executed { child, warnings } = vctx_runtime::exec::exec(&store, &target, request)?;
    log.warnings(&warnings);
    handles::send_pidfd(args.pidfd_socket.as_deref(), &child)?;
    match signals {
        None => Ok(ExitCode::SUCCESS),
        Some(signals) => Supervisor::new(signals, child, own_terminal).run(),
    }
}

/// The process: a whole one from a file, or the configuration's with what the options change.
fn process(args: &ExecArgs, spec: &Spec) -> Result<ProcessConfig, Error> {
    if let Some(path) = &args.process {
        return Ok(vctx_runtime::config::read_process(Path::new(path))?);
    }
    let mut process = spec.process().clone().ok_or(Error::NoProcess)?;
    process.set_args(Some(args.command.clone())).set_terminal(Some(args.tty));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    for variable in args.env.iter().filter_map(crate::values::EnvVar::resolve) {
        set_variable(&mut env, variable);
    }
    process.set_env(Some(env));
    if let Some(wanted) = &args.user {
        let mut user = User::default();
        user.set_uid(wanted.uid).set_gid(wanted.gid.unwrap_or(0)).set_umask(process.user().umask());
        process.set_user(user);
    }
    if !args.additional_gids.is_empty() {
        let mut user = process.user().clone();
        user.set_additional_gids(Some(args.additional_gids.clone()));
        process.set_user(user);
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if !args.cap.is_empty() {
        add_capabilities(&mut process, &args.cap);
    }
    Ok(ProcessConfig { process, unknown_capabilities: Vec::new() })
}

/// The CPUs on which the process is born cannot be seen later: it then has those of its control group, or the final ones.
fn log_affinity(log: &Log, process: &Process) -> Result<(), Error> {
    if let Some(words) = vctx_runtime::exec::initial_affinity(process)? {
        let digits: String = words.iter().rev().map(|word| format!("{word:016x}")).collect();
        log.debug(&format!("initial CPU affinity: 0x{}", digits.trim_start_matches('0')));
    }
    Ok(())
}

/// Programs take the first of two variables of one name: a new value has to drive the old one out.
fn set_variable(env: &mut Vec<String>, variable: String) {
    let name = |text: &str| text.split('=').next().map(str::to_owned);
    let own = name(&variable);
    env.retain(|other| name(other) != own);
    env.push(variable);
}

/// Adds capabilities to the sets that a program gets them from. The inheritable and ambient sets stay as they are: a
/// program run by another user must not gain them (CVE-2022-29162).
fn add_capabilities(process: &mut Process, names: &[String]) {
    let mut sets = process.capabilities().clone().unwrap_or_else(|| {
        let mut empty = LinuxCapabilities::default();
        empty
            .set_bounding(None)
            .set_effective(None)
            .set_permitted(None)
            .set_inheritable(None)
            .set_ambient(None);
        empty
    });
    let added: Vec<Capability> =
        names.iter().filter_map(|name| serde_json::from_value(name.as_str().into()).ok()).collect();
    let with = |set: &Option<oci_spec::runtime::Capabilities>| {
        Some(set.iter().flatten().copied().chain(added.iter().copied()).collect())
    };
    let (bounding, effective, permitted) =
        (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    process.set_capabilities(Some(sets));
}
