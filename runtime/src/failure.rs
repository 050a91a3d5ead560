//! From the child's number and errno to a sentence with a path in it.

use std::ffi::CStr;
use std::io;

use oci_spec::runtime::Spec;
use vctx_context::child::handshake::{Failure, Step};
use vctx_context::child::plan::{Plan, Root, Scene};
use vctx_context::spawn;

use crate::Error;
use crate::state::Context;

/// Makes the error of a spawn that failed.
pub(crate) fn explain(error: spawn::Error, plan: &Plan<'_>) -> Error {
    match error {
        spawn::Error::Step { failure, detail } => step(failure, &detail, plan),
        other => Error::Spawn(other),
    }
}

/// A start that the memory limit has made fail says so.
pub(crate) fn blame_memory(error: Error, spec: &Spec, context: &Context) -> Error {
    let out_of_memory = match &error {
        Error::Spawn(spawn::Error::Died) | Error::CriuLog { .. } => {
            context.state.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills().unwrap_or(0) > 0)
        }
        Error::Step { source, .. } => source.raw_os_error() == Some(libc::ENOMEM),
        Error::Cgroup(error) => error.is_memory_in_use(),
        _ => false,
    };
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let limit = resources.and_then(|resources| resources.memory().as_ref()?.limit());
    match limit.filter(|limit| out_of_memory && *limit > 0) {
        Some(limit) => Error::invalid(
            "linux.resources.memory.limit",
            format!("is {limit} bytes, which is too low for a start; 8 MiB is enough for most"),
        ),
        None => error,
    }
}

fn step(failure: Failure, detail: &str, plan: &Plan<'_>) -> Error {
    let source = io::Error::from_raw_os_error(failure.errno);
    if let Some(program) = plan.process.program()
        && let Some(error) =
            self::program(&failure, detail, &program.to_string_lossy(), plan.process.landlock.is_some())
    {
        return error;
    }
    let mut step = match item(&failure, plan) {
        Some(item) => format!("{} {item}", failure.step.text()),
        None => failure.step.text().to_owned(),
    };
    step.push_str(hint(&failure, plan));
    Error::Step { step, source }
}

/// What to do about a step, where its errno does not say it.
fn hint(failure: &Failure, plan: &Plan<'_>) -> &'static str {
    if !matches!(plan.scene, Scene::New(_)) {
        return "";
    }
    match (failure.step, failure.errno) {
        // Only procfs and sysfs refuse a link at their place; callers know these words.
        (Step::MountTarget, libc::ELOOP) => ", which must be mounted on ordinary directory and not on a link",
        _ => "",
    }
}

/// The program cannot be executed: the words are those by which engines tell 126 from 127. `held` by Landlock it may lack a
/// rule.
pub(crate) fn program(failure: &Failure, detail: &str, program: &str, held: bool) -> Option<Error> {
    let missing = failure.errno == libc::ENOENT;
    let reason = match (failure.step, failure.errno) {
        (Step::Find, libc::ENOENT) if failure.index == 1 => "executable file not found in $PATH".into(),
        (Step::Find | Step::Exec, libc::ENOENT) => "no such file or directory".into(),
        (Step::Exec, libc::EACCES) if held => {
            "permission denied; Landlock may need a rule rx for it, or for its interpreter or loader".into()
        }
        (Step::Find | Step::Exec, libc::EACCES) => "permission denied".into(),
        (Step::Interpreter, _) if detail.is_empty() => {
            "the interpreter that it asks for is missing: no such file or directory".into()
        }
        (Step::Interpreter, _) => format!("its interpreter {detail:?} is missing: no such file or directory"),
        (Step::Find | Step::Exec, errno) => io::Error::from_raw_os_error(errno).to_string().to_lowercase(),
        _ => return None,
    };
    Some(Error::Program { program: program.into(), reason, missing })
}

/// What the step was about.
fn item(failure: &Failure, plan: &Plan<'_>) -> Option<String> {
    let index = usize::from(failure.index);
    let text = |text: &CStr| text.to_string_lossy().into_owned();
    if matches!(failure.step, Step::Cwd | Step::CwdOutside) {
        return Some(text(plan.process.cwd));
    }
    if failure.step == Step::Label {
        let (_, label) = plan.process.label?;
        return Some(String::from_utf8_lossy(label).into_owned());
    }
    if failure.step == Step::Rlimit {
        let (resource, soft, hard) = plan.process.rlimits.get(index)?;
        return Some(format!("number {resource} to {soft}:{hard}"));
    }
    if failure.step == Step::LandlockPath {
        return plan.process.landlock?.rules.get(index).map(|rule| text(rule.path));
    }
    let Scene::New(setting) = plan.scene else { return None };
    if failure.step == Step::Sysctl {
        return setting.sysctl.get(index).map(|(path, _)| text(path));
    }
    let root: &Root<'_> = setting.root;
    match failure.step {
        Step::MountSource
        | Step::MountTarget
        | Step::MountFakeProc
        | Step::MountNotProc
        | Step::MountFlags
        | Step::MountAttach
        | Step::MountCopyUp => {
            let mount = root.mounts.get(index)?;
            Some(match mount.source.path() {
                Some(source) => format!("{} from {}", text(mount.target), text(source)),
                None => text(mount.target),
            })
        }
        Step::Device => root.devices.get(index).map(|device| text(device.path)),
        Step::Link => root.links.get(index).map(|(_, path)| text(path)),
        Step::Mask => root.masked.get(index).map(|path| text(path)),
        Step::ReadonlyPath => root.readonly_paths.get(index).map(|path| text(path)),
        Step::RootSource | Step::RootAttach => Some(text(root.source.path().unwrap_or(root.at))),
        _ => None,
    }
}
