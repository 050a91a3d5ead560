//! The guest goes for the runtime's own executable (CVE-2019-5736).

use super::guest;
use crate::harness::{Case, Context, Need, case, command, json, rounds, runtime};
use crate::rootless;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub fn cases() -> Vec<Case> {
    vec![
        case!(the_executable_as_entry_point_cannot_be_written),
        case!(the_executable_as_interpreter_cannot_be_written),
        case!(a_writer_that_races_exec_never_gets_the_executable),
        case!(an_executable_of_the_users_cannot_be_made_writable)
            .needs(Need::Vctx)
            .needs(Need::Program("setpriv")),
    ]
}

fn hash(path: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    fs::read(path).unwrap().hash(&mut hasher);
    hasher.finish()
}

/// Guests that spin, one at a time: four of them would leave nothing of two processors for the tests beside them.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that a careless caller could grant: with it, only the runtime's own protection is left, and that may not cost
/// the guest's memory.
fn mighty(context: &mut Context) {
    let all = json!(["CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE", "CAP_FOWNER", "CAP_CHOWN", "CAP_KILL"]);
    context.set("/process/capabilities", json!({ "bounding": all, "effective": all, "permitted": all }));
    context.set("/root/readonly", json!(false));
    context.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
}

/// A guest that opens for writing whatever foreign program it sees run.
fn writer() -> Context {
    let mut context = Context::new();
    mighty(&mut context);
    guest::bring(&mut context);
    context.args(&guest::args("overwrite-executables"));
    context.launch();
    context
}

/// What the writer has to show in the end.
#[track_caller]
fn nothing_was_written(context: &Context, before: u64) {
    fs::write(context.root("stop"), "").unwrap();
    context.wait_stopped();
    let output = context.output();
    assert!(output.contains("refused: none was writable"), "{output}");
    assert!(!output.contains("seen 0\n"), "the attack has met nobody: {output}");
    assert_eq!(hash(runtime()), before);
}

/// A context whose first process the writer can see.
fn beside(writer: &Context) -> Context {
    let mut context = Context::new();
    context.join_namespace("pid", &format!("/proc/{}/ns/pid", writer.pid()));
    context
}

fn the_executable_as_entry_point_cannot_be_written() {
    let _turn = turn();
    let before = hash(runtime());
    let writer = writer();
    for _ in 0..rounds(30) {
        let mut context = beside(&writer);
        context.args(&["/proc/self/exe", "--version"]);
        context.run();
    }
    nothing_was_written(&writer, before);
}

fn the_executable_as_interpreter_cannot_be_written() {
    let _turn = turn();
    let before = hash(runtime());
    let writer = writer();
    for _ in 0..rounds(30) {
        let mut context = beside(&writer);
        let script = context.root("run");
        fs::write(&script, "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        context.args(&["/run"]);
        context.run();
    }
    nothing_was_written(&writer, before);
}

fn a_writer_that_races_exec_never_gets_the_executable() {
    let _turn = turn();
    let before = hash(runtime());
    let writer = writer();
    // Each of these gives the guest a process that runs, or seems to run, the runtime's file.
    for _ in 0..rounds(200) {
        writer.exec(&[], &["/proc/self/exe", "--version"]);
        writer.exec(&[], &["true"]);
    }
    nothing_was_written(&writer, before);
}

/// Nobody may write the file, but it is the user's own, and so is the guest's root: it could permit itself to.
fn an_executable_of_the_users_cannot_be_made_writable() {
    let _turn = turn();
    let script =
        "while ! test -e /tmp/stop; do for p in /proc/[0-9]*; do chmod 777 $p/exe; done; done 2>/dev/null";
    let context = rootless::context(script, rootless::single());
    let copy = context.dir.join("vctx");
    fs::copy(runtime(), &copy).unwrap();
    chown(&copy, Some(rootless::USER), Some(rootless::USER)).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o555)).unwrap();
    let with_copy = |args: &[&str]| {
        let mut own = Command::new(&copy);
        own.args(context.command().get_args()).args(args);
        command::run(&mut rootless::as_user(&context, &own))
    };
    context.write_config();
    with_copy(&["create", "--bundle", context.dir.to_str().unwrap(), &context.id]).ok();
    with_copy(&["start", &context.id]).ok();
    for _ in 0..rounds(40) {
        with_copy(&["exec", &context.id, "/proc/self/exe", "--version"]);
    }
    fs::write(context.root("tmp/stop"), "").unwrap();
    with_copy(&["delete", "--force", &context.id]).ok();
    let mode = fs::metadata(&copy).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o555, "the guest has changed the mode of the executable to {mode:o}");
}
